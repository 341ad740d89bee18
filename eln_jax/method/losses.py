"""Losses: per-pixel values or (sum, count) pairs; void and rejected pixels leave by mask.

Nothing here divides by a count that may be zero: a term without pixels is 0 with zero gradients.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

SumCount = tuple[jax.Array, jax.Array]


def mean(sum_count: SumCount) -> jax.Array:
    """Returns sum / count, and 0 where the count is 0."""
    total, count = sum_count
    return total / jnp.where(count > 0, count, 1.0)


def cross_entropy(
    logits: jax.Array, label: jax.Array, mask: jax.Array, class_weights: jax.Array | None = None
) -> SumCount:
    """Cross-entropy over the pixels of a mask.

    Args:
        logits: float32 [..., num_classes].
        label: int [...], in [0, num_classes) where the mask holds.
        mask: bool [...], or float weights of 0 or more; pixels of weight 0 count for nothing,
            whatever their label.
        class_weights: float32 [num_classes]; the mean is then the weighted mean.

    Returns:
        The (weighted) sum and the (weighted) number of pixels.
    """
    safe_label = jnp.where(mask > 0, label, 0).astype(jnp.int32)
    values = optax.losses.softmax_cross_entropy_with_integer_labels(logits, safe_label)
    weights = mask.astype(jnp.float32)
    if class_weights is not None:
        weights = weights * class_weights[safe_label]
    return (values * weights).sum(), weights.sum()


def below_ceiling_only(loss: jax.Array, supervised: jax.Array, ceiling: float) -> jax.Array:
    """Returns the loss while it is at least `ceiling` times the supervised loss, else 0.

    It holds an auxiliary decoder a fixed multiple worse than the main one, so that its mistakes
    stay plausible and many (paper section 3.2).
    """
    learns = jax.lax.stop_gradient(loss >= ceiling * supervised)
    return jnp.where(learns, loss, 0.0)


def differentiated_if_needed(
    loss: Callable[[Any, Any], tuple[jax.Array, Any]], params: Any, operands: Any
) -> tuple[jax.Array, Any]:
    """Evaluates a loss whose gradient costs nothing where nobody asks for it.

    An auxiliary decoder at its ceiling has a gradient of zero. That is known before the backward
    pass, half of the work, which is then left out.

    Args:
        loss: (params, operands) -> (scalar, anything else, which is not differentiated). It must
            not use traced values from around it.
        params: what it is differentiated by.
        operands: what else it is computed from; no gradient goes back to it.

    Returns:
        As `loss`.
    """

    @jax.custom_vjp
    def evaluate(params, operands):
        return loss(params, operands)

    def forward(params, operands):
        value, backward, rest = jax.vjp(lambda p: loss(p, operands), params, has_aux=True)
        return (value, rest), backward

    def gradient(backward, given):
        shapes = jax.eval_shape(backward, given[0])
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        (by_params,) = jax.lax.cond(given[0] != 0, backward, lambda _: zeros, given[0])
        return by_params, None

    evaluate.defvjp(forward, gradient)
    return evaluate(params, operands)


def eln_loss(
    eln_logits: jax.Array, correct_mask: jax.Array, mask: jax.Array, max_error_weight: float
) -> jax.Array:
    """Balanced binary cross-entropy of the Error Localization Network (paper eq. 4).

    Args:
        eln_logits: float32 [...] of one prediction for a whole batch.
        correct_mask: bool [...]; True where the predicted label is right.
        mask: bool [...]; pixels that count.
        max_error_weight: bound of the error pixels' weight N_correct / N_error; 0 for none.

    Returns:
        float32 scalar: the mean over the pixels that count.
    """
    correct = correct_mask & mask
    error = ~correct_mask & mask
    num_correct, num_error = correct.sum(dtype=jnp.float32), error.sum(dtype=jnp.float32)
    error_weight = num_correct / jnp.maximum(num_error, 1.0)
    if max_error_weight > 0:
        error_weight = jnp.minimum(error_weight, max_error_weight)
    values = optax.losses.sigmoid_binary_cross_entropy(eln_logits, correct.astype(jnp.float32))
    weights = correct + error * error_weight
    return mean(((values * weights).sum(), num_correct + num_error))


def contrastive_loss(
    anchors: jax.Array,
    keys: jax.Array,
    label: jax.Array,
    mask: jax.Array,
    *,
    num_classes: int,
    temperature: float,
    form: str,
) -> jax.Array:
    """Pixel contrast of one set of pixels between student and teacher (paper eq. 9).

    With the one-hot class matrix M of the kept pixels, the sums over classes are E @ M where
    E = exp((cosine - 1) / temperature): no loop over classes, and no overflow, since only ratios of
    E's sums count.

    Args:
        anchors: float32 [pixels, channels], the student's embeddings (differentiated).
        keys: float32 [pixels, channels], the teacher's embeddings.
        label: int [pixels], pseudo-labels.
        mask: bool [pixels], pseudo-labels that are kept.
        num_classes: number of classes.
        temperature: softmax temperature.
        form: "info_nce": a logarithm for every anchor, mean over a class's anchors, then over the
            classes present. "official": the authors' code, one logarithm a class over all pairs
            with the teacher's pixels as rows, divided by the number of the class's pixels.

    Returns:
        float32 scalar, 0 if no pixel is kept.
    """
    anchors, keys = _unit_length(anchors), _unit_length(keys)
    one_hot = jax.nn.one_hot(label, num_classes) * mask[:, None].astype(jnp.float32)
    pixels = one_hot.sum(0)  # of each class
    present = pixels > 0
    if form == "info_nce":
        similarity = jnp.exp((anchors @ keys.T - 1.0) / temperature)
        by_class = similarity @ one_hot  # [pixels, num_classes]
        total = jnp.where(mask, by_class.sum(-1), 1.0)
        positive = jnp.where(mask, (by_class * one_hot).sum(-1), 1.0)
        per_class = one_hot.T @ (jnp.log(total) - jnp.log(positive))
    else:
        similarity = jnp.exp((keys @ anchors.T - 1.0) / temperature)
        by_class = one_hot.T @ (similarity @ one_hot)  # [row class, column class]
        positive = jnp.where(present, jnp.diagonal(by_class), 1.0)
        total = jnp.where(present, by_class.sum(-1), 1.0)
        per_class = jnp.log(total) - jnp.log(positive)
    return mean(((per_class / jnp.maximum(pixels, 1.0)).sum(), present.sum(dtype=jnp.float32)))


def windowed_contrastive_loss(
    anchors: jax.Array,
    keys: jax.Array,
    label: jax.Array,
    mask: jax.Array,
    rng: jax.Array,
    *,
    num_windows: int,
    window_size: int,
    **kwargs,
) -> jax.Array:
    """Mean of `contrastive_loss` over random windows, the same for the whole batch.

    A scan over the windows that recomputes each in the backward pass bounds the memory by one
    window's matrix of (batch * window_size**2)**2 similarities.

    Args:
        anchors: float32 [batch, height, width, channels] of the student.
        keys: float32 [batch, height, width, channels] of the teacher.
        label: int [batch, height, width].
        mask: bool [batch, height, width].
        rng: key that draws the windows.
        num_windows: number of windows.
        window_size: side of a window; a smaller map is taken whole.
        **kwargs: as in `contrastive_loss`.

    Returns:
        float32 scalar.
    """
    _, height, width, _ = anchors.shape
    size = (min(window_size, height), min(window_size, width))
    low = jnp.zeros((num_windows, 2), jnp.int32)
    high = jnp.array([[height - size[0] + 1, width - size[1] + 1]], jnp.int32)
    corners = jax.random.randint(rng, low.shape, low, high)

    @jax.checkpoint
    def one_window(total, corner):
        def cut(x):
            window = jax.lax.dynamic_slice_in_dim(x, corner[0], size[0], axis=1)
            window = jax.lax.dynamic_slice_in_dim(window, corner[1], size[1], axis=2)
            return window.reshape(-1, *x.shape[3:])

        loss = contrastive_loss(cut(anchors), cut(keys), cut(label), cut(mask), **kwargs)
        return total + loss, None

    total, _ = jax.lax.scan(one_window, jnp.float32(0.0), corners)
    return total / num_windows


def _unit_length(x: jax.Array) -> jax.Array:
    """Divides vectors [..., channels] by their length; a zero vector keeps a finite gradient."""
    return x * jax.lax.rsqrt(jnp.maximum((x * x).sum(-1, keepdims=True), 1e-16))


def with_sum(name: str, parts: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Figures to log: the sum under `name`, the parts under `name/part`."""
    return {name: sum(parts.values(), jnp.zeros(()))} | {
        f"{name}/{part}": v for part, v in parts.items()
    }
