"""Whole runs of the tiny configuration: results, exact resume, refusals."""

import errno
import json
import os
import shutil
import signal

import numpy as np
import pytest

from eln_jax import configuration
from eln_jax.data import pipeline
from eln_jax.data.simulated_errors.simulation import simulate_errors
from eln_jax.data.synthetic import SyntheticSource
from eln_jax.errors import UnreadableFileError, UserError
from eln_jax.training import loop, manifest
from eln_jax.training.bookkeeping import Bookkeeping, phases
from eln_jax.training.checkpoint import Checkpoints
from eln_jax.training.inputs import make_inputs
from eln_jax.training.logging import Progress
from tests.tiny import tiny_config

TIMINGS = ("images_per_second", "seconds_per_step", "data_wait_share")


class CrashError(Exception):
    """Stands for whatever ends a process."""


class CrashingDisplay(Progress):
    """A display on which the run dies at a step, right after the step, before it is logged."""

    def __init__(self, at_step):
        super().__init__()
        self.at_step = at_step

    def update(self, step, figures):
        if step == self.at_step:
            raise CrashError
        super().update(step, figures)


# Rows are means over windows that checkpoints cut, and the student is reset on the way.
HARD = {"log__every": "4", "checkpoint__every": "2", "method__student_reset_every": "2"}


def train(workdir, display=None, resume=loop.Resume(), **changes):  # noqa: B008 (a constant)
    config = tiny_config(**(HARD | changes))
    config_json = configuration.to_json(config)
    display = display or Progress()
    with display:
        return loop.train_and_evaluate(config, config_json, workdir, display, resume)


def rows(workdir):
    """The rows of metrics.jsonl without timings."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(s).items() if k not in TIMINGS} for s in lines]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("unbroken")
    return workdir, train(workdir)


def test_a_run_leaves_what_it_promises(unbroken):
    workdir, outcome = unbroken
    assert outcome.exit_code == 0
    summary = json.loads((workdir / "summary.json").read_text())
    assert set(summary["phases"]) == {"supervised", "eln", "semi_supervised"}
    assert summary["last"]["step"] == 9
    assert 0 <= summary["last"]["teacher/mean_iou"] <= 1
    assert 0 <= summary["last"]["eln/auroc"] <= 1
    for name in ("curves.png", "config.json", "panels/teacher_000009.png", "checkpoints/9"):
        assert (workdir / name).exists(), name
    assert list((workdir / "tensorboard").iterdir())


def test_rows_carry_the_agreed_keys(unbroken):
    last = {row["split"]: row for row in rows(unbroken[0])}
    for key in ("student/mean_iou", "teacher/mean_iou", "eln/auroc", "eln/aupr", "max_prob/auroc",
                "pseudo_label/kept", "pseudo_label/accuracy"):  # fmt: skip
        assert key in last["val"], key
    for key in ("supervised_loss", "aux_loss", "eln_loss", "pseudo_label_loss", "contrastive_loss"):
        assert np.isfinite(last["train"][key]), key


def test_a_run_that_died_in_every_phase_equals_one_that_did_not(unbroken, tmp_path):
    for at_step in (2, 5, 9):
        with pytest.raises(CrashError):
            train(tmp_path, CrashingDisplay(at_step))
        assert len(rows(tmp_path)) < len(rows(unbroken[0]))
    train(tmp_path)
    assert rows(tmp_path) == rows(unbroken[0])


def test_a_damaged_image_is_left_out_by_name(tmp_path, monkeypatch, capsys):
    steps = {"steps__supervised": "3", "steps__eln": "0", "steps__semi_supervised": "0"}
    damaged = make_inputs(tiny_config()).partition.labeled[0]
    read_image = SyntheticSource.read_image

    def read(source, index):
        if index == damaged and len(source) == 12:
            raise UnreadableFileError("image x.png cannot be read.")
        return read_image(source, index)

    monkeypatch.setattr(SyntheticSource, "read_image", read)
    assert train(tmp_path, **steps, method__gate="none").exit_code == 0
    assert capsys.readouterr().out.count("Left out: image x.png cannot be read.") == 1
    with pytest.raises(UserError, match=r"x\.png"):
        train(tmp_path / "b", **steps, method__gate="none", data__max_unreadable="0")


def test_a_validation_image_that_cannot_be_read_costs_no_step(unbroken, tmp_path, monkeypatch):
    read_image = SyntheticSource.read_image

    def read(source, index):
        if len(source) == 4:  # of val
            raise UnreadableFileError("image x.png cannot be read.")
        return read_image(source, index)

    seldom = {"eval__every": "4", "checkpoint__every": "9"}
    monkeypatch.setattr(SyntheticSource, "read_image", read)
    with pytest.raises(UserError, match=r"x\.png"):
        train(tmp_path, **seldom)
    assert Checkpoints(tmp_path).latest_step == 3  # the end of the first phase
    monkeypatch.undo()
    train(tmp_path, **seldom)
    assert rows(tmp_path)[-1] == rows(unbroken[0])[-1]


def test_a_disk_without_room_is_told_before_the_first_step(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=10_000))
    with pytest.raises(UserError, match=r"A checkpoint needs up to .* 0\.0 MB free .*; make room"):
        train(tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_it_says_which_images_play_which_part_and_which_have_changed(unbroken, tmp_path):
    images = json.loads((unbroken[0] / "images.json").read_text())
    partition = make_inputs(tiny_config()).partition
    assert [len(images[p]) for p in ("labeled", "unlabeled", "val")] == [len(p) for p in partition]
    assert images["labeled"] == [f"scene_{index:06}" for index in partition.labeled]
    shutil.copytree(unbroken[0], tmp_path, dirs_exist_ok=True)
    with pytest.raises(UserError, match=r"changed .*labeled: 2 less .scene_.*; labeled: 2 more"):
        train(tmp_path, resume=loop.Resume(force_config=True), data__partition_seed="1")


@pytest.mark.slow
def test_the_eln_learns_from_simulated_errors_that_a_run_that_died_draws_again(
    tmp_path, monkeypatch
):
    drawn_by = []

    def spy(label, rng, simulation, **options):
        drawn_by.append(simulation.confusion)
        return simulate_errors(label, rng, simulation, **options)

    monkeypatch.setattr(pipeline, "simulate_errors", spy)
    changes = {
        "steps__supervised": "2",
        "steps__eln": "3",
        "steps__semi_supervised": "0",
        "method__gate": "none",
        "method__simulated_weight": "0.5",
        "log__every": "1",
    }
    train(tmp_path / "whole", **changes)
    figures = [row for row in rows(tmp_path / "whole") if row["split"] == "train"]
    assert ["simulated_eln_loss" in row for row in figures] == [False] * 2 + [True] * 3
    assert all(np.isfinite(row["simulated_eln_loss"]) for row in figures[2:])
    assert all(0 < row["error_share/simulated"] < 0.6 for row in figures[2:])
    # By what the student took for what after the first phase, whenever the run went on.
    with pytest.raises(CrashError):
        train(tmp_path / "died", CrashingDisplay(5), **changes)
    train(tmp_path / "died", **changes)
    assert rows(tmp_path / "died") == rows(tmp_path / "whole")
    assert drawn_by[0].sum() > 0
    for confusion in drawn_by:
        np.testing.assert_array_equal(confusion, drawn_by[0])


def test_ctrl_c_saves_and_the_run_goes_on(unbroken, tmp_path):
    class Interrupting(Progress):
        def update(self, step, figures):
            if step == 4 and figures:
                signal.raise_signal(signal.SIGINT)
            super().update(step, figures)

    # No checkpoint is due at step 4: what is there afterwards was saved on request.
    outcome = train(tmp_path, Interrupting(), checkpoint__every="100", eval__every="100")
    assert outcome.summary is None
    assert outcome.exit_code == 130
    assert (tmp_path / "checkpoints" / "4").is_dir()
    train(tmp_path, checkpoint__every="100", eval__every="100")
    losses = [
        [r["loss"] for r in rows(w) if r["split"] == "train"] for w in (tmp_path, unbroken[0])
    ]
    assert losses[0] == losses[1]


def test_a_stop_amid_an_evaluation_leaves_no_trace(unbroken, tmp_path):
    class Interrupting(Progress):
        def status(self, text):
            if text == "evaluating the student: 4":
                signal.raise_signal(signal.SIGTERM)

    outcome = train(tmp_path, Interrupting())
    assert outcome.exit_code == 143
    assert rows(tmp_path) == []
    train(tmp_path)
    assert rows(tmp_path) == rows(unbroken[0])


def test_a_diverged_run_stops_and_says_so(tmp_path):
    changes = {"optim__learning_rate": "1e12", "steps__eln": "0", "steps__semi_supervised": "0"}
    with pytest.raises(UserError, match=r"diverged.* lower optim\.learning_rate"):
        train(tmp_path, **changes)
    assert not (tmp_path / "checkpoints" / "3").exists()
    (kept,) = (tmp_path / "diverged").iterdir()
    batch = np.load(kept / "batch.npz")
    assert batch["labeled/image"].dtype == np.uint8
    assert batch["labeled/image"].shape == (4, 32, 32, 3)
    assert batch["labeled/label"].shape == (4, 32, 32)
    assert (kept / "batch.png").exists()
    assert json.loads((kept / "figures.json").read_text())["loss"] in ("nan", "inf")
    assert (kept / "state").is_dir()


def test_an_exploding_loss_is_left_out_so_often_and_no_more(tmp_path, capsys):
    changes = {"divergence__loss_limit": "0.001", "divergence__max_skipped_steps": "2"}
    with pytest.raises(UserError, match=r"at step 3; .*diverged/step_3"):
        train(tmp_path, **changes)
    told = capsys.readouterr().out.replace("\n", " ")
    assert "Left out, 1 of at most 2: the loss is" in told
    assert "Left out, 2 of at most 2" in told
    assert [p.name for p in sorted((tmp_path / "diverged").iterdir())] == [
        "step_1",
        "step_2",
        "step_3",
    ]
    assert not (tmp_path / "diverged" / "step_2" / "state").exists()


def test_a_config_that_was_forced_goes_on_but_not_with_another_network(unbroken, tmp_path):
    workdir = tmp_path / "forced"
    shutil.copytree(unbroken[0], workdir)
    force = loop.Resume(force_config=True)
    with pytest.raises(UserError, match=r"of another network, .* is float32\[.* there, "):
        train(workdir, resume=force, model__eln_width="8")
    assert (workdir / "config.json").read_bytes() == (unbroken[0] / "config.json").read_bytes()
    longer = {"steps__semi_supervised": "4"}
    assert train(workdir, resume=force, **longer).summary["last"]["step"] == 10
    assert json.loads((workdir / "config.json.before_step_9").read_text())["steps"] == {
        "supervised": 3,
        "eln": 3,
        "semi_supervised": 3,
    }
    assert train(workdir, **longer).exit_code == 0


def test_a_save_that_fails_ends_the_run_and_the_next_start_goes_on(unbroken, tmp_path, monkeypatch):
    def fail(folder):
        if folder.name.startswith("4."):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(folder)

    write = manifest.write
    monkeypatch.setattr("eln_jax.training.manifest.write", fail)
    with pytest.raises(UserError, match=r"step 4 cannot be written .*No space left"):
        train(tmp_path)
    assert sorted(p.name for p in (tmp_path / "checkpoints").glob("?")) == ["2", "3"]
    monkeypatch.undo()
    train(tmp_path)
    assert rows(tmp_path) == rows(unbroken[0])


def test_a_damaged_checkpoint_costs_but_the_steps_since_the_one_before(unbroken, tmp_path):
    with pytest.raises(CrashError):
        train(tmp_path, CrashingDisplay(7))
    file = max(
        (tmp_path / "checkpoints" / "6" / "state").rglob("*"), key=lambda p: p.stat().st_size
    )
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"step 6 is damaged: .*--previous_if_damaged"):
        train(tmp_path)
    train(tmp_path, resume=loop.Resume(previous_if_damaged=True))
    assert rows(tmp_path) == rows(unbroken[0])


def test_a_start_that_failed_does_not_claim_the_folder(tmp_path):
    short = {"steps__supervised": "1", "steps__eln": "0", "steps__semi_supervised": "0"}
    with pytest.raises(UserError, match="missing"):
        train(tmp_path, model__pretrained="missing.pth", **short)
    assert train(tmp_path, **short).exit_code == 0


def test_a_finished_run_is_not_trained_again(unbroken):
    before = (unbroken[0] / "metrics.jsonl").read_bytes()
    outcome = train(unbroken[0])
    assert outcome.summary["last"]["step"] == 9
    assert (unbroken[0] / "metrics.jsonl").read_bytes() == before


def test_another_configuration_in_the_same_folder_is_refused(unbroken):
    with pytest.raises(UserError, match=r"optim\.learning_rate: 0\.01 -> 0\.02"):
        train(unbroken[0], optim__learning_rate="0.02")


def test_a_workdir_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be used as --workdir"):
        train(tmp_path / "file")


def test_phases_leave_out_empty_ones():
    found = phases({"supervised": 3, "eln": 0, "semi_supervised": 2})
    assert [tuple(p) for p in found] == [("supervised", 0, 3), ("semi_supervised", 3, 5)]


def test_books_go_to_json_and_come_back_equal():
    books = Bookkeeping({"labeled": {"next_batch": 3}}, {"seed": 1})
    books.window = [{"loss": np.float32(0.1)}, {"loss": np.float32(0.3)}]
    books.scores = [{"step": 2, "phase": "eln", "student/mean_iou": 0.5}]
    again = Bookkeeping(**json.loads(json.dumps(books.to_json())))
    assert again == books
    assert again.best()["step"] == 2
    np.testing.assert_allclose(again.close_window()["loss"], 0.2, rtol=1e-6)
    assert again.window == []


def test_the_best_of_equals_is_the_latest():
    books = Bookkeeping({}, {})
    books.scores = [
        {"step": 1, "student/mean_iou": 0.5},
        {"step": 2, "student/mean_iou": 0.4, "teacher/mean_iou": 0.5},
        {"step": 3, "student/mean_iou": None},
    ]
    assert books.best()["step"] == 2
