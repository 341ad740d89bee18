"""The comparison of a prediction with the ELN's second opinion: when it is fitted, and to what."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from eln_jax.method import calibration
from eln_jax.method.state import TrainState, student_variables
from eln_jax.training.labeled_pixels import labeled_pixels

if TYPE_CHECKING:
    from eln_jax.training.assembly import Parts
    from eln_jax.training.bookkeeping import Phase

_STRENGTH = 10.0  # pixels' worth of trust in what all classes have in common


def fit_is_due(config: Any, phase: "Phase", step: int) -> bool:
    """Whether the comparison is fitted after `step` steps of the run, the last in this phase."""
    rests = phase.name == "semi_supervised" and not config.method.eln_in_semi_supervised
    if not config.model.eln_second_opinion or phase.name == "supervised" or rests:
        return False
    return step == phase.end or (step - phase.start) % config.method.gate_fit_every == 0


def fit_comparison(
    parts: "Parts", state: TrainState, phase: "Phase", position: Mapping[str, Any]
) -> TrainState:
    """Fits the comparison to predictions on labelled crops.

    Those of the student, or of the teacher once there is one. The log odds of prediction and
    opinion are calibrated by class each for itself, and averaged: on labelled images, which both
    have seen, a regression on both would learn wrong how far to trust each. Right and wrong pixels
    weigh alike in all, as in the ELN's loss (paper eq. 4): so a logit of 0 is the gate's threshold.

    Args:
        parts: of the run.
        state: whose networks predict.
        phase: in which they are.
        position: of the labelled stream's iterator.

    Returns:
        The state with the comparison; as it was if all that is looked at is void.
    """
    stats = state.batch_stats["eln"]
    variables = {
        "network": state.teacher if phase.name == "semi_supervised" else student_variables(state),
        "eln": {"params": state.params["eln"], "batch_stats": stats},
    }
    compared = parts.evaluation.compared
    features, predicted, right = labeled_pixels(parts, position, _shown, compared, variables)
    if not features.size:
        return state
    num_classes = parts.config.data.num_classes
    own, other = (
        calibration.fit_by_class(features[:, [0, n]], predicted, right, num_classes, _STRENGTH)
        for n in (1, 2)
    )
    weights = np.stack([own[:, 0] + other[:, 0], own[:, 1], other[:, 1]], 1) / 2
    weights[:, 0] -= np.log((right.sum() + 1) / ((~right).sum() + 1))
    placed = stats["comparison"]["weights"].sharding
    eln = {**stats, "comparison": {"weights": jax.device_put(weights, placed)}}
    return state.replace(batch_stats={**state.batch_stats, "eln": eln})


def _shown(compared, variables, image):
    logits, features = compared(variables, image)
    return logits.argmax(-1), jnp.moveaxis(features, -1, 0)
