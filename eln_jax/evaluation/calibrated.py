"""Calibrated confidence: P(right) by what was fitted to predictions on labelled images.

From weak to strong, and one that asks the ELN too:

    temperature        one temperature for all logits (Guo et al. 2017)
    class_confidence   a logistic regression on the log odds, for each predicted class
    logistic           the control: one on log odds, entropy and all probabilities, for each class
    logistic_eln       the same with the ELN's logit

They are fitted on the host to pixels of labelled images, never of those that a detector is judged
on.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eln_jax.method.calibration import (
    choose_strength,
    fit_by_class,
    logit_of_right,
    prediction_features,
)

_ODDS_FEATURES = slice(0, 2)  # of `prediction_features`: the constant and the log odds
_MOST_ELN_LOGIT = 16.0


class Calibration(NamedTuple):
    """What was fitted; None leaves a calibration out.

    Attributes:
        temperature: float32 scalar that divides the logits.
        class_confidence: float32 [num_classes, 2].
        logistic: float32 [num_classes, num_features].
        logistic_eln: float32 [num_classes, num_features + 1], the ELN's logit last.
    """

    temperature: jax.Array | np.ndarray | None = None
    class_confidence: jax.Array | np.ndarray | None = None
    logistic: jax.Array | np.ndarray | None = None
    logistic_eln: jax.Array | np.ndarray | None = None


def calibrated_scores(
    planes: jax.Array, p_right: jax.Array | None, calibration: Calibration | None
) -> dict[str, jax.Array] | None:
    """P(right) of every pixel by each calibration.

    Args:
        planes: [num_classes, ...] logits.
        p_right: float32 [...], the ELN's P(right), if there is one.
        calibration: what was fitted; None gives None.

    Returns:
        float32 [...] in [0, 1] by the calibration's name.
    """
    if calibration is None:
        return None
    planes = planes.astype(jnp.float32)
    scores = {}
    if calibration.temperature is not None:
        scores["temperature"] = jax.nn.softmax(planes / calibration.temperature, 0).max(0)
    prediction, features = prediction_features(planes)
    inputs = {
        "class_confidence": features[_ODDS_FEATURES],
        "logistic": features,
    }
    if p_right is not None:
        inputs["logistic_eln"] = jnp.concatenate([features, eln_feature(p_right)[None]])
    for name, seen in inputs.items():
        coefficients = getattr(calibration, name)
        if coefficients is not None:
            scores[name] = jax.nn.sigmoid(logit_of_right(prediction, seen, coefficients))
    return scores


def eln_feature(p_right: jax.Array) -> jax.Array:
    """The logit of the ELN's P(right), in [-16, 16]."""
    least = np.float32(1.0 / (1.0 + np.exp(_MOST_ELN_LOGIT)))
    inner = jnp.clip(p_right, least, 1.0 - jnp.finfo(jnp.float32).epsneg)
    return jnp.log(inner) - jnp.log1p(-inner)


class Pixels(NamedTuple):
    """Pixels of labelled images, gathered to fit to; void is left out.

    Attributes:
        logits: float32 [pixels, num_classes].
        p_right: float32 [pixels], the ELN's, or None.
        label: integers [pixels], the true classes.
        image: integers [pixels], which image each is of.
    """

    logits: np.ndarray
    p_right: np.ndarray | None
    label: np.ndarray
    image: np.ndarray


def fit(pixels: Pixels) -> Calibration:
    """Fits all calibrations; how strongly is chosen by leaving images out."""
    num_classes = pixels.logits.shape[1]
    found = prediction_features(jnp.asarray(pixels.logits.T))
    prediction, features = np.asarray(found[0]), np.asarray(found[1]).T
    right = prediction == pixels.label
    inputs = {"class_confidence": features[:, _ODDS_FEATURES], "logistic": features}
    if pixels.p_right is not None:
        judged = np.asarray(eln_feature(jnp.asarray(pixels.p_right)))
        inputs["logistic_eln"] = np.concatenate([features, judged[:, None]], axis=1)
    fitted = {}
    for name, seen in inputs.items():
        strength = choose_strength(seen, prediction, right, pixels.image, num_classes)
        fitted[name] = fit_by_class(seen, prediction, right, num_classes, strength)
    return Calibration(temperature=fit_temperature(pixels.logits, pixels.label), **fitted)


def fit_temperature(logits: np.ndarray, label: np.ndarray) -> np.ndarray:
    """The temperature with the least cross-entropy, in [0.05, 20], by golden-section search.

    Args:
        logits: float [pixels, num_classes].
        label: integers [pixels].

    Returns:
        float32 scalar.
    """
    logits = np.asarray(logits, np.float64)
    rows = np.arange(len(label))

    def loss(log_temperature):
        scaled = logits * np.exp(-log_temperature)
        scaled -= scaled.max(1, keepdims=True)
        return (np.log(np.exp(scaled).sum(1)) - scaled[rows, label]).mean()

    low, high = np.log(0.05), np.log(20.0)
    ratio = (np.sqrt(5.0) - 1.0) / 2.0
    while high - low > 1e-4:  # the loss has one minimum in 1 / temperature
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if loss(left) < loss(right):
            high = right
        else:
            low = left
    return np.asarray(np.exp((low + high) / 2), np.float32)
