"""Runs beside which the labelled images alone are trained on."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from eln_jax import configuration
from eln_jax.training import assembly, comparison, loop, validation
from eln_jax.training.checkpoint import Checkpoints
from eln_jax.training.interruption import StopRequest
from eln_jax.training.logging import Progress
from tests.tiny import tiny_config

# Evaluated as the official code does, which no other test does from end to end.
FIELDS = {
    "compare_supervised": "true",
    "eval__protocol": "warp",
    "eval__every": "9",
    "checkpoint__every": "3",
}


def train(workdir):
    config = tiny_config(**FIELDS)
    return comparison.train_all(config, configuration.to_json(config), workdir)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("compared")
    assert train(workdir) == 0
    return workdir


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def test_the_supervised_run_has_as_many_steps_of_one_kind(compared):
    alone = compared / "supervised_only"
    steps = json.loads((alone / "config.json").read_text())["steps"]
    assert steps == {"supervised": 9, "eln": 0, "semi_supervised": 0}
    assert set(summary(alone)["phases"]) == {"supervised"}
    assert summary(alone)["last"]["step"] == summary(compared)["last"]["step"] == 9
    assert "teacher/mean_iou" not in summary(alone)["last"]


def test_warped_evaluation_gives_figures(compared):
    last = summary(compared)["last"]
    for name in ("student/mean_iou", "teacher/mean_iou", "eln/auroc", "pseudo_label/kept"):
        assert 0 <= last[name] <= 1


def test_started_again_it_shows_the_results_without_training(compared, capsys):
    logs = [compared / "metrics.jsonl", compared / "supervised_only" / "metrics.jsonl"]
    before = [path.read_text() for path in logs]
    (compared / "report.html").unlink()
    capsys.readouterr()
    assert train(compared) == 0
    assert [path.read_text() for path in logs] == before
    shown = capsys.readouterr().out
    for words in ("supervised only", "semi-supervised", "AUROC", "summary.json", "panels"):
        assert words in shown
    report = (compared / "report.html").read_text()
    for run in (compared, compared / "supervised_only"):
        figure = f"{100 * summary(run)['last']['student/mean_iou']:.1f}"
        assert figure in shown
        assert f"<b>{figure} <small>%" in report
    for words in ("Losses", "IoU of each class", "Confusion", "supervised only", "Configuration"):
        assert words in report


def test_a_report_that_cannot_be_written_costs_nothing(compared, capsys):
    report = compared / "report.html"
    report.unlink(missing_ok=True)
    report.mkdir()
    capsys.readouterr()
    assert train(compared) == 0
    report.rmdir()
    assert "not written (IsADirectoryError" in capsys.readouterr().out
    assert summary(compared)["last"]["step"] == 9


def losses(folder, name="supervised_loss"):
    """The logged value of each step."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row[name] for row in rows if row["split"] == "train"}


def test_both_runs_begin_alike_and_part_with_the_first_phase(compared):
    whole, alone = losses(compared), losses(compared / "supervised_only")
    assert list(whole) == list(alone) == list(range(1, 10))
    # The same weights, images and learning rates, so that only the method makes a difference.
    assert [whole[step] for step in (1, 2, 3)] == [alone[step] for step in (1, 2, 3)]
    assert whole[9] != alone[9]


def test_the_runs_differ_in_their_steps_and_the_comparison_alone(compared):
    configs = [
        json.loads((folder / "config.json").read_text())
        for folder in (compared, compared / "supervised_only")
    ]
    assert configs[0].pop("steps") == {"supervised": 3, "eln": 3, "semi_supervised": 3}
    del configs[1]["steps"]
    assert configs[0].pop("compare_supervised")
    assert not configs[1].pop("compare_supervised")
    assert configs[0] == configs[1]


def test_only_what_is_missing_of_the_second_run_is_trained(compared, tmp_path, monkeypatch):
    shutil.copytree(compared, tmp_path, dirs_exist_ok=True)
    alone = tmp_path / "supervised_only"
    shutil.rmtree(alone / "checkpoints" / "9")
    (alone / "summary.json").unlink()
    trained, step = [], loop.Run.train_step

    def counted(run, phase):
        trained.append((run.workdir, run.step, phase.name))
        step(run, phase)

    monkeypatch.setattr(loop.Run, "train_step", counted)
    assert train(tmp_path) == 0
    assert trained == [(alone, step, "supervised") for step in (6, 7, 8)]
    assert losses(alone, "loss") == losses(compared / "supervised_only", "loss")
    assert summary(alone)["last"] == summary(compared / "supervised_only")["last"]


class Warped:
    """A source whose scenes were warped to a size beforehand."""

    def __init__(self, source, height, width):
        self.source, self.ids, self.size = source, source.ids, (width, height)

    def read_image(self, index):
        image = Image.fromarray(self.source.read_image(index))
        return np.asarray(image.resize(self.size, Image.Resampling.BILINEAR))

    def read_label(self, index):
        label = Image.fromarray(self.source.read_label(index))
        return np.asarray(label.resize(self.size, Image.Resampling.NEAREST))


@pytest.fixture(scope="module")
def evaluated_again(compared, tmp_path_factory):
    """Figures of the trained weights by protocol, and of scenes of the crop's size."""
    parts = assembly.build(tiny_config(**FIELDS, log__panel_images="0"))
    state, _ = Checkpoints(compared).restore(parts.programs.abstract_state())
    folder = tmp_path_factory.mktemp("evaluated_again")
    small = dataclasses.replace(parts.data, val=Warped(parts.data.val, 32, 32))
    found = {}
    for name, protocol, data in (
        ("warp", "warp", parts.data),
        ("original", "original", parts.data),
        ("small", "original", small),
    ):
        config = tiny_config(**FIELDS | {"eval__protocol": protocol}, log__panel_images="0")
        changed = dataclasses.replace(parts, config=config, data=data)
        found[name] = validation.validate(
            changed, state, "semi_supervised", folder, None, StopRequest(), Progress()
        )
    return found


def test_the_checkpoint_has_the_figures_of_the_summary(compared, evaluated_again):
    last, again = summary(compared)["last"], evaluated_again["warp"]
    undefined = {name for name, value in again.items() if value is None}
    assert {name for name in again if last[name] is None} == undefined
    defined = again.keys() - undefined
    assert {name: last[name] for name in defined} == pytest.approx(
        {name: again[name] for name in defined}, rel=1e-6
    )


def test_warping_equals_scenes_that_were_warped_before(evaluated_again):
    # Those have the size of the crop, so that at original size nothing is padded either.
    assert evaluated_again["small"] == evaluated_again["warp"]


def test_the_protocols_measure_different_things_by_the_same_names(evaluated_again):
    warp, original = evaluated_again["warp"], evaluated_again["original"]
    assert warp.keys() == original.keys()
    assert warp["teacher/mean_iou"] != original["teacher/mean_iou"]
    for figures in (warp, original):
        for name in ("student/mean_iou", "teacher/mean_iou", "eln/auroc", "max_prob/auroc"):
            assert 0 <= figures[name] <= 1


SUMMARY = {
    "last": {"student/mean_iou": 0.25, "student/iou/sky": 0.25},
    "class_names": ["sky"],
    "seconds": 1.0,
}


@pytest.fixture
def played(tmp_path, monkeypatch):
    """Runs `train_all` with runs that end as told; returns its exit code and the runs."""

    def play(outcomes, **changes):
        config, runs, ends = tiny_config(**changes), [], iter(outcomes)

        def run(config, config_json, workdir, _display, _resume=None):
            steps = config.steps.to_dict()
            assert json.loads(config_json)["steps"] == steps
            runs.append((workdir, [steps[n] for n in ("supervised", "eln", "semi_supervised")]))
            return next(ends)

        monkeypatch.setattr(loop, "train_and_evaluate", run)
        code = comparison.train_all(config, configuration.to_json(config), tmp_path)
        return code, [(str(path.relative_to(tmp_path)), steps) for path, steps in runs]

    return play


FINISHED, STOPPED = loop.Outcome(SUMMARY, 0), loop.Outcome(None, 143)


def test_a_stop_of_either_run_ends_both_without_results(played, capsys):
    assert played([STOPPED], compare_supervised="true") == (143, [(".", [3, 3, 3])])
    code, runs = played([FINISHED, STOPPED], compare_supervised="true")
    assert code == 143
    assert runs == [(".", [3, 3, 3]), ("supervised_only", [9, 0, 0])]
    assert "Results" not in capsys.readouterr().out


@pytest.mark.parametrize(("last", "title"), [(3, "semi-supervised"), (0, "supervised")])
def test_without_comparison_there_is_one_run_by_its_name(played, capsys, last, title):
    code, runs = played([FINISHED], steps__semi_supervised=str(last))
    assert (code, runs) == (0, [(".", [3, 3, last])])
    shown = capsys.readouterr().out
    lines = [[cell.strip() for cell in line.split("|")] for line in shown.splitlines()]
    assert ["", title, "student", "25.0", "", "", "1 s", ""] in lines
    assert "supervised only" not in shown
