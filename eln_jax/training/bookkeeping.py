"""What the loop remembers beside the state: phases, scores, averages and time; saved with it."""

import dataclasses
import time
from typing import Any, NamedTuple

import jax


class Phase(NamedTuple):
    """A stretch of steps with the same losses: from `start` up to, not including, `end`."""

    name: str
    start: int
    end: int


def phases(steps: Any) -> list[Phase]:
    """Turns {supervised, eln, semi_supervised} step counts into phases, without empty ones."""
    result, start = [], 0
    for name in ("supervised", "eln", "semi_supervised"):
        if steps[name]:
            result.append(Phase(name, start, start + steps[name]))
            start += steps[name]
    return result


def eln_has_learned(config: Any, step: int) -> bool:
    """Whether the ELN has been trained at all, once so many steps are done."""
    learns = {"eln", *(["semi_supervised"] if config.method.eln_in_semi_supervised else [])}
    return any(phase.name in learns and step > phase.start for phase in phases(config.steps))


@dataclasses.dataclass
class Bookkeeping:
    """Plain values that go to JSON and come back equal.

    Attributes:
        iterators: state of each data stream's iterator.
        fingerprint: everything that decides the streams' batches.
        window: figures of each step since the last logged row.
        evaluated_step: the last step that was evaluated.
        scores: {"step", "phase", figures...} of every evaluation so far.
        seconds: time spent so far, over all the starts of the run, as far as it was saved.
        confusion: the main decoder's counts that simulated errors are drawn by, once measured.
        skipped_steps: bad steps left out so far.
    """

    iterators: dict[str, Any]
    fingerprint: dict[str, Any]
    window: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    evaluated_step: int = 0
    scores: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    confusion: list[list[int]] | None = None
    skipped_steps: int = 0

    def to_json(self) -> dict[str, Any]:
        """Returns plain values; fetches what is still on the devices."""
        self.window = [{k: float(v) for k, v in row.items()} for row in jax.device_get(self.window)]
        return dataclasses.asdict(self)

    def close_window(self) -> dict[str, float]:
        """Returns the mean of each figure over the window, and starts a new one.

        Empty if all of its steps were left out.
        """
        rows = self.to_json()["window"]
        self.window = []
        if not rows:
            return {}
        return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}

    def best(self) -> dict[str, Any] | None:
        """The evaluation with the highest `score`, the latest of equals; None before any."""
        return max(self.scores, key=lambda row: (score(row), row["step"]), default=None)


def score(figures: dict[str, Any]) -> float:
    """The figure by which checkpoints are compared: the teacher's mean IoU where there is one.

    An undefined one (every validation pixel is void) counts as 0.
    """
    return figures.get("teacher/mean_iou", figures["student/mean_iou"]) or 0.0


class Stopwatch:
    """Measures speed over the training steps alone, without compilation and evaluation."""

    def __init__(self) -> None:
        self._images = self._steps = 0
        self._seconds = self._waiting = 0.0

    def add(self, images: int, started: float, batch_ready: float) -> None:
        """Counts a step that started at a `time.perf_counter()` and has its batch since another."""
        self._images += images
        self._steps += 1
        self._waiting += batch_ready - started
        self._seconds += time.perf_counter() - started

    def read(self) -> dict[str, float]:
        """Returns the speed since the last reading, empty if nothing was counted."""
        if not self._steps:
            return {}
        figures = {
            "images_per_second": self._images / self._seconds,
            "seconds_per_step": self._seconds / self._steps,
            "data_wait_share": self._waiting / self._seconds,
        }
        self.__init__()
        return figures
