"""The story of a training run: build, restore, then the loop through the three phases.

Each turn has a fixed order: evaluate the old state, save it, take a batch, step, log. A saved state
has therefore been evaluated if it was due, and a run started again goes on as if it had never
stopped.
"""

import contextlib
import math
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax

from eln_jax.data.doctor import quick_check, summary_lines, would_stop
from eln_jax.errors import UserError
from eln_jax.training import assembly, processes, summary, validation
from eln_jax.training.bookkeeping import Bookkeeping, Phase, Stopwatch, phases, score
from eln_jax.training.checkpoint import Checkpoints
from eln_jax.training.interruption import StopRequest
from eln_jax.training.label_errors import with_label_errors
from eln_jax.training.logging import MetricsLogger, NoLogger, Progress
from eln_jax.training.opening import cut_size
from eln_jax.training.sharding import put_batch, replicated
from eln_jax.training.workdir import claimed, differences


class Outcome(NamedTuple):
    """How a run ended: with a summary, or stopped with an exit code and no summary.

    Of several processes all but the first have an empty summary.
    """

    summary: dict[str, Any] | None
    exit_code: int


def train_and_evaluate(config: Any, config_json: str, workdir: Path, display: Progress) -> Outcome:
    """Trains to the end of the last phase, or until asked to stop.

    Args:
        config: fields as in `eln_jax.defaults`, already checked.
        config_json: the same as JSON, kept as `config.json`.
        workdir: the run's folder; an earlier run of the same config in it is continued.
        display: where progress is shown.

    Returns:
        The outcome; everything else lies in `workdir`.

    Raises:
        UserError: the data cannot be used, or `workdir` holds a run of another config.
    """
    processes.check_same(config_json, "configuration")
    parts = assembly.build(config)
    processes.check_same(parts.data.fingerprint, "list of images")
    _check_files(parts, display)
    with (
        claimed(workdir, config_json),
        contextlib.closing(Run(parts, workdir, display)) as run,
        StopRequest() as stop,
    ):
        for phase in phases(config.steps):
            if run.step < phase.end and not stop.requested:
                run.begin(phase, stop)
            while run.step < phase.end and not stop.requested:
                run.evaluate_and_save_if_due(stop)
                if not stop.requested:
                    run.train_step(phase)
                    stop.agree()
        if not stop.requested:
            run.evaluate_and_save_if_due(stop)
        if stop.requested:
            run.save()
    if stop.requested:
        display.message(
            f"Stopped at step {run.step} of {run.total} and saved; the same command goes on."
        )
        return Outcome(None, stop.exit_code)
    return Outcome(summary.write(run.books, parts, workdir) if processes.is_first() else {}, 0)


def _check_files(parts: assembly.Parts, display: Progress) -> None:
    """Looks at the files' headers and says what is odd, before hours go by.

    Raises:
        UserError: the run would stop at one of them, or there are too few to share.
    """
    data, config = parts.data, parts.config
    processes.share_of(validation.validated(parts))
    faults = quick_check(data.train, data.val, data.partition, cut_size(config))
    if fatal := would_stop(faults, data.val, data.partition):
        raise UserError(
            f"{summary_lines(fatal)[0]} python -m eln_jax.check_data tells all that is wrong."
        )
    for line in summary_lines(faults, config.data.root):
        display.message(line)


class Run:
    """A run under way: the state and everything that moves with it."""

    def __init__(self, parts: assembly.Parts, workdir: Path, display: Progress):
        config = parts.config
        self.parts, self.workdir, self.display = parts, workdir, display
        display.message(parts.description)
        self.total = sum(config.steps.values())
        self.phases = phases(config.steps)
        # Made on the devices of all processes.
        whole = replicated(parts.programs.mesh)
        self.key = jax.jit(partial(jax.random.key, config.seed), out_shardings=whole)()
        self.books = Bookkeeping({}, parts.data.fingerprint)
        self.checkpoints = Checkpoints(workdir, keep=config.checkpoint.keep)
        if self.checkpoints.latest_step is None:
            self.state = parts.programs.initial_state()
        else:
            self.state, saved = self.checkpoints.restore(parts.programs.abstract_state())
            self.books = Bookkeeping(**saved)
            _check_fingerprint(self.books.fingerprint, parts.data.fingerprint, workdir)
            display.message(f"Going on from the checkpoint of step {int(self.state.step)}.")
        self.step = int(self.state.step)
        self.iterators = {name: iter(stream) for name, stream in parts.data.streams.items()}
        for name, position in self.books.iterators.items():
            self.iterators[name].set_state(position)
        self.logger = NoLogger()
        if processes.is_first():
            self.logger = MetricsLogger(
                workdir,
                tensorboard=config.log.tensorboard,
                resume_step=self.step,
                evaluated_step=self.books.evaluated_step,
            )
        self.stopwatch = Stopwatch()
        self.since = time.perf_counter() - self.books.seconds
        self.compiled: set[str] = set()
        # One step runs while the next is fed. Not on a CPU, where a waiting step holds gigabytes
        # for its intermediate results already, and gains nothing: threads make its batch anyway.
        self.waits_for = slice(-1, None) if jax.default_backend() == "cpu" else slice(-2, -1)

    def begin(self, phase: Phase, stop: StopRequest) -> None:
        """Shows that a phase begins, and lets its batches have what it needs."""
        self.display.start(phase.name, phase.start, phase.end, self.total)
        if phase.name != "supervised":
            self.iterators["labeled"] = with_label_errors(
                self.iterators["labeled"], self.parts, self.state, self.books, stop
            )

    def evaluate_and_save_if_due(self, stop: StopRequest) -> None:
        """Evaluates at intervals and at a phase's end; saves then, and at intervals of its own."""
        config, step = self.parts.config, self.step
        if step == 0:
            return
        ends = {phase.end for phase in self.phases}
        due = step in ends or step % config.eval.every == 0
        if due and step != self.books.evaluated_step:
            phase = next(phase.name for phase in self.phases if step <= phase.end)
            figures = validation.validate(
                self.parts, self.state, phase, self.workdir, self.logger, stop, self.display
            )
            if figures is None:  # asked to stop
                return
            self.logger.write(step, phase, "val", figures)
            self.display.message(f"step {step}: {validation.headline(figures)}")
            self.books.scores.append({"step": step, "phase": phase, **figures})
            self.books.evaluated_step = step
        if due or step % config.checkpoint.every == 0:
            self.save()

    def save(self) -> None:
        """Saves the state with the iterators and the books."""
        self.books.iterators = {name: it.get_state() for name, it in self.iterators.items()}
        self.books.seconds = time.perf_counter() - self.since
        evaluated = self.books.evaluated_step == self.step and self.books.scores
        books = self.books.to_json()
        for row in books["window"]:
            self._check_finite(row)
        self.checkpoints.save(
            self.state, books, score(self.books.scores[-1]) if evaluated else None
        )

    def _check_finite(self, figures: dict[str, Any]) -> None:
        if not math.isfinite(figures["loss"]):
            raise UserError(
                f"The loss is not finite at step {self.step}: the training has diverged; start in "
                f"another --workdir with a lower optim.learning_rate (now "
                f"{self.parts.config.optim.learning_rate}) or with optim.clip_norm=1."
            )

    def train_step(self, phase: Phase) -> None:
        """Takes a batch, steps and logs."""
        config = self.parts.config
        self._prepare_teacher(phase)
        started = time.perf_counter()
        batch = put_batch(self._next_batch(phase.name), self.parts.programs.mesh)
        batch_ready = time.perf_counter()
        self.state, metrics = self.parts.programs.steps[phase.name](self.state, batch, self.key)
        self.books.window.append(metrics)
        self.step += 1
        jax.block_until_ready(self.books.window[self.waits_for])
        if phase.name in self.compiled:
            images = sum(part["image"].shape[0] for part in batch.values())
            self.stopwatch.add(images, started, batch_ready)
        self.compiled.add(phase.name)  # the first step of a phase compiles: not counted as speed
        self.display.update(self.step, {})
        if self.step % config.log.every == 0 or self.step == phase.end:
            figures = self.books.close_window() | self.stopwatch.read()
            self._check_finite(figures)
            self.logger.write(self.step, phase.name, "train", figures)
            self.display.update(self.step, figures)

    def _next_batch(self, phase: str) -> dict[str, Any]:
        names = ("labeled", "unlabeled") if phase == "semi_supervised" else ("labeled",)
        batch = {name: next(self.iterators[name]) for name in names}
        for name in names:
            for complaint in self.iterators[name].complaints():
                processes.say(self.display.message, f"Left out: {complaint}")
        return batch

    def _prepare_teacher(self, phase: Phase) -> None:
        every = self.parts.config.method.student_reset_every
        if phase.name != "semi_supervised":
            return
        if self.step == phase.start:
            self.state = self.parts.programs.start_teacher(self.state)
        elif every and (self.step - phase.start) % every == 0:
            self.state = self.parts.programs.reset_student(self.state)

    def close(self) -> None:
        """Ends what runs in the background."""
        for iterator in self.iterators.values():
            iterator.close()
        self.checkpoints.close()
        self.logger.close()


def _check_fingerprint(old: dict, new: dict, workdir: Path) -> None:
    changes = differences(old, new)
    if changes:
        raise UserError(
            f"The data has changed since the run in {workdir} began ({'; '.join(changes[:5])}); "
            "put it back, or give another --workdir."
        )
