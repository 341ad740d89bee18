"""A whole study of the tiny kind: what is shared, skipped, gone on with and written down."""

import dataclasses
import errno
import json
import shutil

import numpy as np
import pytest

from eln_jax import configuration, study
from eln_jax.data.pipeline import read_examples
from eln_jax.data.progress import Progress as Bar
from eln_jax.errors import StorageError, UnreadableFileError, UserError
from eln_jax.studies import detectors, plan, running
from eln_jax.studies.study_file import load_study
from eln_jax.training import assembly, loop
from eln_jax.training.checkpoint import Checkpoints
from eln_jax.training.logging import Progress
from eln_jax.training.validation import make_predictor
from tests.studies.plan_test import ALONE, ERRORS, by_arm, write_study
from tests.training.loop_test import rows

ARMS = {
    "alone": ALONE,
    "none": {"method.gate": "none", "method.eln_in_semi_supervised": False},
}
# Its state has more than the trunk's that it begins from.
CALIBRATED = {
    "method.gate": "class_calibrated",
    "method.gate_threshold": 0.3,
    "method.gate_fit_every": 2,
}
# Its networks are others than the first trunk's.
OPINION = ARMS["none"] | {
    "model.eln_second_opinion": True,
    "model.num_aux_decoders": 0,
    "method.loss_ceilings": (),
}
TRAININGS = 4  # with two trunks


def command(folder, arms=ARMS):
    path = write_study(folder, arms=arms, seeds=(0,))
    return [f"--config={path}", f"--output={folder / 'out'}"]


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studied")
    assert study.main(command(folder)) == 0
    return folder


def runs_of(folder):
    return plan.make_runs(load_study(str(folder / "study.py")), ())


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["alone", "calibrated", "opinion", "errors"])
def test_an_arm_is_the_run_that_it_would_have_been_alone(studied, tmp_path, arm):
    shutil.copytree(studied / "out", tmp_path / "out")
    more = {"calibrated": CALIBRATED, "opinion": OPINION, "errors": ERRORS}
    assert study.main(command(tmp_path, ARMS | more)) == 0
    config = by_arm(runs_of(tmp_path))[arm].config
    with Progress() as display:
        loop.train_and_evaluate(config, configuration.to_json(config), tmp_path / "run", display)
    own, single = tmp_path / "out" / "seed_0" / arm, tmp_path / "run"
    found, expected = rows(own), rows(single)
    if arm == "alone":  # the trunk that it shares ended with an evaluation
        shared = [row for row in found if (row["split"], row["step"]) == ("val", 3)]
        assert len(shared) == 1
        found.remove(shared[0])
    # The shared phases knew nothing of a gate, by which the ELN's phase was judged.
    for row in found + expected:
        if row["phase"] == "eln":
            for name in [name for name in row if "pseudo_label" in name]:
                del row[name]
    assert found == expected
    assert (own / "config.json").read_text() == (single / "config.json").read_text()
    last = [json.loads((path / "summary.json").read_text())["last"] for path in (own, single)]
    assert last[0] == last[1]


def trained_steps(monkeypatch):
    """Notes the folder and the step of every training step from now on."""
    trained, step = [], loop.Run.train_step

    def counted(run, phase):
        trained.append((run.workdir.name, run.step))
        step(run, phase)

    monkeypatch.setattr(loop.Run, "train_step", counted)
    return trained


def test_started_again_it_writes_the_same_results_without_training(studied, monkeypatch, capsys):
    trained = trained_steps(monkeypatch)
    before = {path.name: path.read_bytes() for path in (studied / "out").glob("results.*")}
    for name in before:
        (studied / "out" / name).unlink()
    assert study.main(command(studied)) == 0
    assert trained == []
    assert {n: (studied / "out" / n).read_bytes() for n in before} == before
    shown = capsys.readouterr().out
    assert f"{TRAININGS} of {TRAININGS} trainings are done already" in shown
    assert "results.md" in shown


def test_a_part_of_the_arms_leaves_the_others_in_the_results(studied, tmp_path):
    shutil.copytree(studied / "out", tmp_path / "out")
    assert study.main([*command(tmp_path), "--arms=alone"]) == 0
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(found["arms"]) == list(ARMS)
    assert list(found["detectors"]) == ["none"]


def test_detectors_alone_need_no_arm(studied, tmp_path, capsys):
    shutil.copytree(studied / "out" / "seed_0" / "trunks", tmp_path / "out" / "seed_0" / "trunks")
    assert study.main([*command(tmp_path), "--detectors_only"]) == 0
    assert "2 of 2 trainings are done already" in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(found["detectors"]) == ["none"]
    assert "risk_coverage.png" in (tmp_path / "out" / "results.md").read_text()


def test_a_stop_is_passed_on_and_shows_what_there_is(studied, tmp_path, monkeypatch, capsys):
    shutil.copytree(studied / "out", tmp_path / "out")
    (tmp_path / "out" / "seed_0" / "none" / "summary.json").unlink()
    monkeypatch.setattr(loop, "train_and_evaluate", lambda *_, **__: loop.Outcome(None, 130))
    assert study.main(command(tmp_path)) == 130
    assert "the same command goes on" in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert set(found["arms"]) == {"alone"}


def test_the_results_are_those_of_the_runs(studied):
    out = studied / "out"
    found = json.loads((out / "results.json").read_text())
    assert list(found["arms"]) == list(ARMS)
    for name, arm in found["arms"].items():
        summary = json.loads((out / "seed_0" / name / "summary.json").read_text())
        figures = arm["seeds"]["0"]["figures"]
        assert figures["student/mean_iou"] == summary["last"]["student/mean_iou"]
        assert arm["seeds"]["0"]["curve"][-1][0] == 9
    pictures = {"mean_iou_by_arm.png", "risk_coverage.png", "pseudo_labels.png"}
    assert {path.name for path in out.glob("*.png")} == pictures
    text = (out / "results.md").read_text()
    for words in ("| none |", "| ELN |", "logistic control", "Kept by the gate"):
        assert words in text


def test_detectors_are_judged_on_the_prediction_that_validation_judged(studied):
    found = json.loads((studied / "out" / "results.json").read_text())["detectors"]
    (judged,) = found["none"].values()
    given = {"max_prob", "entropy", "margin", "eln"}
    fitted = {"temperature", "class_confidence", "logistic", "logistic_eln"}
    assert {name.split("/")[0] for name in judged["figures"]} == given | fitted
    assert judged["step"] == 6
    assert judged["fitted_to"]["images"] == 4
    run = by_arm(runs_of(studied))["none"].parent
    summary = json.loads((studied / "out" / run.folder / "summary.json").read_text())
    for name in ("max_prob/auroc", "eln/auroc", "entropy/aupr"):
        assert judged["figures"][name] == pytest.approx(summary["last"][name], abs=1e-6)
    assert judged["error_rate"] == pytest.approx(1 - summary["last"]["student/pixel_accuracy"])


def restored(studied):
    """The run with an ELN's phase, and its state."""
    run = by_arm(runs_of(studied))["none"].parent
    parts = assembly.build(run.config)
    checkpoints = Checkpoints(studied / "out" / run.folder)
    state, _ = checkpoints.restore(parts.programs.abstract_state(), run.until)
    checkpoints.close()
    return parts, state


def test_what_is_fitted_to_are_pixels_of_the_labelled_images(studied):
    parts, state = restored(studied)
    with Bar(str) as bar:
        bar.start("", 4, "images")
        pixels = detectors._gather(parts, state, bar)
    assert set(pixels.image) == {0, 1, 2, 3}
    assert pixels.label.max() < 6
    assert len(pixels.logits) == len(pixels.p_right) == len(pixels.label)
    # Their share of right predictions is about that of all pixels of those images.
    predictor = make_predictor(parts, state, "student", with_eln=True)
    shares = []
    for example in read_examples(parts.data.train, parts.data.partition.labeled):
        right = predictor.predict(example["image"]).prediction == example["label"]
        shares.append(right[example["label"] != 255].mean())
    found = (pixels.logits.argmax(1) == pixels.label).mean()
    assert found == pytest.approx(np.mean(shares), abs=0.1)


@pytest.mark.parametrize("part", [(), ("--arms=alone",), ("--detectors_only",)])
def test_another_configuration_in_the_same_folder_is_refused(studied, part):
    """Also of an arm that is not asked for: the tables would have it."""
    other = [*command(studied), *part, "--config.method.gate_fraction=0.5"]
    with pytest.raises(UserError, match=r"another configuration \(method.gate_fraction"):
        study.main(other)


def test_a_run_with_a_damaged_config_is_refused(studied, tmp_path):
    shutil.copytree(studied / "out", tmp_path / "out")
    (tmp_path / "out" / "seed_0" / "none" / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"none/config.json is damaged.*delete that folder"):
        study.main([*command(tmp_path), "--arms=alone"])


def test_seeds_of_an_earlier_command_stay_in_the_results(studied, tmp_path):
    shutil.copytree(studied / "out", tmp_path / "out")
    other = [*command(tmp_path), "--arms=alone"]
    # A run of seed 3 as an earlier command with --seeds=3 leaves it, with the figures of seed 0.
    earlier = dataclasses.replace(load_study(str(tmp_path / "study.py")), seeds=(3,))
    run = by_arm(plan.make_runs(earlier, ()), 3)["alone"]
    shutil.copytree(tmp_path / "out" / "seed_0" / "alone", tmp_path / "out" / run.folder)
    (tmp_path / "out" / run.folder / "config.json").write_text(configuration.to_json(run.config))
    assert study.main(other) == 0
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(found["arms"]["alone"]["seeds"]) == ["0", "3"]
    assert found["seeds"] == [0, 3]


def test_an_arm_that_diverges_is_left_out_and_the_others_go_on(
    studied, tmp_path, monkeypatch, capsys
):
    shutil.copytree(studied / "out", tmp_path / "out")
    wild = ARMS["none"] | {"optim.learning_rate": 1e30}
    arms = {"wild": wild, "from_wild": wild | {"views.cutmix_probability": 0.5}} | ARMS
    # Broken off before its first checkpoint, it is made anew.
    branch = tmp_path / "out" / "seed_0" / "none"
    shutil.rmtree(branch)
    (branch / "checkpoints").mkdir(parents=True)
    (branch / "metrics.jsonl").write_text("")
    trained = trained_steps(monkeypatch)
    with pytest.raises(UserError, match=r"The tables lack.*has diverged.*begins from seed_0"):
        study.main(command(tmp_path, arms))
    assert "Left out: seed 0, " in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert set(found["arms"]) == set(ARMS)
    assert trained[-3:] == [("none", 6), ("none", 7), ("none", 8)]
    assert rows(branch) == rows(studied / "out" / "seed_0" / "none")


def test_labelled_images_that_cannot_be_read_are_named_and_left_out(studied, monkeypatch, capsys):
    read = detectors.read_examples

    def failing(source, indices, num_threads=2):
        if num_threads == 0 and source.ids[indices[0]] == damaged:
            raise UnreadableFileError(f"{damaged} is damaged.")
        return read(source, indices, num_threads)

    monkeypatch.setattr(detectors, "read_examples", failing)
    parts, state = restored(studied)
    damaged = parts.data.train.ids[parts.data.partition.labeled[1]]
    with Bar(str) as bar:
        bar.start("", 4, "images")
        pixels = detectors._gather(parts, state, bar)
    assert set(pixels.image) == {0, 2, 3}
    assert f"Left out: {damaged} is damaged." in capsys.readouterr().out


def test_a_plan_trains_nothing(tmp_path, capsys):
    assert study.main([*command(tmp_path), "--plan"]) == 0
    shown = capsys.readouterr().out
    words = f"{TRAININGS} trainings; steps in all: 9 supervised, 3 eln, 3 semi_supervised."
    assert words in shown
    assert not (tmp_path / "out").exists()
    for seeds in ("a", "\N{SUPERSCRIPT TWO}", "-1", ""):
        with pytest.raises(UserError, match="whole numbers with commas"):
            study.main([*command(tmp_path), f"--seeds={seeds}"])
    with pytest.raises(UserError, match=r"no arm ''"):  # as of a variable that is not set
        study.main([*command(tmp_path), "--arms=", "--plan"])


def test_a_full_disk_is_told_with_the_folder(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(running, "train_runs", fail)
    with pytest.raises(StorageError, match=r"out cannot be written .*make room"):
        study.main(command(tmp_path))
