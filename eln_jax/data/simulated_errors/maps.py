"""What every simulated error needs: void out of the way, holes filled, regions numbered, noise."""

import functools
from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy import ndimage

Rng = np.random.Generator
Op = Callable[..., np.ndarray]
Box = tuple[slice, slice]


def void_kept(change: Op) -> Op:
    """Shows an op a map whose void has taken the nearest class, and puts void back afterwards.

    So no op has to think of void, and borders and objects run on through it.
    """

    @functools.wraps(change)
    def op(
        label: np.ndarray, rng: Rng, *, num_classes: int, ignore_label: int = 255, **options
    ) -> np.ndarray:
        void = label == ignore_label
        if void.all():
            return label.copy()
        changed = change(fill(label, void), rng, num_classes=num_classes, **options)
        return np.where(void, label, changed)

    del op.__wrapped__  # the signature to be shown is the one to be called
    return op


def fill(label: np.ndarray, holes: np.ndarray) -> np.ndarray:
    """Gives holes the class of the nearest pixel outside them; diagonal steps count one."""
    if not holes.any():
        return label
    nearest = ndimage.distance_transform_cdt(holes, return_distances=False, return_indices=True)
    return label[tuple(np.asarray(nearest))]


def smooth_noise(rng: Rng, size: tuple[int, ...], cells: int) -> np.ndarray:
    """Returns noise, float32 `[height, width]`, with `cells` bumps on the shorter side."""
    grid = [min(extent, round(cells * extent / min(size))) for extent in size]
    bumps = Image.fromarray(rng.standard_normal(grid, np.float32))
    return np.asarray(bumps.resize((size[1], size[0]), Image.Resampling.BICUBIC))


def number_regions(mask: np.ndarray) -> np.ndarray:
    """Numbers the 4-connected regions of a mask from 1; 0 is outside."""
    numbers, _ = ndimage.label(mask)  # pyright: ignore[reportGeneralTypeIssues]
    return numbers


def class_boxes(label: np.ndarray, num_classes: int) -> dict[int, Box]:
    """Returns the bounding box of each class that is present."""
    boxes = ndimage.find_objects(label.astype(np.int16) + 1, max_label=num_classes)
    return {value: box for value, box in enumerate(boxes) if box is not None}


def widen(box: Box, margin: int) -> Box:
    """Adds a margin on all sides, as far as the map goes."""
    rows, columns = (slice(max(0, side.start - margin), side.stop + margin) for side in box)
    return rows, columns
