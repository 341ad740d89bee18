"""An ELN with a second opinion in whole runs of the tiny kind: what its comparison is fitted to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from eln_jax import configuration
from eln_jax.method import calibration, views
from eln_jax.training import assembly, loop, opinion_fitting, sharding
from eln_jax.training.bookkeeping import phases
from eln_jax.training.checkpoint import Checkpoints
from eln_jax.training.logging import Progress
from eln_jax.training.networks import input_statistics, make_networks
from tests.tiny import compiling_once, tiny_config
from tests.training.gate_fitting_test import all_crops_void
from tests.training.loop_test import CrashError, CrashingDisplay, rows

OPINION = {
    "model__eln_second_opinion": "true",
    "model__num_aux_decoders": "0",
    "method__loss_ceilings": "()",
    "method__gate_fit_every": "2",
    "steps__semi_supervised": "5",
    "eval__every": "20",
}
LAST = 11


def train(workdir, display=None):
    config = tiny_config(**OPINION)
    with display or Progress() as shown:
        return loop.train_and_evaluate(config, configuration.to_json(config), workdir, shown)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("opinion")
    with compiling_once():
        assert train(workdir).exit_code == 0
    return workdir


def test_the_comparison_is_fitted_to_the_teacher_and_the_opinion_on_labelled_crops(trained):
    config = tiny_config(**OPINION)
    parts = assembly.build(config)
    state, books = Checkpoints(trained).restore(parts.programs.abstract_state(), LAST)
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
        fitted = calibration.fit_by_class(features, predicted[thin][valid], right, 6, 10.0)
        expected = expected + np.insert(fitted, 3 - place, 0, axis=1) / 2
    # Right and wrong pixels weigh alike.
    expected[:, 0] -= np.log((right.sum() + 1) / ((~right).sum() + 1))
    found = state.batch_stats["eln"]["comparison"]["weights"]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=2e-3)
    assert np.abs(expected[:, 0]).max() > 0.1


def test_crops_without_a_label_leave_the_comparison_as_it_was(trained, monkeypatch):
    config = tiny_config(**OPINION)
    parts = assembly.build(config)
    state, books = Checkpoints(trained).restore(parts.programs.abstract_state(), LAST)
    all_crops_void(monkeypatch)
    position = books["iterators"]["labeled"]
    fitted = opinion_fitting.fit_comparison(parts, state, phases(config.steps)[-1], position)
    assert fitted is state


def test_when_it_is_fitted():
    config = tiny_config(**OPINION)
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
    resting = tiny_config(**OPINION, method__eln_in_semi_supervised="false")
    assert opinion_fitting.fit_is_due(resting, second, 6)
    assert not opinion_fitting.fit_is_due(resting, third, 11)
    assert not opinion_fitting.fit_is_due(tiny_config(), second, 6)


def test_it_learns_and_is_judged_on_val(trained):
    train_rows = [row for row in rows(trained) if row["split"] == "train"]
    assert [row["step"] for row in train_rows if "opinion_loss" in row] == list(range(4, LAST + 1))
    last = [row for row in rows(trained) if row["split"] == "val"][-1]
    assert {"eln/auroc", "pseudo_label/kept"} <= set(last)


@pytest.mark.parametrize("at_step", [6, pytest.param(9, marks=pytest.mark.slow)])
def test_a_run_that_goes_on_is_bit_identical(trained, tmp_path, at_step):
    with pytest.raises(CrashError):
        train(tmp_path, CrashingDisplay(at_step))
    train(tmp_path)
    assert rows(tmp_path) == rows(trained)


@pytest.mark.slow
def test_one_device_fits_as_four_do():
    config = tiny_config(**OPINION)
    found = []
    for count in (1, 4):
        parts = assembly.build(config, sharding.make_mesh(jax.devices()[:count]))
        state = parts.programs.initial_state()
        phase = phases(config.steps)[1]
        fitted = opinion_fitting.fit_comparison(parts, state, phase, {"next_batch": 0})
        found.append(fitted.batch_stats["eln"]["comparison"]["weights"])
    np.testing.assert_allclose(*found, rtol=1e-3, atol=1e-3)
