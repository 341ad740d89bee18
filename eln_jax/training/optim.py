"""Optimisers with two learning-rate groups, and learning-rate schedules."""

from collections.abc import Mapping
from typing import Any

import jax
import optax


def make_optimizers(
    params: Mapping[str, Any],
    *,
    name: str,
    encoder_factor: float,
    weight_decay: float,
    momentum: float,
    clip_norm: float,
    train_norm: bool,
    frozen_eln_encoder: bool,
) -> dict[str, optax.GradientTransformation]:
    """Builds one optimiser for each network, for a learning rate of 1.

    They are separate so that a network that no phase has trained yet is left alone: no decay, and
    Adam's bias correction counts its own steps. The step multiplies by the learning rate.

    Args:
        params: {"student", "aux_decoders", "eln"}: names of the optimisers and layout of the trees.
        name: "adamw" or "sgd".
        encoder_factor: share of the learning rate for everything under "encoder".
        weight_decay: decoupled, on every trained weight (PyTorch's AdamW; for sgd L2 inside).
        momentum: of sgd (Nesterov off).
        clip_norm: bound of the norm of each network's gradient, frozen weights left out; 0: none.
        train_norm: whether batch-norm scale and offset of student and auxiliary decoders learn;
            the official code trains only the ELN's.
        frozen_eln_encoder: whether the ELN's encoder stays as it is.

    Returns:
        An optimiser for each key of `params`.
    """
    optimizers = {}
    for network in params:
        frozen_norm = not train_norm and network != "eln"
        frozen_encoder = frozen_eln_encoder and network == "eln"
        labels = _labels(params[network], frozen_norm, frozen_encoder)
        decay = optax.add_decayed_weights(weight_decay)
        rule = {
            "adamw": [optax.scale_by_adam(), decay],
            "sgd": [decay, optax.trace(momentum)],
        }[name]
        trained = jax.tree.map(lambda group: group != "frozen", labels)
        clip = (
            [optax.masked(optax.clip_by_global_norm(clip_norm), trained)] if clip_norm > 0 else []
        )
        groups = optax.partition(
            {
                "encoder": optax.scale(-encoder_factor),
                "rest": optax.scale(-1.0),
                "frozen": optax.set_to_zero(),
            },
            labels,
        )
        optimizers[network] = optax.chain(*clip, *rule, groups)
    return optimizers


def _labels(params: Any, frozen_norm: bool, frozen_encoder: bool) -> Any:
    """Labels every weight "encoder", "rest" or "frozen" by its path."""

    def label(path, _):
        names = [str(getattr(entry, "key", entry)) for entry in path]
        if frozen_norm and names[-1] in ("scale", "bias") and _is_norm(params, names):
            return "frozen"
        if names[0] == "encoder":
            return "frozen" if frozen_encoder else "encoder"
        return "rest"

    return jax.tree_util.tree_map_with_path(label, params)


def _is_norm(params: Any, names: list[str]) -> bool:
    """Batch norm is the layer with a scale; a convolution's bias has a kernel beside it."""
    layer = params
    for name in names[:-1]:
        layer = layer[name]
    return "scale" in layer


def make_schedule(
    *, name: str, learning_rate: float, total_steps: int, power: float, warmup_steps: int
) -> optax.Schedule:
    """Learning rate by the number of steps done, from 0 to `total_steps`.

    Args:
        name: "constant", "poly" (falls as (1 - step / total)^power) or "cosine"; both end at 0.
        learning_rate: at the end of the warm-up.
        total_steps: of the whole run.
        power: of "poly".
        warmup_steps: of a linear rise from 0; the first step already learns.

    Returns:
        An optax schedule.
    """
    decay_steps = max(total_steps - warmup_steps, 1)
    after = {
        "constant": optax.constant_schedule(learning_rate),
        "poly": optax.polynomial_schedule(learning_rate, 0.0, power, decay_steps),
        "cosine": optax.cosine_decay_schedule(learning_rate, decay_steps),
    }[name]
    if warmup_steps == 0:
        return after
    warmup = optax.linear_schedule(learning_rate / warmup_steps, learning_rate, warmup_steps - 1)
    return optax.join_schedules([warmup, after], [warmup_steps])
