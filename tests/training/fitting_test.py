"""What is fitted while training goes, in whole runs of the tiny kind; and the oracle."""

import contextlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from eln_jax import configuration, evaluate
from eln_jax.errors import UserError
from eln_jax.method import calibration, views
from eln_jax.training import (
    assembly,
    gate_fitting,
    labeled_pixels,
    loop,
    opinion_fitting,
    sharding,
)
from eln_jax.training.bookkeeping import phases
from eln_jax.training.checkpoint import Checkpoints
from eln_jax.training.inputs import make_inputs
from eln_jax.training.logging import Progress
from eln_jax.training.networks import input_statistics, make_networks
from tests.tiny import tiny_config
from tests.training.loop_test import CrashError, CrashingDisplay, rows

OPINION = {
    "model__eln_second_opinion": "true",
    "model__num_aux_decoders": "0",
    "method__loss_ceilings": "()",
}
# One run fits both.
FITTED = OPINION | {
    "method__gate": "class_calibrated",
    "method__gate_threshold": "0.3",
    "method__gate_fit_every": "2",
    "steps__semi_supervised": "5",
    "eval__every": "20",
    "checkpoint__every": "2",
}
LAST = 11


def train(workdir, display=None):
    config = tiny_config(**FITTED)
    with display or Progress() as shown:
        return loop.train_and_evaluate(config, configuration.to_json(config), workdir, shown)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("fitted")
    assert train(workdir).exit_code == 0
    return workdir


def test_the_coefficients_are_those_of_the_teacher_when_last_fitted(fitted):
    config = tiny_config(**FITTED)
    parts = assembly.build(config)
    state, books = Checkpoints(fitted).restore(parts.programs.abstract_state(), 10)
    # After steps 6, 8 and 10 the gate is fitted; 11 is the last. Of the state of step 10 the next
    # fit is made anew.
    again, _ = Checkpoints(fitted).restore(parts.programs.abstract_state(), LAST)
    batch_size, source = config.batch_size_labeled, parts.data.train
    stream = iter(parts.data.streams["labeled"])
    stream.set_state(books["iterators"]["labeled"])
    batch = next(stream)
    stream.close()
    assert len(parts.data.partition.labeled) == batch_size == len(batch["image"])
    logits = parts.evaluation.logits({"network": state.teacher}, jnp.asarray(batch["image"]))
    side = np.round(np.linspace(0, 31, logits.shape[1])).astype(int)[::2]
    label = batch["label"][:, side][:, :, side]
    planes = jnp.moveaxis(logits, -1, 0)
    predicted, features = (
        np.asarray(x)[..., ::2, ::2] for x in calibration.prediction_features(planes)
    )
    valid = label != source.ignore_label
    right = (predicted == label)[valid]
    expected = calibration.fit_by_class(features[:, valid].T, predicted[valid], right, 6, 100.0)
    np.testing.assert_allclose(again.gate["coefficients"], expected, rtol=1e-3, atol=1e-4)
    assert np.abs(expected).max() > 0.1


def test_the_gate_is_judged_on_val(fitted):
    last = [row for row in rows(fitted) if row["split"] == "val"][-1]
    assert {"logistic/auroc", "eln/auroc", "pseudo_label/kept"} <= set(last)
    assert [name for name in last if name.startswith("pseudo_label/kept/")]
    before = [row for row in rows(fitted) if row["split"] == "val" and row["phase"] == "eln"][-1]
    assert not [name for name in before if name.startswith(("logistic", "pseudo_label"))]


def test_an_evaluation_judges_the_gate_as_the_training_did(fitted, tmp_path):
    assert evaluate.main([f"--model={fitted}", f"--output={tmp_path}"]) == 0
    found = json.loads((tmp_path / "metrics.json").read_text())
    last = [row for row in rows(fitted) if row["split"] == "val"][-1]
    for name in ("logistic/auroc", "pseudo_label/kept", "pseudo_label/accuracy"):
        assert found[name] == pytest.approx(last[name], abs=1e-6), name


def test_a_model_that_the_gate_was_not_fitted_to_is_judged_without_it(fitted, tmp_path, capsys):
    flags = [f"--model={fitted}", f"--output={tmp_path}", "--network=student"]
    assert evaluate.main(flags) == 0
    assert "What method.gate=class_calibrated keeps is not shown" in capsys.readouterr().out
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert not [name for name in found if name.startswith("pseudo_label/")]


@pytest.mark.parametrize(
    "at_step", [8, *(pytest.param(step, marks=pytest.mark.slow) for step in (6, 9, 10))]
)
def test_a_run_that_goes_on_is_bit_identical(fitted, tmp_path, at_step):
    with pytest.raises(CrashError):
        train(tmp_path, CrashingDisplay(at_step))
    train(tmp_path)
    assert rows(tmp_path) == rows(fitted)


def all_crops_void(monkeypatch):
    """Makes fits see labelled crops without a label."""
    batches = labeled_pixels.labeled_batches

    def void(*args):
        for batch in batches(*args):
            yield batch | {"label": jnp.full_like(batch["label"], 255)}

    monkeypatch.setattr(labeled_pixels, "labeled_batches", void)


def test_crops_without_a_label_leave_the_gate_as_it_was(fitted, monkeypatch):
    parts = assembly.build(tiny_config(**FITTED))
    state, books = Checkpoints(fitted).restore(parts.programs.abstract_state(), 10)
    all_crops_void(monkeypatch)
    gate = gate_fitting.fit_gate(parts, state, books["iterators"]["labeled"])
    assert gate is state.gate


def test_the_comparison_is_fitted_to_the_teacher_and_the_opinion_on_labelled_crops(fitted):
    config = tiny_config(**FITTED)
    parts = assembly.build(config)
    state, books = Checkpoints(fitted).restore(parts.programs.abstract_state(), LAST)
    stream = iter(parts.data.streams["labeled"])
    stream.set_state(books["iterators"]["labeled"])
    batch = next(stream)
    stream.close()
    logits = parts.evaluation.logits({"network": state.teacher}, jnp.asarray(batch["image"]))
    image = views.to_unit(jnp.asarray(batch["image"]))
    eln = {"params": state.params["eln"], "batch_stats": state.batch_stats["eln"]}
    _, opinion = make_networks(config).eln.apply(
        eln, views.normalize(image, *input_statistics(config)[2:]), logits, method="judge"
    )
    predicted = np.asarray(logits).argmax(-1)
    thin = np.s_[:, ::2, ::2]
    side = np.round(np.linspace(0, 31, logits.shape[1])).astype(int)[::2]
    label = batch["label"][:, side][:, :, side]
    valid = label != config.data.ignore_label
    right = (predicted[thin] == label)[valid]
    expected = 0
    for place, x in enumerate((logits, opinion), start=1):
        probability = softmax(np.float64(x), -1)
        chosen = np.take_along_axis(probability, predicted[..., None], -1)[..., 0][thin][valid]
        features = np.stack([np.ones_like(chosen), np.log(chosen / (1 - chosen))], -1)
        weights = calibration.fit_by_class(features, predicted[thin][valid], right, 6, 10.0)
        expected = expected + np.insert(weights, 3 - place, 0, axis=1) / 2
    # Right and wrong pixels weigh alike.
    expected[:, 0] -= np.log((right.sum() + 1) / ((~right).sum() + 1))
    found = state.batch_stats["eln"]["comparison"]["weights"]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=2e-3)
    assert np.abs(expected[:, 0]).max() > 0.1


def test_crops_without_a_label_leave_the_comparison_as_it_was(fitted, monkeypatch):
    config = tiny_config(**FITTED)
    parts = assembly.build(config)
    state, books = Checkpoints(fitted).restore(parts.programs.abstract_state(), LAST)
    all_crops_void(monkeypatch)
    position = books["iterators"]["labeled"]
    again = opinion_fitting.fit_comparison(parts, state, phases(config.steps)[-1], position)
    assert again is state


def test_when_the_comparison_is_fitted():
    config = tiny_config(**FITTED)
    first, second, third = phases(config.steps)
    due = {
        phase.name: [
            step
            for step in range(phase.start + 1, phase.end + 1)
            if opinion_fitting.fit_is_due(config, phase, step)
        ]
        for phase in (first, second, third)
    }
    assert due == {"supervised": [], "eln": [5, 6], "semi_supervised": [8, 10, 11]}
    resting = tiny_config(**FITTED, method__eln_in_semi_supervised="false")
    assert opinion_fitting.fit_is_due(resting, second, 6)
    assert not opinion_fitting.fit_is_due(resting, third, 11)
    assert not opinion_fitting.fit_is_due(tiny_config(), second, 6)


def test_the_opinion_learns_and_is_judged_on_val(fitted):
    train_rows = [row for row in rows(fitted) if row["split"] == "train"]
    assert [row["step"] for row in train_rows if "opinion_loss" in row] == list(range(4, LAST + 1))
    last = [row for row in rows(fitted) if row["split"] == "val"][-1]
    assert {"eln/auroc", "pseudo_label/kept"} <= set(last)


def test_coefficients_lie_where_the_step_expects_them(monkeypatch):
    monkeypatch.setattr(sharding, "_SPLIT_FROM", 1)
    mesh = sharding.make_mesh(jax.devices()[:2])
    parts = assembly.build(tiny_config(**FITTED, shard_state="true"), mesh)
    state = parts.programs.initial_state()
    with contextlib.closing(iter(parts.data.streams["labeled"])) as stream:
        gate = gate_fitting.fit_gate(parts, state, stream.get_state())
    placed = gate["coefficients"].sharding
    assert placed == state.gate["coefficients"].sharding
    assert not placed.is_fully_replicated


def test_other_gates_have_nothing_to_fit():
    config = tiny_config()
    assert gate_fitting.unfitted_gate(config) == {}
    assert not gate_fitting.fit_is_due(config, 0)
    assert gate_fitting.gate_calibration(config.method, {}) is None
    # A run's own coefficients say nothing where an evaluation asks for another gate.
    assert gate_fitting.gate_calibration(config.method, {"coefficients": 1}) is None
    assert gate_fitting.evaluation_gate(tiny_config(**FITTED).method) is None


def test_the_oracle_sees_the_crops_of_other_gates_and_their_masks():
    config = tiny_config(method__gate="oracle")
    assert "THE GATE IS THE ORACLE" in assembly.build(config).description
    streams = [make_inputs(c).streams["unlabeled"] for c in (config, tiny_config())]
    own, other = (next(iter(stream)) for stream in streams)
    np.testing.assert_array_equal(own["image"], other["image"])
    assert set(own) == {"image", "label"}


@pytest.mark.slow
def test_the_oracle_keeps_what_is_right_and_no_more(tmp_path):
    config = tiny_config(method__gate="oracle", eval__every="20")
    with Progress() as display:
        loop.train_and_evaluate(config, configuration.to_json(config), tmp_path, display)
    last = json.loads((tmp_path / "summary.json").read_text())["last"]
    assert last["pseudo_label/accuracy"] == 1.0
    assert last["pseudo_label/kept"] == pytest.approx(last["teacher/pixel_accuracy"])


def test_the_oracle_needs_masks(monkeypatch):
    config = tiny_config(method__gate="oracle")
    unmasked = make_inputs(config).partition.unlabeled[0]
    source = type(make_inputs(config).train)
    monkeypatch.setattr(source, "has_label", lambda _, index: index != unmasked)
    with pytest.raises(UserError, match=r"oracle reads the masks.* 1 have none"):
        make_inputs(config)


def gate_of(parts, state):
    return gate_fitting.fit_gate(parts, state, {"next_batch": 0})["coefficients"]


def comparison_of(parts, state):
    phase = phases(parts.config.steps)[1]
    fitted = opinion_fitting.fit_comparison(parts, state, phase, {"next_batch": 0})
    return fitted.batch_stats["eln"]["comparison"]["weights"]


@pytest.mark.parametrize(
    ("fitted_of", "atol"),
    [(gate_of, 1e-4), pytest.param(comparison_of, 1e-3, marks=pytest.mark.slow)],
)
def test_one_device_fits_as_four_do(fitted_of, atol):
    found = []
    for count in (1, 4):
        parts = assembly.build(tiny_config(**FITTED), sharding.make_mesh(jax.devices()[:count]))
        found.append(fitted_of(parts, parts.programs.initial_state()))
    np.testing.assert_allclose(*found, rtol=1e-3, atol=atol)
