"""From a network's outputs to maps of what is known about each pixel, on the accelerator.

One compiled program runs the network on a batch as often as the test-time views ask, brings what it
says to full size, averages, and reduces the classes to a few maps.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eln_jax.evaluation.calibrated import Calibration, calibrated_scores
from eln_jax.models.layers import resize_bilinear

Network = Callable[[Any, jax.Array], tuple[jax.Array, jax.Array | None]]

# Sides of a scaled image are multiples of this, as the networks' strides want it.
_SCALED_MULTIPLE = 8


class PixelMaps(NamedTuple):
    """What is known about each pixel of a prediction.

    Attributes:
        prediction: uint8, the most probable class (the first of equals).
        max_prob: float32 in [1 / num_classes, 1], its probability.
        entropy: float32 in [0, 1], of the class probabilities, divided by log(num_classes).
        margin: float32 in [0, 1], the highest probability minus the second.
        p_right: float32 in [0, 1], the ELN's probability that `prediction` is right, or None.
        label_doubt: float32, 0 or more: log of `max_prob` over the probability of the class that a
            given label map says, 0 where that says none; None without a label map.
        calibrated: P(right) by each calibration, float32 in [0, 1], by its name; None without.
    """

    prediction: Any
    max_prob: Any
    entropy: Any
    margin: Any
    p_right: Any
    label_doubt: Any = None
    calibrated: Any = None

    def scores(self) -> dict[str, np.ndarray]:
        """What each error detector says: in [0, 1], higher where a pixel is more likely right."""
        scores = {
            "max_prob": self.max_prob,
            "entropy": 1.0 - self.entropy,
            "margin": self.margin,
        }
        if self.p_right is not None:
            scores["eln"] = self.p_right
        return scores | (self.calibrated or {})


@dataclass(frozen=True)
class Views:
    """How often, and how, an image is looked at; the probabilities of all looks are averaged.

    Attributes:
        scales: of the image's sides, such as (0.75, 1.0, 1.25).
        flip: look at the mirror image as well.
        window: (height, width) in pixels of the windows that an image is cut into; where one window
            covers the image, and with None, it is looked at as a whole.
        overlap: smallest share of a window's side that it has in common with its neighbour,
            0 or more and below 1. Where windows overlap, pixels count less towards their borders.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    window: tuple[int, int] | None = None
    overlap: float = 0.5


SINGLE_VIEW = Views()


@partial(jax.jit, static_argnums=(0, 3, 4))
def pixel_maps(
    network: Network,
    variables: Any,
    image: jax.Array,
    views: Views = SINGLE_VIEW,
    offset: int = 0,
    label: jax.Array | None = None,
    calibration: Calibration | None = None,
) -> PixelMaps:
    """Predicts a batch.

    Args:
        network: `(variables, image) -> (logits, eln_logits)`, at any stride.
        variables: weights and statistics.
        image: uint8 [batch, height, width, 3], sides that the network can take.
        views: looks to average. The ELN judges the prediction of each look; its map is the mean.
        offset: sides of scaled images are multiples of 8, plus this.
        label: uint8 [batch, height, width], to be doubted; what is no class is not.
        calibration: what turns probabilities into P(right), for `calibrated`.

    Returns:
        Maps [batch, height, width].
    """
    looks = [
        (_scaled(image, scale, offset), flipped)
        for scale in views.scales
        for flipped in ((False, True) if views.flip else (False,))
    ]
    size = (image.shape[1], image.shape[2])
    positions = [_positions(scaled, views) for scaled, _ in looks]
    if len(looks) == 1 and positions == [None]:  # one look: its logits need no average
        planes, p_right = _look(network, variables, looks[0][0], size)
        calibrated = calibrated_scores(planes, p_right, calibration)
        return reduce_logits(planes, label)._replace(p_right=p_right, calibrated=calibrated)
    found = []
    for (scaled, flipped), places in zip(looks, positions, strict=True):
        seen = scaled[:, :, ::-1] if flipped else scaled
        if places is None:
            planes, p_right = _look(network, variables, seen, size)
            look: Any = (jax.nn.softmax(planes, 0), p_right)
        else:
            look = _look_through_windows(network, variables, seen, places, views)
            look = jax.tree.map(lambda x: _resize_planes(x, size), look)
        found.append(jax.tree.map(lambda x: x[..., ::-1], look) if flipped else look)
    probability, p_right = jax.tree.map(lambda *x: sum(x) / len(x), *found)
    planes = jnp.log(probability)
    calibrated = calibrated_scores(planes, p_right, calibration)
    return reduce_logits(planes, label)._replace(p_right=p_right, calibrated=calibrated)


def _scaled(image: jax.Array, scale: float, offset: int) -> jax.Array:
    """Resizes uint8 [batch, height, width, 3] to about `scale` times its sides."""
    if scale == 1.0:
        return image
    rows, columns = (
        max(1, round((side * scale - offset) / _SCALED_MULTIPLE)) * _SCALED_MULTIPLE + offset
        for side in image.shape[1:3]
    )
    resized = resize_bilinear(image.astype(jnp.float32), (rows, columns))
    return jnp.round(resized).astype(jnp.uint8)


def _positions(image: jax.Array, views: Views) -> tuple[tuple[int, ...], ...] | None:
    """Top rows and left columns of the windows over an image; None if it is seen as a whole."""
    if views.window is None or all(
        side <= window for side, window in zip(image.shape[1:3], views.window, strict=True)
    ):
        return None
    return tuple(
        starts(side, min(window, side), views.overlap)
        for side, window in zip(image.shape[1:3], views.window, strict=True)
    )


def starts(side: int, window: int, overlap: float) -> tuple[int, ...]:
    """Where windows begin that cover a side evenly, from 0 to `side - window`."""
    if side <= window:
        return (0,)
    step = max(1, int(window * (1.0 - overlap)))
    count = 1 + -(-(side - window) // step)
    return tuple(round(i * (side - window) / (count - 1)) for i in range(count))


def _look(network, variables, image, size):
    """One look at whole images: logits as planes [num_classes, batch, *size], P(right) or None."""
    logits, eln_logits = network(variables, image)
    p_right = None
    if eln_logits is not None:
        resized = _resized_planes(eln_logits[..., None], size)[0]
        p_right = jax.nn.sigmoid(resized.astype(jnp.float32))
    return _resized_planes(logits, size), p_right


def _look_through_windows(network, variables, image, places, views):
    """Probabilities [num_classes, batch, height, width] and P(right), blended over windows."""
    height, width = image.shape[1:3]
    size = tuple(min(w, side) for w, side in zip(views.window, (height, width), strict=True))
    corners = jnp.array([(top, left) for top in places[0] for left in places[1]])
    weight = jnp.outer(_tent(size[0]), _tent(size[1]))

    def probabilities(corner):
        window = jax.lax.dynamic_slice(
            image, (0, corner[0], corner[1], 0), (image.shape[0], *size, image.shape[3])
        )
        planes, p_right = _look(network, variables, window, size)
        found = (jax.nn.softmax(planes, 0), p_right, jnp.ones(size))
        return jax.tree.map(lambda x: _as_planes(weight, x) * x, found)

    def add(sums, corner):
        def paste(total, part):
            at = (*[0] * (total.ndim - 2), corner[0], corner[1])
            there = jax.lax.dynamic_slice(total, at, part.shape)
            return jax.lax.dynamic_update_slice(total, there + part, at)

        return jax.tree.map(paste, sums, probabilities(corner)), None

    shapes = jax.eval_shape(probabilities, corners[0])
    empty = jax.tree.map(lambda x: jnp.zeros((*x.shape[:-2], height, width), x.dtype), shapes)
    (planes, p_right, weights), _ = jax.lax.scan(add, empty, corners)
    return jax.tree.map(lambda x: x / _as_planes(weights, x), (planes, p_right))


def _as_planes(plane: jax.Array, x: jax.Array) -> jax.Array:
    """Gives a plane [height, width] the rank of x [..., height, width]."""
    return plane.reshape((1,) * (x.ndim - 2) + plane.shape)


def _tent(length: int) -> jax.Array:
    """Weights [length] of a window's rows or columns: 1 in the middle, near 0 at the ends."""
    position = jnp.arange(length) + 0.5
    return jnp.minimum(position, length - position) / (length / 2)


def _resize_planes(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Resizes [..., height, width] to [..., *size]."""
    if x.shape[-2:] == size:
        return x
    planes = x.reshape(-1, *x.shape[-2:], 1)
    return resize_bilinear(planes, size).reshape(*x.shape[:-2], *size)


def _resized_planes(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Resizes [batch, h, w, channels] into [channels, batch, *size].

    Channels become planes while the maps are still small: at full size every operation then runs
    along whole rows, which is several times faster on a CPU than along 11 or 21 channels.
    """
    batch, height, width, channels = x.shape
    planes = jnp.moveaxis(x, -1, 0).reshape(channels * batch, height, width, 1)
    return resize_bilinear(planes, size).reshape(channels, batch, *size)


def reduce_logits(planes: jax.Array, label: jax.Array | None = None) -> PixelMaps:
    """Reduces logits to maps, without the ELN's.

    Two scans over the classes: no array of probabilities is ever made, and neither the time to
    compile nor the memory grows with the number of classes. Averaged probabilities (several scales,
    sliding windows) can be reduced by passing their logarithms.

    Args:
        planes: [num_classes, ...] logits; at most 256 classes.
        label: [...] class ids to be doubted; what is no class is not.
    """
    num_classes = planes.shape[0]
    planes = planes.astype(jnp.float32)
    lowest = jnp.full_like(planes[0], -jnp.inf)
    zero = jnp.zeros_like(planes[0])

    def highest_two(found, plane):
        first, second, highest, index = found
        second = jnp.maximum(second, jnp.minimum(first, plane))
        highest = jnp.where(plane > first, index, highest)
        return (jnp.maximum(first, plane), second, highest, index + jnp.uint8(1)), None

    start = (lowest, lowest, zero.astype(jnp.uint8), jnp.uint8(0))
    (first, second, prediction, _), _ = jax.lax.scan(highest_two, start, planes)

    def sums(found, plane):
        difference = plane - first
        weight = jnp.exp(difference)
        # A class of probability 0 (logit -inf) adds nothing, where 0 * -inf would be nan.
        weighted = jnp.where(weight > 0, weight * difference, 0.0)
        return (found[0] + weight, found[1] + weighted), None

    (total, weighted), _ = jax.lax.scan(sums, (zero, zero), planes)
    entropy = (jnp.log(total) - weighted / total) / np.log(max(num_classes, 2))
    doubt = None
    if label is not None:
        label = label.astype(jnp.int32)
        own = jnp.take_along_axis(planes, jnp.minimum(label, num_classes - 1)[None], 0)[0]
        doubt = jnp.where(label < num_classes, first - own, 0.0)
    return PixelMaps(
        prediction=prediction,
        max_prob=1.0 / total,
        entropy=jnp.clip(entropy, 0.0, 1.0),
        margin=(1.0 - jnp.exp(second - first)) / total,
        p_right=None,
        label_doubt=doubt,
    )
