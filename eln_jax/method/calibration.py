"""P(right) of a predicted class by a logistic regression of its own on what the prediction shows.

The control that a learned gate has to beat, and a gate: it sees the class probabilities of a pixel,
but no image. It is fitted on the host to predictions on labelled images.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

# Beyond these odds a float32 probability can hardly go.
_MOST_ODDS = 16.0
_FEW_FEATURES = 3  # constant, odds and entropy come before the class probabilities
_NEWTON_STEPS = 50
STRENGTHS = (1.0, 10.0, 100.0, 1000.0, 10_000.0)


def num_features(num_classes: int) -> int:
    """Length of the features of `prediction_features`."""
    return _FEW_FEATURES + num_classes


def prediction_features(planes: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What a pixel's class probabilities show, for the regression.

    Args:
        planes: float32 [num_classes, ...] logits.

    Returns:
        The predicted class, int32 [...], and features, float32 [num_features, ...]: 1, the log
        odds of the predicted class in [-16, 16], the entropy divided by log(num_classes), and the
        probability of each class.
    """
    prediction = planes.argmax(0).astype(jnp.int32)
    index = jnp.arange(len(planes)).reshape(-1, *(1,) * prediction.ndim)
    weight = jnp.exp(planes - planes.max(0, keepdims=True))
    others = jnp.where(index == prediction[None], 0.0, weight).sum(0)
    odds = -jnp.log(jnp.clip(others, np.exp(-_MOST_ODDS), np.exp(_MOST_ODDS)))
    probability = weight / (1.0 + others)[None]
    # A class of probability 0 adds nothing, where 0 * -inf would be nan.
    log_probability = jnp.log(jnp.maximum(probability, 1e-30))
    entropy = -(probability * log_probability).sum(0) / np.log(max(len(planes), 2))
    few = jnp.stack([jnp.ones_like(odds), odds, entropy])
    return prediction, jnp.concatenate([few, probability])


def logit_of_right(
    prediction: jax.Array, features: jax.Array, coefficients: jax.Array
) -> jax.Array:
    """The regression's logit of "the predicted class is right".

    Args:
        prediction: int [...], predicted classes.
        features: float32 [num_features, ...].
        coefficients: float32 [num_classes, num_features] of `fit_by_class`.
    """
    return (coefficients.T[:, prediction] * features).sum(0)


def fit_by_class(
    features: np.ndarray,
    prediction: np.ndarray,
    right: np.ndarray,
    num_classes: int,
    strength: float,
) -> np.ndarray:
    """Fits a logistic regression for each predicted class, drawn towards one of all classes.

    A class that is seldom or never predicted, or never wrong, keeps close to what all classes have
    in common.

    Args:
        features: float [pixels, num_features], the first one constant; at least one pixel.
        prediction: integers [pixels], predicted classes.
        right: bool [pixels], whether the predicted class is the true one.
        num_classes: number of classes.
        strength: of the squared distance to the common coefficients, of standardised features, and
            of these to 0, in pixels.

    Returns:
        float32 [num_classes, num_features].
    """
    x, y = np.asarray(features, np.float64), np.asarray(right, np.float64)
    mean, deviation = x.mean(0), x.std(0)
    mean[0], deviation = 0.0, np.where(deviation > 1e-8, deviation, 1.0)
    x = (x - mean) / deviation
    free = np.full(x.shape[1], strength)
    free[0] = min(strength, 1.0)  # the share of errors itself need not be near one half
    common = fit_logistic(x, y, np.zeros(x.shape[1]), free)
    rows = [
        fit_logistic(x[prediction == c], y[prediction == c], common, np.full(x.shape[1], strength))
        for c in range(num_classes)
    ]
    coefficients = np.stack(rows) / deviation
    coefficients[:, 0] -= coefficients[:, 1:] @ mean[1:]
    return coefficients.astype(np.float32)


def fit_logistic(
    x: np.ndarray, y: np.ndarray, prior: np.ndarray, strength: np.ndarray
) -> np.ndarray:
    """Minimises the sum of log losses + strength / 2 * (coefficients - prior)**2 by Newton's steps.

    Args:
        x: float64 [pixels, features]; no pixel at all gives the prior.
        y: float64 [pixels], 0 or 1.
        prior: float64 [features].
        strength: float64 [features], above 0.

    Returns:
        float64 [features].
    """

    def objective(w):
        margin = x @ w
        return (np.logaddexp(0.0, margin) - y * margin).sum() + _penalty(w)

    def _penalty(w):
        return 0.5 * (strength * (w - prior) ** 2).sum()

    w = prior.copy()
    value = objective(w)
    for _ in range(_NEWTON_STEPS):
        p = 1.0 / (1.0 + np.exp(-np.clip(x @ w, -500, 500)))
        gradient = x.T @ (p - y) + strength * (w - prior)
        curvature = (x * (p * (1.0 - p))[:, None]).T @ x + np.diag(strength)
        step = np.linalg.solve(curvature, gradient)
        decrement = gradient @ step
        if decrement < 1e-9 * max(1.0, value):
            break
        size = 1.0
        while objective(w - size * step) > value - 0.25 * size * decrement and size > 1e-4:
            size /= 2
        w = w - size * step
        value = objective(w)
    return w


def choose_strength(
    features: np.ndarray,
    prediction: np.ndarray,
    right: np.ndarray,
    image: np.ndarray,
    num_classes: int,
    strengths: Sequence[float] = STRENGTHS,
    folds: int = 5,
) -> float:
    """The strength whose regressions say most of images that they were not fitted to.

    Args:
        features: float [pixels, num_features].
        prediction: integers [pixels].
        right: bool [pixels].
        image: integers [pixels], which image a pixel is of. Blocks of neighbours are left out in
            turn: of a video, images next to one another are nearly the same.
        num_classes: number of classes.
        strengths: to choose from.
        folds: parts to leave out, fewer where there are fewer images.

    Returns:
        The one with the least log loss; the greatest where there is but one image.
    """
    ids = np.unique(image)
    folds = min(folds, len(ids))
    if folds < 2:
        return max(strengths)
    fold = np.searchsorted(ids, image) * folds // len(ids)
    losses = []
    for strength in strengths:
        total = 0.0
        for k in range(folds):
            kept, left = fold != k, fold == k
            fitted = fit_by_class(
                features[kept], prediction[kept], right[kept], num_classes, strength
            )
            margin = (fitted[prediction[left]] * features[left]).sum(1)
            total += float((np.logaddexp(0.0, margin) - right[left] * margin).sum())
        losses.append(total)
    return float(strengths[int(np.argmin(losses))])
