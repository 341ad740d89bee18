"""Errors made on purpose on label maps, from which an ELN can learn what wrong looks like.

An op takes a label map, uint8 `[height, width]`, and returns a new one as a network might have
predicted it. It knows nothing about the classes. All ops are called alike, with options of their
own, and draw everything random from the generator that they are given:

    op(label, rng, num_classes=21, ignore_label=255, strength=1.0) -> label

Void stays where it was and nowhere else, and other ids stay below `num_classes`; `ignore_label` is
no class. `OPS` names the ops; `simulate_errors` composes them.

`docs/images/simulated_errors.png` is made by:

    import matplotlib.pyplot as plt
    import numpy as np
    from eln_jax.data.simulated_errors import OPS, simulate_errors
    from eln_jax.data.synthetic import SyntheticSource
    from eln_jax.evaluation.panels import VOID_COLOR, make_palette

    source = SyntheticSource(60, (256, 256), seed=3)
    label, colors = source.read_label(34), np.full((256, 3), VOID_COLOR, np.uint8)
    colors[:6] = make_palette(6)
    maps = {name: op(label, np.random.default_rng(5), num_classes=6) for name, op in OPS.items()}
    maps["all, 25 % wrong"] = simulate_errors(
        label, np.random.default_rng(2), num_classes=6, error_rate=(0.25, 0.25)
    )
    pictures = {"image": source.read_image(34), "label": colors[label]}
    figure, axes = plt.subplots(2, 5, figsize=(12.5, 5.6), layout="constrained")
    for axis, name in zip(axes.flat, (*pictures, *maps)):
        axis.set_title(name)
        axis.axis("off")
        if name in maps:
            wrong = maps[name] != label
            pale = 180 + colors[label] // 4
            pictures[name] = np.where(wrong[..., None], colors[maps[name]], pale)
            axis.contour(wrong, [0.5], colors="black", linewidths=0.8)
        axis.imshow(pictures[name])
    figure.supxlabel("wrong pixels outlined and in full colour, right ones pale")
    figure.savefig("docs/images/simulated_errors.png", dpi=80)
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

from eln_jax.errors import UserError, did_you_mean

# How far the error rate may lie from the one drawn, and how many ops are tried to reach it.
TOLERANCE = 0.02
MOST_TRIES = 40
# Shares of the map between which components are drawn, as long as there are any.
USUAL_SIZES = (0.0005, 0.5)

Rng = np.random.Generator
Op = Callable[..., np.ndarray]
_Box = tuple[slice, slice]


class _Component(NamedTuple):
    """A connected region of one class: a bool mask in the bounding box of the class."""

    value: int
    box: _Box
    inside: np.ndarray


def _void_kept(change: Op) -> Op:
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
        changed = change(_close(label, void), rng, num_classes=num_classes, **options)
        return np.where(void, label, changed)

    del op.__wrapped__  # the signature to be shown is the one to be called
    return op


@_void_kept
def shift_boundaries(
    label: np.ndarray, rng: Rng, *, num_classes: int, strength: float = 1.0
) -> np.ndarray:
    """Moves borders to and fro by a smooth field of displacements.

    Their deviation is drawn between 1 pixel and `3 * strength` % of the map's shorter side.
    """
    del num_classes
    reach = rng.uniform(1, max(1.0, 0.03 * strength * min(label.shape)))
    rows, columns = (
        np.clip(own + np.rint(reach * _noise(rng, label.shape, cells=7)), 0, extent - 1)
        for own, extent in zip(np.indices(label.shape, np.float32, True), label.shape, strict=True)
    )
    return label.take(rows.astype(np.intp) * label.shape[1] + columns.astype(np.intp))


@_void_kept
def erode_or_dilate_class(
    label: np.ndarray, rng: Rng, *, num_classes: int, strength: float = 1.0
) -> np.ndarray:
    """Lets a class that is present grow, or shrink in favour of the nearest other class.

    The radius is drawn between 1 pixel and `4 * strength` % of the map's shorter side. A map of a
    single class stays as it is.
    """
    boxes = _boxes(label, num_classes)
    if len(boxes) < 2:
        return label
    chosen = int(rng.choice(list(boxes)))
    radius = rng.uniform(1, max(1.0, 0.04 * strength * min(label.shape)))
    window = _widen(boxes[chosen], int(radius) + 1)
    part, result = label[window], label.copy()
    # To grow is to fill what is near in the other classes, to shrink what is near in this one.
    filled = (part == chosen) != (rng.random() < 0.5)
    near = filled & (np.asarray(ndimage.distance_transform_edt(filled)) <= radius)
    result[window][near] = _close(part, filled)[near]
    return result


@_void_kept
def swap_component(
    label: np.ndarray, rng: Rng, *, num_classes: int, confusion: np.ndarray | None = None
) -> np.ndarray:
    """Gives one connected component another class.

    `confusion` are weights `[num_classes, num_classes]`, rows are the truth; its diagonal does not
    count. Without it, or where a row is empty, the class is drawn uniformly. A single class leaves
    nothing to swap.
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


@_void_kept
def drop_object(label: np.ndarray, rng: Rng, *, num_classes: int) -> np.ndarray:
    """Overlooks one connected component: its surroundings close over it.

    The largest component of the commonest class is spared, so a map of one component stays as it
    is.
    """
    component = _draw_component(label, rng, num_classes, spare_largest=True)
    if component is None:
        return label
    # A component borders on nothing but other classes, so the window needs no more margin.
    window, result = _widen(component.box, 1), label.copy()
    lost = np.zeros(label.shape, bool)
    lost[component.box] = component.inside
    filled = _close(label[window], label[window] == component.value)
    result[window][lost[window]] = filled[lost[window]]
    return result


@_void_kept
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


@_void_kept
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


@_void_kept
def blotches(label: np.ndarray, rng: Rng, *, num_classes: int, strength: float = 1.0) -> np.ndarray:
    """Covers the map with blotches, each of one class; what has that already takes a second.

    They cover about 2 % to `12 * strength` % of the map. A single class leaves nothing to change.
    """
    if num_classes < 2:
        return label
    field = _noise(rng, label.shape, cells=int(rng.integers(4, 17)))
    share = min(1.0, rng.uniform(0.02, max(0.02, 0.12 * strength)))
    # Every fourth row and column tells the quantile well enough.
    numbers = _regions(field >= np.quantile(field[::4, ::4], 1 - share))
    first = rng.integers(num_classes, size=numbers.max() + 1)
    second = (first + rng.integers(1, num_classes, size=len(first))) % num_classes
    first, second = (table.astype(label.dtype)[numbers] for table in (first, second))
    return np.where(numbers == 0, label, np.where(label == first, second, first))


OPS: Mapping[str, Op] = {
    "shift_boundaries": shift_boundaries,
    "erode_or_dilate_class": erode_or_dilate_class,
    "swap_component": swap_component,
    "drop_object": drop_object,
    "insert_object": insert_object,
    "coarsen": coarsen,
    "blotches": blotches,
}


@dataclasses.dataclass(frozen=True)
class Simulation:
    """Which errors a stream makes: the range of the share of wrong pixels, and the names of ops."""

    error_rate: tuple[float, float]
    ops: tuple[str, ...]

    def __post_init__(self):
        """Refuses rates and ops that there are not."""
        _check(self.error_rate, self.ops)


def simulate_errors(
    label: np.ndarray,
    rng: Rng,
    *,
    num_classes: int,
    ignore_label: int = 255,
    error_rate: tuple[float, float] = (0.05, 0.3),
    ops: Sequence[str] = tuple(OPS),
    confusion: np.ndarray | None = None,
    donor: np.ndarray | None = None,
) -> np.ndarray:
    """Composes ops drawn at random until a drawn share of the pixels is wrong.

    An op that makes nothing worse is taken back. Of one that makes too much wrong, only some of
    the regions that it changed are kept, the last of them in part. So the rate comes within 10 %
    of the one drawn, never farther than `TOLERANCE` from it, give or take a pixel. After
    `MOST_TRIES` ops whatever was reached is returned: a map that the chosen ops cannot change
    enough stays below its rate, and one without two classes to choose from, or without a pixel
    that is not void, as it is.

    Args:
      label: uint8 `[height, width]`: ids below `num_classes`, or `ignore_label`.
      rng: Draws everything random.
      num_classes: Number of classes.
      ignore_label: Id of void.
      error_rate: Least and largest share of wrong pixels among those that are not void.
      ops: Names in `OPS`, each as likely as another; one named twice is twice as likely.
      confusion: For `swap_component`.
      donor: For `insert_object`.

    Returns:
      A new map like `label`.

    Raises:
      UserError: There is no such op, or no such rate.
    """
    _check(error_rate, ops)
    void = label == ignore_label
    if void.all():
        return label.copy()
    rate = rng.uniform(*error_rate)
    goal = rate * np.count_nonzero(~void)
    # Many errors are larger errors as well, not only more of them.
    strength = {"strength": 1 + 5 * rate}
    options = {
        "shift_boundaries": strength,
        "erode_or_dilate_class": strength,
        "blotches": strength,
        "swap_component": {"confusion": confusion},
        "insert_object": {"donor": donor},
    }
    slack = min(TOLERANCE * np.count_nonzero(~void), 0.1 * goal)
    # Closed once for all ops, since that takes longer than most of them.
    truth = current = _close(label, void)
    wrong = np.zeros(label.shape, bool)
    for _ in range(MOST_TRIES):
        missing = goal - np.count_nonzero(wrong)
        if missing <= slack:
            break
        name = ops[int(rng.integers(len(ops)))]
        tried = OPS[name](
            current,
            rng,
            num_classes=num_classes,
            ignore_label=ignore_label,
            **options.get(name, {}),
        )
        gain = ((tried != truth) & ~void).view(np.int8) - wrong.view(np.int8)
        gained = gain.sum(dtype=np.int64)
        if gained > missing + slack:
            tried = _keep_part(current, tried, gain, missing, rng)
        if gained > 0:
            current, wrong = tried, (tried != truth) & ~void
    return np.where(void, label, current)


def _check(error_rate: tuple[float, float], ops: Sequence[str]) -> None:
    """Refuses rates and ops that there are not."""
    low, high = error_rate
    if not 0 <= low <= high <= 1:
        raise UserError(
            f"error_rate is {error_rate}: give the least and the largest share of wrong pixels, "
            "both from 0 to 1."
        )
    if not ops:
        raise UserError(f"ops is empty: name at least one of {', '.join(OPS)}.")
    for name in ops:
        if name not in OPS:
            raise UserError(
                f"there is no simulated error {name!r}: choose from {', '.join(OPS)}."
                + did_you_mean(name, OPS)
            )


def _keep_part(
    current: np.ndarray, tried: np.ndarray, gain: np.ndarray, goal: float, rng: Rng
) -> np.ndarray:
    """Takes on as much of `tried` as adds `goal` wrong pixels; `gain` is what each pixel adds."""
    regions = _regions(current != tried)
    changed = np.flatnonzero(regions)
    # Region by region in random order, within a region along a smooth field. Sixteen bits sort
    # fast, and stably, so that ties fall alike on every machine.
    turn = rng.permutation(regions.max() + 1)[regions.ravel()[changed]].astype(np.uint16)
    field = 2**15 + 2**13 * _noise(rng, tried.shape, cells=4).ravel()[changed]
    order = changed[np.lexsort((np.clip(field, 0, 2**16 - 1).astype(np.uint16), turn))]
    enough = np.argmax(np.cumsum(gain.ravel()[order], dtype=np.int64) >= goal)
    result = current.copy()
    result.flat[order[: enough + 1]] = tried.flat[order[: enough + 1]]
    return result


def _close(label: np.ndarray, holes: np.ndarray) -> np.ndarray:
    """Fills holes with the class of the nearest pixel outside them; diagonal steps count one."""
    if not holes.any():
        return label
    nearest = ndimage.distance_transform_cdt(holes, return_distances=False, return_indices=True)
    return label[tuple(np.asarray(nearest))]


def _noise(rng: Rng, size: tuple[int, ...], cells: int) -> np.ndarray:
    """Returns smooth noise, float32 `[height, width]`, with `cells` bumps on the shorter side."""
    grid = [min(extent, round(cells * extent / min(size))) for extent in size]
    bumps = Image.fromarray(rng.standard_normal(grid, np.float32))
    return np.asarray(bumps.resize((size[1], size[0]), Image.Resampling.BICUBIC))


def _regions(mask: np.ndarray) -> np.ndarray:
    """Numbers the 4-connected regions of a mask from 1; 0 is outside."""
    numbers, _ = ndimage.label(mask)  # pyright: ignore[reportGeneralTypeIssues]
    return numbers


def _boxes(label: np.ndarray, num_classes: int) -> dict[int, _Box]:
    """Returns the bounding box of each class that is present."""
    boxes = ndimage.find_objects(label.astype(np.int16) + 1, max_label=num_classes)
    return {value: box for value, box in enumerate(boxes) if box is not None}


def _widen(box: _Box, margin: int) -> _Box:
    rows, columns = (slice(max(0, side.start - margin), side.stop + margin) for side in box)
    return rows, columns


def _draw_component(
    label: np.ndarray, rng: Rng, num_classes: int, *, spare_largest: bool = False
) -> _Component | None:
    """Draws a class, then one of its 4-connected components: of `USUAL_SIZES` if any has one.

    With `spare_largest` never the largest component of the commonest class.
    """
    boxes = _boxes(label, num_classes)
    commonest = np.bincount(label.ravel(), minlength=num_classes)[:num_classes].argmax()
    for low, high in (USUAL_SIZES, (0.0, 1.0)):
        for value in rng.permutation(list(boxes)).tolist():
            numbers = _regions(label[boxes[value]] == value)
            areas = np.bincount(numbers.ravel())
            fitting = (areas >= low * label.size) & (areas <= high * label.size)
            fitting[0] = False
            if spare_largest and value == commonest:
                fitting[1 + areas[1:].argmax()] = False
            if fitting.any():
                number = rng.choice(np.flatnonzero(fitting))
                return _Component(value, boxes[value], numbers == number)
    return None
