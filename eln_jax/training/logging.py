"""What a run tells while it goes: rows in `metrics.jsonl`, TensorBoard, and the screen."""

import json
import math
import numbers
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from eln_jax.evaluation.curves import read_metrics
from eln_jax.evaluation.metrics import mean_of_defined

# Plain lines come no closer together than this, so that a log file of hours stays readable.
_PLAIN_SECONDS = 10.0


class MetricsLogger:
    """Appends rows to `metrics.jsonl`, and scalars and images to TensorBoard's event files.

    A row is on its way to the disk when `write` returns, so a killed run loses at most the line
    being written, which the next start drops.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        tensorboard: bool = True,
        resume_step: int = 0,
        evaluated_step: int | None = None,
    ):
        """Opens the files.

        Args:
            workdir: an existing folder.
            tensorboard: whether to write event files too, in `workdir/tensorboard`.
            resume_step: the step from which the run goes on; what earlier starts logged after it
                is dropped, since it will be logged again.
            evaluated_step: the last step whose evaluation counts; `resume_step` if None. A later
                one is dropped too, since it will be done again.

        Raises:
            UserError: `metrics.jsonl` holds something else than rows.
        """
        path = workdir / "metrics.jsonl"
        _drop_rows_after(path, resume_step, evaluated_step)
        self._file = path.open("a", encoding="utf-8")
        self._events = None
        if tensorboard:
            from eln_jax.training.event_file import EventFile  # slow to import, maybe not needed

            self._events = EventFile(workdir / "tensorboard", resume_step + 1)

    def write(self, step: int, phase: str, split: str, figures: Mapping[str, Any]) -> None:
        """Appends a row.

        Args:
            step: optimiser steps done.
            phase: "supervised", "eln" or "semi_supervised".
            split: "train" or "val".
            figures: numbers by metric key; nan and infinity are written as null.
        """
        plain = {name: _plain(value) for name, value in figures.items()}
        row = {"step": step, "phase": phase, "split": split, **plain}
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        self._file.flush()
        if self._events is not None:
            for name, value in plain.items():
                if isinstance(value, numbers.Real):
                    self._events.scalar(f"{split}/{name}", float(value), step)
            self._events.flush()

    def images(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Adds pictures, uint8 [height, width, 3] by name, to TensorBoard."""
        if self._events is not None:
            for name, picture in pictures.items():
                self._events.image(name, picture, step)

    def close(self) -> None:
        """Writes out what is left and closes the files."""
        try:
            self._file.close()
        finally:
            if self._events is not None:
                self._events.close()


class NoLogger:
    """Takes what a `MetricsLogger` takes, and writes nothing: of all processes but the first."""

    def write(self, *row: Any) -> None:
        """Leaves the row to the first process."""

    def images(self, *pictures: Any) -> None:
        """Leaves the pictures to the first process."""

    def close(self) -> None:
        """Has nothing to close."""


def _drop_rows_after(path: Path, step: int, evaluated_step: int | None) -> None:
    """Rewrites the file, in one move, without later rows and without a half-written last line."""
    if not path.exists():
        return
    last = {"train": step, "val": step if evaluated_step is None else evaluated_step}
    rows = [row for row in read_metrics(path) if row["step"] <= last[row["split"]]]
    text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _plain(value: Any) -> Any:
    """A number as JSON has it."""
    if value is None or isinstance(value, str | bool | int):
        return value
    value = float(value)
    return value if math.isfinite(value) else None


class Progress:
    """Shows how far a run is: a live display on a terminal, else a plain line now and then.

    Plain lines come at most once in `log_every` steps and once in ten seconds; the last step of a
    phase has one in any case.
    """

    def __init__(
        self,
        log_every: int = 1,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._log_every = log_every
        self._console = console or Console(highlight=False)
        self._clock = clock
        self._phase, self._start, self._end, self._total = "", 0, 0, 0
        self._step = 0
        self._figures: dict[str, float] = {}
        self._first: tuple[int, float] | None = None  # step and time from which speed is measured
        self._last_line: tuple[int, float] | None = None
        self._live: Live | None = None
        self._bars = Bars(
            TextColumn("{task.description}", style="bold"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[eta]}", style="cyan"),
            console=self._console,
        )
        self._bar_ids = [self._bars.add_task(name, total=1, eta="") for name in ("", "whole run")]
        self._text = Text()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def start(self, phase: str, start: int, end: int, total: int) -> None:
        """Begins a phase that lasts from step `start` to step `end` of a run of `total` steps."""
        self._phase, self._start, self._end, self._total = phase, start, end, total
        self._figures, self._first, self._last_line = {}, None, None
        self.message(f"Phase {phase}: steps {start} to {end} of {total} (the first one compiles)")
        if self._console.is_terminal:
            if self._live is None:
                self._live = Live(console=self._console, transient=True, refresh_per_second=4)
                self._live.start()
            self._redraw(start)

    def update(self, step: int, figures: Mapping[str, Any]) -> None:
        """Notes that `step` steps are done; `figures`, if any, replace those shown before.

        Shown are the losses, and `images_per_second`. The phase's first step, which compiles, does
        not count for its speed; evaluations and checkpoints do, so that the remaining time is
        honest.
        """
        now = self._clock()
        self._step = step
        if self._first is None:
            self._first = (step, now)
        if figures:
            self._figures = {name: float(value) for name, value in figures.items()}
        if self._live is not None:
            self._text = Text(self._figures_text())
            self._redraw(step)
        elif figures and self._line_is_due(step, now):
            self._last_line = (step, now)
            parts = [f"step {step}/{self._total}", self._phase, self._figures_text()]
            self._print(" | ".join(filter(None, [*parts, *self._remaining()])))

    def status(self, text: str) -> None:
        """Shows what goes on between steps, such as an evaluation, where the display is live."""
        if self._live is not None:
            self._text = Text(text, style="dim")
            self._redraw(self._step)

    def message(self, text: str) -> None:
        """Prints a line that stays."""
        self._print(text)

    def close(self) -> None:
        """Takes the live display away; may be called twice."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    def _line_is_due(self, step: int, now: float) -> bool:
        if self._last_line is None or step == self._end:
            return True
        last_step, last_time = self._last_line
        return step - last_step >= self._log_every and now - last_time >= _PLAIN_SECONDS

    def _figures_text(self) -> str:
        parts = [
            f"{_loss_name(name)} {value:.3g}"
            for name, value in self._figures.items()
            if name.endswith("loss")
        ]
        text = "losses: " + ", ".join(parts) if parts else ""
        if "images_per_second" in self._figures:
            speed = f"{self._figures['images_per_second']:.3g} images/s"
            text = f"{text} | {speed}" if text else speed
        return text

    def _remaining(self) -> list[str]:
        """Time left of the phase and of the run, once the phase's speed is known."""
        if self._first is None or self._step <= self._first[0]:
            return []
        seconds = (self._clock() - self._first[1]) / (self._step - self._first[0])
        phase = f"phase ends in {duration(seconds * (self._end - self._step))}"
        run = duration(seconds * (self._total - self._step))
        if self._end < self._total:
            # A step of a later phase costs several times as much, nobody knows yet how many.
            return [phase, f"run in more than {run}"]
        return [phase, f"run ends in {run}"]

    def _redraw(self, step: int) -> None:
        phase_eta, run_eta = self._remaining() or ("", "")
        phase, run = self._bar_ids
        done, length = step - self._start, self._end - self._start
        self._bars.update(
            phase, description=self._phase, completed=done, total=length, eta=phase_eta
        )
        self._bars.update(run, completed=step, total=self._total, eta=run_eta)
        if self._live is not None:
            self._live.update(Group(self._bars, self._text))


def _loss_name(key: str) -> str:
    return "total" if key == "loss" else key.removesuffix("_loss").replace("_", " ")


def duration(seconds: float) -> str:
    """Seconds as a person says it, e.g. "2 h 05 min", "4 min 10 s", "12 s"."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


def iou_table(class_names: Sequence[str], results: Mapping[str, np.ndarray]) -> Table:
    """Tabulates per-class IoU in percent, with the mean over each column's defined classes.

    Args:
        class_names: one name a class.
        results: column title -> IoU [num_classes] in [0, 1]; nan is shown as "-". Where there are
            several columns the best of each row is bold.
    """
    table = Table(title="IoU, %", box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("class")
    for name in results:
        table.add_column(name, justify="right")
    for i, name in enumerate(class_names):
        last = i == len(class_names) - 1
        table.add_row(name, *_cells([float(r[i]) for r in results.values()]), end_section=last)
    table.add_row("mean", *_cells([mean_of_defined(np.asarray(r)) for r in results.values()]))
    return table


def _cells(values: list[float]) -> list[Text]:
    defined = [value for value in values if not math.isnan(value)]
    best = max(defined) if len(values) > 1 and defined else None
    return [
        Text("-" if math.isnan(v) else f"{100 * v:.1f}", style="bold" if v == best else "")
        for v in values
    ]


def print_table(table: Table, console: Console | None = None) -> None:
    """Prints a table; where the output is no terminal, in plain characters and at full width."""
    console = console or Console(highlight=False)
    if not console.is_terminal:
        table.box = box.ASCII2
        console = Console(file=console.file, width=10_000, highlight=False)
    console.print(table)
