"""How far a preparation is: a bar on a terminal, else a plain line now and then."""

import sys
import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bars

# Plain lines come no closer together than this.
_PLAIN_SECONDS = 10.0


class Progress:
    """Shows tasks that come one after another, each with the time that is left."""

    def __init__(
        self,
        duration: Callable[[float], str],
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Shows nothing yet.

        Args:
          duration: Says seconds in words.
          console: Where to; standard output if None.
          clock: Seconds from any beginning.
        """
        self._duration = duration
        # The stream itself: the bar puts another one into the place of standard output.
        self._console = console or Console(file=sys.stdout)
        self._clock = clock
        self._title, self._total, self._unit = "", 0, ""
        self._done, self._before, self._begun, self._last_line = 0, 0, 0.0, 0.0
        self._bars: Bars | None = None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception: object) -> None:
        self._end()

    def message(self, text: str) -> None:
        """Prints a line that stays."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def start(self, title: str, total: int, unit: str, done: int = 0) -> None:
        """Begins a task.

        Args:
          title: What is done.
          total: How much there is to do.
          unit: Of what; sizes are shown as such if it is "bytes".
          done: How much was done before; it does not count for the speed.
        """
        self._end()
        self._title, self._total, self._unit = title, total, unit
        self._done = self._before = done
        self._begun = self._clock()
        self._last_line = self._begun
        if self._console.is_terminal:
            self._bars = Bars(
                TextColumn("{task.description}", style="bold"),
                BarColumn(bar_width=30),
                TextColumn("{task.fields[text]}"),
                console=self._console,
                transient=True,
            )
            self._bars.add_task(title, total=total, text="")
            self._bars.start()

    def update(self, done: int) -> None:
        """Notes how much of the task is done; all of it ends the task with a line."""
        self._done = done
        now = self._clock()
        if done >= self._total:
            self._end()
            seconds = self._duration(now - self._begun)
            self.message(f"{self._title}: {self._amount(self._total)} in {seconds}")
        elif self._bars is not None:
            self._bars.update(self._bars.task_ids[0], completed=done, text=self._state(now))
        elif now - self._last_line >= _PLAIN_SECONDS:
            self._last_line = now
            self.message(f"{self._title}: {self._state(now)}")

    def advance(self, amount: int = 1) -> None:
        """Notes that so much more is done."""
        self.update(self._done + amount)

    def _state(self, now: float) -> str:
        text = f"{self._amount(self._done, bare=True)} of {self._amount(self._total)}"
        if self._done > self._before:
            pace = (now - self._begun) / (self._done - self._before)
            text += f", {self._duration(pace * (self._total - self._done))} left"
        return text

    def _amount(self, number: int, bare: bool = False) -> str:
        if self._unit == "bytes":
            return size_text(number)
        return f"{number:,}" if bare else f"{number:,} {self._unit}"

    def _end(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None


def size_text(size: float) -> str:
    """Bytes as a person says it, e.g. "512 B", "34.1 MB", "1.2 GB"."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
