"""Simulated errors of whole regions: confused, overlooked, imagined."""

from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

from eln_jax.data.simulated_errors.maps import (
    Box,
    Rng,
    class_boxes,
    fill,
    number_regions,
    smooth_noise,
    void_kept,
    widen,
)

# Shares of the map between which components are drawn, as long as there are any.
USUAL_SIZES = (0.0005, 0.5)


@void_kept
def swap_component(
    label: np.ndarray, rng: Rng, *, num_classes: int, confusion: np.ndarray | None = None
) -> np.ndarray:
    """Gives one connected component another class.

    `confusion` are weights `[num_classes, num_classes]`, rows are the truth: how often a network
    takes one class for another; its diagonal does not count. Without it, or where a row is empty,
    the class is drawn uniformly. A single class leaves nothing to swap.
    """
    component = _draw_component(label, rng, num_classes)
    if component is None or num_classes < 2:
        return label
    others = np.arange(num_classes) != component.value
    weights = others if confusion is None else others * confusion[component.value]
    weights = weights if weights.any() else others
    other = rng.choice(num_classes, p=weights / weights.sum())
    result = label.copy()
    result[component.box][component.inside] = other
    return result


@void_kept
def drop_object(label: np.ndarray, rng: Rng, *, num_classes: int) -> np.ndarray:
    """Overlooks one connected component: its surroundings close over it.

    The largest component of the commonest class is spared, so a map of one component stays as it
    is.
    """
    component = _draw_component(label, rng, num_classes, spare_largest=True)
    if component is None:
        return label
    # A component borders on nothing but other classes, so the window needs no more margin.
    window, result = widen(component.box, 1), label.copy()
    lost = np.zeros(label.shape, bool)
    lost[component.box] = component.inside
    filled = fill(label[window], label[window] == component.value)
    result[window][lost[window]] = filled[lost[window]]
    return result


@void_kept
def insert_object(
    label: np.ndarray,
    rng: Rng,
    *,
    num_classes: int,
    sides: tuple[float, float] = (0.1, 0.6),
    donor: np.ndarray | None = None,
) -> np.ndarray:
    """Pastes a component of another map at a random place where it is wrong.

    `donor` is another label map of any size; without it `label` is mirrored. Its ids from
    `num_classes` on are not pasted, the largest component of its commonest class only if there is
    no other. `sides` are the least and largest length of what is pasted, as a share of the map's
    shorter side; nothing is enlarged more than fourfold.
    """
    donor = label[:, ::-1] if donor is None else donor
    component = _draw_component(donor, rng, num_classes, spare_largest=True)
    component = component or _draw_component(donor, rng, num_classes)
    if component is None:
        return label
    inside = component.inside[ndimage.find_objects(component.inside.view(np.int8))[0]]
    scale = min(4.0, rng.uniform(*sides) * min(label.shape) / max(inside.shape))
    size = [max(1, round(extent * scale)) for extent in reversed(inside.shape)]
    pasted = Image.fromarray(inside).resize(size, Image.Resampling.NEAREST)
    rows, columns = np.nonzero(np.asarray(pasted))
    wrong = np.flatnonzero(label != component.value)
    if not (len(rows) and len(wrong)):
        return label
    # One pixel of the component is laid on one that has another class.
    anchor, (row, column) = rng.integers(len(rows)), divmod(rng.choice(wrong), label.shape[1])
    rows, columns = rows + (row - rows[anchor]), columns + (column - columns[anchor])
    seen = (rows >= 0) & (rows < label.shape[0]) & (columns >= 0) & (columns < label.shape[1])
    result = label.copy()
    result[rows[seen], columns[seen]] = component.value
    return result


@void_kept
def blotches(label: np.ndarray, rng: Rng, *, num_classes: int, strength: float = 1.0) -> np.ndarray:
    """Covers the map with blotches, each of one class; what has that already takes a second.

    They cover about 2 % to `12 * strength` % of the map. A single class leaves nothing to change.
    """
    if num_classes < 2:
        return label
    field = smooth_noise(rng, label.shape, cells=int(rng.integers(4, 17)))
    share = min(1.0, rng.uniform(0.02, max(0.02, 0.12 * strength)))
    # Every fourth row and column tells the quantile well enough.
    numbers = number_regions(field >= np.quantile(field[::4, ::4], 1 - share))
    first = rng.integers(num_classes, size=numbers.max() + 1)
    second = (first + rng.integers(1, num_classes, size=len(first))) % num_classes
    first, second = (table.astype(label.dtype)[numbers] for table in (first, second))
    return np.where(numbers == 0, label, np.where(label == first, second, first))


class _Component(NamedTuple):
    """A connected region of one class: a bool mask in the bounding box of the class."""

    value: int
    box: Box
    inside: np.ndarray


def _draw_component(
    label: np.ndarray, rng: Rng, num_classes: int, *, spare_largest: bool = False
) -> _Component | None:
    """Draws a class, then one of its 4-connected components: of `USUAL_SIZES` if any has one.

    With `spare_largest` never the largest component of the commonest class.
    """
    boxes = class_boxes(label, num_classes)
    commonest = np.bincount(label.ravel(), minlength=num_classes)[:num_classes].argmax()
    for low, high in (USUAL_SIZES, (0.0, 1.0)):
        for value in rng.permutation(list(boxes)).tolist():
            numbers = number_regions(label[boxes[value]] == value)
            areas = np.bincount(numbers.ravel())
            fitting = (areas >= low * label.size) & (areas <= high * label.size)
            fitting[0] = False
            if spare_largest and value == commonest:
                fitting[1 + areas[1:].argmax()] = False
            if fitting.any():
                number = rng.choice(np.flatnonzero(fitting))
                return _Component(value, boxes[value], numbers == number)
    return None
