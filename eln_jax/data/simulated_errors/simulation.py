"""Composes simulated errors until a drawn share of a label map is wrong."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from eln_jax.data.simulated_errors import borders, regions
from eln_jax.data.simulated_errors.maps import Op, Rng, fill, number_regions, smooth_noise
from eln_jax.errors import UserError, did_you_mean

OPS: Mapping[str, Op] = {
    "shift_boundaries": borders.shift_boundaries,
    "erode_or_dilate_class": borders.erode_or_dilate_class,
    "swap_component": regions.swap_component,
    "drop_object": regions.drop_object,
    "insert_object": regions.insert_object,
    "coarsen": borders.coarsen,
    "blotches": regions.blotches,
}
# How far the error rate may lie from the one drawn, and how many ops are tried to reach it.
TOLERANCE = 0.02
MOST_TRIES = 40
# Least and largest side of a coarse prediction's blocks, in pixels of the image.
BLOCKS = (8, 32)


@dataclasses.dataclass(frozen=True)
class Simulation:
    """Which errors are made.

    Attributes:
      error_rate: Least and largest share of wrong pixels among those that are not void.
      ops: Names in `OPS`, each as likely as another; one named twice is twice as likely.
      stride: From one pixel of the map to the next in pixels of the image; `thin_out` makes it so.
        At that of the network's logits errors look as they would there, and cost little.
      confusion: For `swap_component`; None: all classes alike.

    Raises:
      UserError: There is no such op, or no such rate.
    """

    error_rate: tuple[float, float] = (0.05, 0.3)
    ops: tuple[str, ...] = tuple(OPS)
    stride: int = 4
    confusion: np.ndarray | None = None

    def __post_init__(self):
        """Refuses rates and ops that there are not."""
        low, high = self.error_rate
        if not 0 <= low <= high <= 1:
            raise UserError(
                f"error_rate is {self.error_rate}: give the least and the largest share of wrong "
                "pixels, both from 0 to 1."
            )
        if not self.ops:
            raise UserError(f"ops is empty: name at least one of {', '.join(OPS)}.")
        for name in self.ops:
            if name not in OPS:
                raise UserError(
                    f"there is no simulated error {name!r}: choose from {', '.join(OPS)}."
                    + did_you_mean(name, OPS)
                )

    def describe(self) -> dict[str, Any]:
        """Returns what is configured, not measured, as plain values that JSON gives back equal."""
        return {"error_rate": [*self.error_rate], "ops": [*self.ops], "stride": self.stride}


def thin_out(label: np.ndarray, stride: int) -> np.ndarray:
    """Takes one pixel in `stride`, down and across, evenly from corner to corner.

    So lie the network's maps: sides of `8 n` and `8 n + 1` pixels give `2 n` and `2 n + 1` at 4.
    """
    rows, columns = (
        np.rint(np.linspace(0, extent - 1, (extent - 1) // stride + 1)).astype(np.intp)
        for extent in label.shape
    )
    return label[np.ix_(rows, columns)]


def simulate_errors(
    label: np.ndarray,
    rng: Rng,
    simulation: Simulation,
    *,
    num_classes: int,
    ignore_label: int = 255,
    donor: Callable[[], np.ndarray | None] = lambda: None,
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
      simulation: Which ops, and how much of them.
      num_classes: Number of classes.
      ignore_label: Id of void.
      donor: Gives another map for `insert_object`, or None; asked only if that op is drawn.

    Returns:
      A new map like `label`.
    """
    void = label == ignore_label
    if void.all():
        return label.copy()
    rate = rng.uniform(*simulation.error_rate)
    goal = rate * np.count_nonzero(~void)
    slack = min(TOLERANCE * np.count_nonzero(~void), 0.1 * goal)
    # Filled once for all ops, since that takes longer than most of them.
    truth = current = fill(label, void)
    wrong = np.zeros(label.shape, bool)
    for _ in range(MOST_TRIES):
        missing = goal - np.count_nonzero(wrong)
        if missing <= slack:
            break
        name = simulation.ops[int(rng.integers(len(simulation.ops)))]
        options = _options(name, rate, simulation, donor)
        tried = OPS[name](
            current, rng, num_classes=num_classes, ignore_label=ignore_label, **options
        )
        gain = ((tried != truth) & ~void).view(np.int8) - wrong.view(np.int8)
        gained = gain.sum(dtype=np.int64)
        if gained > missing + slack:
            tried = _keep_part(current, tried, gain, missing, rng)
        if gained > 0:
            current, wrong = tried, (tried != truth) & ~void
    return np.where(void, label, current)


def _options(
    name: str, rate: float, simulation: Simulation, donor: Callable[[], np.ndarray | None]
) -> dict[str, Any]:
    """Returns what an op is given beside the map."""
    if name in ("shift_boundaries", "erode_or_dilate_class", "blotches"):
        # Many errors are larger errors as well, not only more of them.
        return {"strength": 1 + 5 * rate}
    if name == "swap_component":
        return {"confusion": simulation.confusion}
    if name == "insert_object":
        return {"donor": donor()}
    if name == "coarsen":
        return {"factors": tuple(max(1, side // simulation.stride) for side in BLOCKS)}
    return {}


def _keep_part(
    current: np.ndarray, tried: np.ndarray, gain: np.ndarray, goal: float, rng: Rng
) -> np.ndarray:
    """Takes on as much of `tried` as adds `goal` wrong pixels; `gain` is what each pixel adds."""
    numbers = number_regions(current != tried)
    changed = np.flatnonzero(numbers)
    # Region by region in random order, within a region along a smooth field. Sixteen bits sort
    # fast, and stably, so that ties fall alike on every machine.
    turn = rng.permutation(numbers.max() + 1)[numbers.ravel()[changed]].astype(np.uint16)
    field = 2**15 + 2**13 * smooth_noise(rng, tried.shape, cells=4).ravel()[changed]
    order = changed[np.lexsort((np.clip(field, 0, 2**16 - 1).astype(np.uint16), turn))]
    enough = np.argmax(np.cumsum(gain.ravel()[order], dtype=np.int64) >= goal)
    result = current.copy()
    result.flat[order[: enough + 1]] = tried.flat[order[: enough + 1]]
    return result
