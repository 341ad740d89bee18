"""Gates: which pseudo-labels are worth learning from, and how much.

A gate scores every pseudo-label in [0, 1], higher where it is more likely right; its mode turns
scores into a boolean `valid_mask` or into weights. All of them live in the one dictionary `GATES`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from eln_jax.method.calibration import logit_of_right, prediction_features


@dataclass(frozen=True, kw_only=True)
class GateSettings:
    """Which gate, and how it is used; `eln_jax.defaults` explains the fields."""

    gate: str
    gate_mode: str = "threshold"
    gate_threshold: float = 0.0
    gate_fraction: float = 0.8
    gate_confidence: float = 0.95

    @property
    def threshold(self) -> float:
        """The threshold given, or the gate's own."""
        return self.gate_threshold or GATES[self.gate].threshold


class Evidence(NamedTuple):
    """What a gate may look at.

    Attributes:
        logits: float32 [batch, height, width, num_classes] of the teacher.
        eln_logits: float32 [batch, height, width], the ELN's logit of "this label is right".
        coefficients: float32 [num_classes, num_features] of the logistic regressions, if fitted.
        truth: int [batch, height, width], the true classes, for the oracle alone.
    """

    logits: jax.Array
    eln_logits: jax.Array
    coefficients: jax.Array | None = None
    truth: jax.Array | None = None


def anything(seen: Evidence, settings: GateSettings) -> jax.Array:
    """1 everywhere."""
    del settings
    return jnp.ones(seen.logits.shape[:-1])


def max_probability(seen: Evidence, settings: GateSettings) -> jax.Array:
    """The softmax probability of the label."""
    del settings
    return jax.nn.softmax(seen.logits).max(-1)


def low_entropy(seen: Evidence, settings: GateSettings) -> jax.Array:
    """1 - entropy / log(num_classes)."""
    del settings
    log_probability = jax.nn.log_softmax(seen.logits)
    entropy = -(jnp.exp(log_probability) * log_probability).sum(-1)
    return jnp.clip(1.0 - entropy / jnp.log(seen.logits.shape[-1]), 0.0, 1.0)  # rounding


def margin(seen: Evidence, settings: GateSettings) -> jax.Array:
    """The highest probability minus the second."""
    del settings
    first, second = jnp.moveaxis(jax.lax.top_k(jax.nn.softmax(seen.logits), 2)[0], -1, 0)
    return first - second


def eln(seen: Evidence, settings: GateSettings) -> jax.Array:
    """The ELN's probability that the label is right (eq. 8)."""
    del settings
    return jax.nn.sigmoid(seen.eln_logits)


def eln_where_confident(seen: Evidence, settings: GateSettings) -> jax.Array:
    """The ELN's probability where the label's own exceeds `gate_confidence`, else 0."""
    confident = max_probability(seen, settings) > settings.gate_confidence
    return jnp.where(confident, eln(seen, settings), 0.0)


def class_calibrated(seen: Evidence, settings: GateSettings) -> jax.Array:
    """P(right) by the predicted class's logistic regression on the class probabilities."""
    if seen.coefficients is None:
        raise ValueError(f"the gate {settings.gate} needs fitted coefficients")
    prediction, features = prediction_features(jnp.moveaxis(seen.logits, -1, 0))
    return jax.nn.sigmoid(logit_of_right(prediction, features, seen.coefficients))


def oracle(seen: Evidence, settings: GateSettings) -> jax.Array:
    """1 where the label is right, by the truth: for measuring what a perfect gate would give."""
    del settings
    if seen.truth is None:
        raise ValueError("the gate oracle needs the truth of the unlabelled images")
    return (seen.logits.argmax(-1) == seen.truth).astype(jnp.float32)


class Gate(NamedTuple):
    """A gate's score, and the threshold that makes sense for it.

    Attributes:
        score: in [0, 1].
        threshold: what `gate_threshold=0` stands for.
        fitted: whether it needs coefficients, of `eln_jax.method.calibration.fit_by_class`.
    """

    score: Callable[[Evidence, GateSettings], jax.Array]
    threshold: float
    fitted: bool = False


GATES: dict[str, Gate] = {
    "none": Gate(anything, 0.0),
    "confidence": Gate(max_probability, 0.95),
    "entropy": Gate(low_entropy, 0.9),
    "margin": Gate(margin, 0.9),
    "eln": Gate(eln, 0.5),
    "eln_and_confidence": Gate(eln_where_confident, 0.5),
    "class_calibrated": Gate(class_calibrated, 0.9, fitted=True),
    "oracle": Gate(oracle, 0.5),
}


def pseudo_labels(
    seen: Evidence, inside: jax.Array, settings: GateSettings
) -> tuple[jax.Array, jax.Array]:
    """Turns a teacher's prediction into labels, and says which are worth trusting.

    Args:
        seen: the prediction and what the gate looks at.
        inside: bool [batch, height, width], False on padding, which is never kept.
        settings: the gate and its mode: "threshold" keeps scores above it; "quantile" keeps the
            `gate_fraction` of the batch's pixels that score best; "class_quantile" does so among
            the pixels of each label apart; "class_floor" keeps what either of "threshold" and
            "class_quantile" keeps; "soft" weighs by the score.

    Returns:
        `pseudo_label` int32 and its weight, both [batch, height, width]: bool in the modes that
        keep or reject, float32 in [0, 1] in "soft".
    """
    label = seen.logits.argmax(-1).astype(jnp.int32)
    score = GATES[settings.gate].score(seen, settings)
    if settings.gate == "none":
        return label, inside
    if settings.gate_mode == "soft":
        return label, jnp.where(inside, score, 0.0)
    if settings.gate_mode == "quantile":
        return label, best_fraction(score, inside, settings.gate_fraction)
    above = inside & (score > settings.threshold)
    if settings.gate_mode == "threshold":
        return label, above
    best = best_of_each(score, label, inside, settings.gate_fraction, seen.logits.shape[-1])
    return label, best if settings.gate_mode == "class_quantile" else best | above


def best_fraction(score: jax.Array, inside: jax.Array, fraction: float) -> jax.Array:
    """The pixels among the best-scored share of those inside; ties at its end are all kept.

    Args:
        score: float32 [batch, height, width] in [0, 1].
        inside: bool [batch, height, width].
        fraction: in (0, 1].

    Returns:
        bool [batch, height, width]; never a pixel of score 0.
    """
    return best_of_each(score, jnp.zeros(score.shape, jnp.int32), inside, fraction, 1)


def best_of_each(
    score: jax.Array, label: jax.Array, inside: jax.Array, fraction: float, num_classes: int
) -> jax.Array:
    """`best_fraction` among the pixels of each label apart: no class is crowded out by another.

    Zou et al., "Unsupervised domain adaptation for semantic segmentation via class-balanced
    self-training" (ECCV 2018), take the same share of each class, by its probability.

    Args:
        score: float32 [batch, height, width] in [0, 1].
        label: int32 [batch, height, width] in [0, num_classes).
        inside: bool [batch, height, width].
        fraction: in (0, 1].
        num_classes: number of labels, at most 255.

    Returns:
        bool [batch, height, width]; never a pixel of score 0. Scores closer than 2**-24, below 0.5
        than 2**-16 of themselves, may tie.
    """
    # One number a pixel sorts many times faster than two: the label, then 24 bits of the score.
    # What is outside comes last, as a label of its own.
    group = jnp.where(inside, label, num_classes).astype(jnp.uint32)
    key = (group << 24) + _in_24_bits(score)
    ranked = jnp.sort(key.ravel())
    starts = jnp.searchsorted(ranked, jnp.arange(num_classes + 1, dtype=jnp.uint32) << 24)
    count = jnp.round(fraction * jnp.diff(starts)).astype(jnp.int32)
    lowest = ranked[jnp.clip(starts[1:] - count, 0, ranked.size - 1)]
    return inside & (count > 0)[label] & (key >= lowest[label]) & (score > 0)


def _in_24_bits(score: jax.Array) -> jax.Array:
    """Scores in [0, 1] as integers in the same order, uint32 below 2**24.

    The lower half of the range has relative steps, those of a short float: a class that is hardly
    ever right has scores of all small sizes, and its best are to be told from the others.
    """
    low = jax.lax.bitcast_convert_type(score, jnp.uint32) >> 7  # 16 bits of the fraction
    high = 2**23 + jnp.round((score - 0.5) * (2**24 - 2))
    return jnp.where(score < 0.5, low, jnp.clip(high, 2**23, 2**24 - 1).astype(jnp.uint32))


def valid_mask(weight: jax.Array, settings: GateSettings) -> jax.Array:
    """The labels that count as classes' members, bool: in "soft" those above the threshold."""
    return weight if weight.dtype == bool else weight > settings.threshold
