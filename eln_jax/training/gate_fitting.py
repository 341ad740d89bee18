"""Gates that are fitted as training goes: when, to what, and how evaluation uses them.

The coefficients live in the train state, so a checkpoint has them and a resume is exact.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from eln_jax.evaluation.calibrated import Calibration
from eln_jax.evaluation.scoring import GATE_SCORES, ImageGate, make_gate
from eln_jax.method import calibration
from eln_jax.method.gates import GATES, GateSettings
from eln_jax.method.state import TrainState
from eln_jax.training.labeled_pixels import labeled_pixels

if TYPE_CHECKING:
    from eln_jax.training.assembly import Parts

ORACLE_WORDS = (
    "THE GATE IS THE ORACLE: it reads the masks of the unlabelled images, so the result is no "
    "semi-supervised one, only the ceiling of what a gate could give."
)
_STRENGTH = 100.0  # pixels' worth of trust in what all classes have in common


def unfitted_gate(config: Any) -> dict[str, jax.Array]:
    """What the train state holds before the first fit; empty for gates that need none."""
    if not GATES[config.method.gate].fitted:
        return {}
    classes = config.data.num_classes
    return {"coefficients": jnp.zeros((classes, calibration.num_features(classes)))}


def fit_is_due(config: Any, steps: int) -> bool:
    """Whether the gate is fitted before the third phase's step number `steps`, from 0."""
    method = config.method
    return GATES[method.gate].fitted and steps % method.gate_fit_every == 0


def fit_gate(parts: "Parts", state: TrainState, position: Mapping[str, Any]) -> dict[str, Any]:
    """Fits the regressions to the teacher's predictions on labelled crops.

    Args:
        parts: of the run.
        state: whose teacher predicts.
        position: of the labelled stream's iterator; the batches that come next are looked at.

    Returns:
        What `TrainState.gate` holds; as it was if all that is looked at is void.
    """
    variables = {"network": state.teacher}
    seen = labeled_pixels(parts, position, _shown, parts.evaluation.logits, variables)
    if not seen[0].size:
        return state.gate
    num_classes = parts.config.data.num_classes
    coefficients = calibration.fit_by_class(*seen, num_classes, _STRENGTH)
    placed = state.gate["coefficients"].sharding
    return {"coefficients": jax.device_put(coefficients, placed)}


def _shown(logits_of, variables, image):
    return calibration.prediction_features(jnp.moveaxis(logits_of(variables, image), -1, 0))


def gate_settings(method: Any) -> GateSettings:
    """The gate's fields of the config's `method` block."""
    names = GateSettings.__dataclass_fields__
    return GateSettings(**{name: method[name] for name in names})


def gate_calibration(method: Any, gate: Mapping[str, Any]) -> Calibration | None:
    """What evaluation needs to score pixels as a fitted gate does; None if it is not fitted."""
    if not gate or not GATES[method.gate].fitted:
        return None
    return Calibration(**{GATE_SCORES[method.gate]: gate["coefficients"]})


def evaluation_gate(method: Any, gate: Mapping[str, Any] | None = None) -> ImageGate | None:
    """The gate for maps at full size; None where it has to be fitted and is not at hand."""
    if GATES[method.gate].fitted and not gate:
        return None
    return make_gate(gate_settings(method))
