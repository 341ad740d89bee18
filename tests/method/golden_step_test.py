"""One phase-3 step against the official code's losses and gradient norms (tests/golden)."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eln_jax.defaults import apply_official, default_config
from eln_jax.method import state, steps, views
from eln_jax.models.layers import resize_bilinear
from eln_jax.models.official import from_official, to_official
from eln_jax.models.segmenter import build_networks
from tests import golden_weights

NO_DROPOUT = (0.0, 0.0, 0.0)
GROUPS = ("student", "aux_decoders", "eln")


def gradient_keepers() -> dict[str, optax.GradientTransformation]:
    """Optimisers that change nothing and whose state is the gradient."""

    def update(gradient, old, params=None):
        del old, params
        return jax.tree.map(jnp.zeros_like, gradient), gradient

    keep = optax.GradientTransformation(lambda p: jax.tree.map(jnp.zeros_like, p), update)
    return dict.fromkeys(GROUPS, keep)


@pytest.fixture(scope="module")
def golden_step():
    """Metrics and gradients of one step on the golden batch, official in every field."""
    variables = from_official(golden_weights.golden_checkpoint()).variables
    arrays = golden_weights.golden_arrays()
    networks = build_networks(
        encoder="resnet50",
        output_stride=16,
        num_classes=21,
        dropout=NO_DROPOUT,
        eln_dropout=NO_DROPOUT,
    )
    config = apply_official(default_config())
    handled = ("class_balance", "gate_fit_every", "student_reset_every", "train_norm")
    settings = steps.MethodSettings(
        num_classes=21,
        ignore_label=255,
        input_mean=(0.0,) * 3,
        input_std=(1.0,) * 3,
        eln_input_mean=(0.0,) * 3,
        eln_input_std=(1.0,) * 3,
        class_weights=None,
        **{name: value for name, value in config.method.items() if name not in handled},
    )
    # The golden images are normalised already and the map is one window.
    settings = replace(settings, contrastive_windows=1)
    tx = gradient_keepers()
    args = steps.StepArguments(
        networks,
        resize_bilinear,
        tx,
        lambda _: 0.0,
        settings,
        views.ViewSettings(**config.views),
    )
    params, batch_stats = variables["params"], variables["batch_stats"]
    old = state.TrainState(
        step=jnp.int32(0),
        params=params,
        batch_stats=batch_stats,
        teacher={"params": params["student"], "batch_stats": batch_stats["student"]},
        opt_state={name: tx[name].init(params[name]) for name in GROUPS},
    )
    batch = {
        "labeled": {"image": arrays["image"], "label": arrays["label"]},
        "unlabeled": {
            "image": arrays["unlabeled_weak"],
            "inside": np.ones(arrays["unlabeled_weak"].shape[:3], bool),
        },
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(views, "to_unit", lambda image: jnp.asarray(image, jnp.float32))
        patch.setattr(views, "strong_view", lambda *_: jnp.asarray(arrays["unlabeled_strong"]))
        step = jax.jit(partial(steps.semi_supervised_step, args=args))
        new, metrics = step(old, batch, jax.random.key(0))
    return jax.device_get(metrics), jax.device_get(new)


LOSSES = {
    "sup_loss": "supervised_loss",
    "sup_loss_20": "aux_loss/0",
    "sup_loss_50": "aux_loss/1",
    "eln_20": "eln_loss/0",
    "eln_50": "eln_loss/1",
    "eln_100": "eln_loss/main",
    "pseudo_loss_aug": "pseudo_label_loss/strong",
    "pseudo_loss": "pseudo_label_loss/weak",
    "pxl_contra_aug": "contrastive_loss/strong",
    "pxl_loss": "contrastive_loss/weak",
}


@pytest.mark.parametrize(("theirs", "ours"), LOSSES.items())
def test_loss(golden_step, theirs, ours):
    expected = golden_weights.golden_numbers()["losses"][theirs]
    np.testing.assert_allclose(golden_step[0][ours], expected, rtol=1e-3)


def test_total_leaves_out_the_auxiliary_losses_under_their_ceilings(golden_step):
    numbers = golden_weights.golden_numbers()["losses"]
    expected = sum(v for k, v in numbers.items() if k not in ("sup_loss_20", "sup_loss_50"))
    np.testing.assert_allclose(golden_step[0]["loss"], expected, rtol=1e-3)


def test_gradient_norm_of_every_parameter(golden_step):
    gradients = golden_step[1].opt_state
    named = to_official({"params": gradients, "batch_stats": golden_step[1].batch_stats})
    expected = golden_weights.golden_numbers()["grad_norms"]
    wrong = {}
    for key, norm in expected.items():
        network, _, name = key.partition(".")
        ours = np.linalg.norm(named[network][name].astype(np.float64))
        if abs(ours - norm) > (0.01 * norm if norm > 1e-3 else 1e-3):
            wrong[key] = (ours, norm)
    assert not wrong
    assert sum(norm > 1e-3 for norm in expected.values()) > 250
