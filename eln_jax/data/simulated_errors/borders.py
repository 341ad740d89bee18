"""Simulated errors of outlines: shifted, grown or shrunken, coarse."""

import numpy as np
from scipy import ndimage

from eln_jax.data.simulated_errors.maps import (
    Rng,
    class_boxes,
    fill,
    smooth_noise,
    void_kept,
    widen,
)


@void_kept
def shift_boundaries(
    label: np.ndarray, rng: Rng, *, num_classes: int, strength: float = 1.0
) -> np.ndarray:
    """Moves borders to and fro by a smooth field of displacements.

    Their deviation is drawn between 1 pixel and `3 * strength` % of the map's shorter side.
    """
    del num_classes
    reach = rng.uniform(1, max(1.0, 0.03 * strength * min(label.shape)))
    rows, columns = (
        np.clip(own + np.rint(reach * smooth_noise(rng, label.shape, cells=7)), 0, extent - 1)
        for own, extent in zip(np.indices(label.shape, np.float32, True), label.shape, strict=True)
    )
    return label.take(rows.astype(np.intp) * label.shape[1] + columns.astype(np.intp))


@void_kept
def erode_or_dilate_class(
    label: np.ndarray, rng: Rng, *, num_classes: int, strength: float = 1.0
) -> np.ndarray:
    """Lets a class that is present grow, or shrink in favour of the nearest other class.

    The radius is drawn between 1 pixel and `4 * strength` % of the map's shorter side. A map of a
    single class stays as it is.
    """
    boxes = class_boxes(label, num_classes)
    if len(boxes) < 2:
        return label
    chosen = int(rng.choice(list(boxes)))
    radius = rng.uniform(1, max(1.0, 0.04 * strength * min(label.shape)))
    window = widen(boxes[chosen], int(radius) + 1)
    part, result = label[window], label.copy()
    # To grow is to fill what is near in the other classes, to shrink what is near in this one.
    filled = (part == chosen) != (rng.random() < 0.5)
    near = filled & (np.asarray(ndimage.distance_transform_edt(filled)) <= radius)
    result[window][near] = fill(part, filled)[near]
    return result


@void_kept
def coarsen(
    label: np.ndarray, rng: Rng, *, num_classes: int, factors: tuple[int, int] = (8, 32)
) -> np.ndarray:
    """Gives each block of a grid that begins anywhere its commonest class.

    `factors` are the least and the largest side of a block in pixels.
    """
    factor = int(rng.integers(*factors, endpoint=True))
    rows, columns = ((np.arange(extent) + rng.integers(factor)) // factor for extent in label.shape)
    shape = (rows[-1] + 1, columns[-1] + 1, num_classes)
    ballots = (rows[:, None] * shape[1] + columns) * num_classes + label
    votes = np.bincount(ballots.ravel(), minlength=int(np.prod(shape)))
    winners = votes.reshape(shape).argmax(-1).astype(label.dtype)
    return winners.take(rows, 0).take(columns, 1)
