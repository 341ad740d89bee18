"""The story of a training run: build, restore, then the loop through the three phases.

Each turn has a fixed order: evaluate the old state, save it, take a batch, step, log. A saved state
has therefore been evaluated if it was due, and a run started again goes on as if it had never
stopped.
"""

import contextlib
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax

from eln_jax.data.doctor import quick_check, summary_lines, would_stop
from eln_jax.errors import DivergedError, UserError
from eln_jax.training import (
    assembly,
    divergence,
    opinion_fitting,
    processes,
    summary,
    validation,
)
from eln_jax.training.bookkeeping import Bookkeeping, Phase, Stopwatch, phases, score
from eln_jax.training.checkpoint import Checkpoints
from eln_jax.training.gate_fitting import fit_gate, fit_is_due
from eln_jax.training.images import changes, images_of, keep_images, read_images
from eln_jax.training.interruption import StopRequest
from eln_jax.training.label_errors import with_label_errors
from eln_jax.training.logging import MetricsLogger, NoLogger, Progress
from eln_jax.training.memory import give_back
from eln_jax.training.opening import cut_size
from eln_jax.training.sharding import put_batch, replicated
from eln_jax.training.workdir import Resume, claimed, differences, keep_config


class Outcome(NamedTuple):
    """How a run ended: with a summary, or stopped with an exit code and no summary.

    Of several processes all but the first have an empty summary.
    """

    summary: dict[str, Any] | None
    exit_code: int


def train_and_evaluate(
    config: Any,
    config_json: str,
    workdir: Path,
    display: Progress,
    resume: Resume = Resume(),  # noqa: B008 (a constant)
    until: int | None = None,
) -> Outcome:
    """Trains to the end of the last phase, or until asked to stop.

    Args:
        config: fields as in `eln_jax.defaults`, already checked.
        config_json: the same as JSON, kept as `config.json`.
        workdir: the run's folder; an earlier run of the same config in it is continued.
        display: where progress is shown.
        resume: what an earlier run may be continued in spite of.
        until: leave out the phases that begin at this step or later; None: train all of them.

    Returns:
        The outcome; everything else lies in `workdir`.

    Raises:
        UserError: the data cannot be used, or `workdir` holds a run of another config or cannot be
            written to.
        DivergedError: the training has diverged.
    """
    processes.check_same(config_json, "configuration")
    parts = assembly.build(config)
    processes.check_same(parts.data.fingerprint, "list of images")
    _check_files(parts, display)
    with (
        claimed(workdir, config_json, force=resume.force_config, tell=display.message),
        StopRequest() as stop,
        contextlib.closing(Run(parts, workdir, display, resume)) as run,
    ):
        keep_config(workdir, config_json)
        if processes.is_first():
            keep_images(workdir, images_of(parts.data, config.data.root))
        for phase in phases(config.steps):
            if until is not None and phase.start >= until:
                break
            if run.step < phase.end and not stop.requested:
                run.begin(phase, stop)
            while run.step < phase.end and not stop.requested:
                run.evaluate_and_save_if_due(stop)
                if not stop.requested:
                    stop.doing = "this step" if phase.name in run.compiled else "compiling"
                    run.train_step(phase)
                    stop.agree()
        if not stop.requested:
            run.evaluate_and_save_if_due(stop)
        if stop.requested and run.step:
            run.save()
    if stop.requested:
        saved = " and saved; the same command goes on" if run.step else ", before the first step"
        display.message(f"Stopped at step {run.step} of {run.total}{saved}.")
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

    def __init__(self, parts: assembly.Parts, workdir: Path, display: Progress, resume: Resume):
        config = parts.config
        self.parts, self.workdir, self.display = parts, workdir, display
        display.message(parts.description)
        self.total = sum(config.steps.values())
        self.phases = phases(config.steps)
        # Made on the devices of all processes.
        whole = replicated(parts.programs.mesh)
        self.key = jax.jit(partial(jax.random.key, config.seed), out_shardings=whole)()
        self.books = Bookkeeping({}, parts.data.fingerprint)
        self.checkpoints = Checkpoints(
            workdir,
            keep=config.checkpoint.keep,
            previous_if_damaged=resume.previous_if_damaged,
            tell=display.message,
        )
        if self.checkpoints.latest_step is None:
            self.state = parts.programs.initial_state()
            # Before hours of training, not after the first of them.
            self.checkpoints.check_room(self.state)
        else:
            self.state, saved = self.checkpoints.restore(parts.programs.abstract_state())
            self.books = Bookkeeping(**saved)
            _check_fingerprint(self.books.fingerprint, parts, workdir)
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
        self.compiled: dict[str, Callable] = {}  # the step of each phase met so far
        self.started: deque[divergence.Step] = deque()  # whose figures nobody has looked at
        # One step runs while the next is fed. Not on a CPU, where a waiting step holds gigabytes
        # for its intermediate results already, and gains nothing: threads make its batch anyway.
        self.steps_ahead = 0 if jax.default_backend() == "cpu" else 1

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
            try:
                figures = validation.validate(
                    self.parts, self.state, phase, self.workdir, self.logger, stop, self.display
                )
            except UserError:  # such as an image that cannot be read: no reason to lose the steps
                if jax.process_count() == 1:
                    self.save()
                raise
            if figures is None:  # asked to stop
                return
            self.logger.write(step, phase, "val", figures)
            self.display.message(f"step {step}: {validation.headline(figures)}")
            self.books.scores.append({"step": step, "phase": phase, **figures})
            self.books.evaluated_step = step
        if due or step % config.checkpoint.every == 0:
            self.save()

    def save(self) -> None:
        """Saves the state with the iterators and the books; goes on while files are written.

        Raises:
            UserError: it cannot be saved, or should not be because it is not finite.
        """
        self._look_at_steps(ahead=0)
        if where := divergence.first_not_finite(self.state):
            raise self._diverged(f"{where} holds numbers that are not finite")
        self.books.iterators = {name: it.get_state() for name, it in self.iterators.items()}
        self.books.seconds = time.perf_counter() - self.since
        evaluated = self.books.evaluated_step == self.step and self.books.scores
        self.checkpoints.save(
            self.state, self.books.to_json(), score(self.books.scores[-1]) if evaluated else None
        )

    def _look_at_steps(self, ahead: int) -> None:
        """Waits for all steps that were started, but the last `ahead`, and looks for bad ones."""
        while len(self.started) > ahead:
            step = self.started.popleft()
            if step.metrics.pop("bad_step"):  # waits
                self._leave_out(step)
            else:
                self.books.window.append(step.metrics)

    def _leave_out(self, step: divergence.Step) -> None:
        """Keeps the batch of a bad step; stops if there are too many.

        Raises:
            UserError: there are.
        """
        config, limits = self.parts.config, self.parts.config.divergence
        figures = {name: float(value) for name, value in step.metrics.items()}
        reason = f"{divergence.describe(figures, limits.loss_limit)} at step {step.number}"
        self.books.skipped_steps += 1
        count, most = self.books.skipped_steps, limits.max_skipped_steps
        try:
            folder = divergence.keep_batch(step, self.workdir, config.data.num_classes)
            kept = f"its batch and figures lie in {folder}"
            if count > most:
                divergence.keep_state(self.state, folder)
                kept += ", the state beside them"
        except (OSError, ValueError) as error:  # such as a full disk: no reason to tell less
            kept = f"its batch could not be kept ({error})"
        if count > most:
            raise self._diverged(f"{reason}; {kept}")
        self.display.message(f"Left out, {count} of at most {most}: {reason}; {kept}.")

    def _diverged(self, reason: str) -> DivergedError:
        saved = self.checkpoints.latest_step
        go_on = "start again" if saved is None else f"go on from the checkpoint of step {saved}"
        return DivergedError(
            f"The training has diverged: {reason}. To {go_on}, leave such steps out with "
            "--config.divergence.max_skipped_steps=N, or take --force_config and a lower "
            f"optim.learning_rate (now {self.parts.config.optim.learning_rate}) or "
            "optim.clip_norm=1."
        )

    def train_step(self, phase: Phase) -> None:
        """Takes a batch, steps, fits what is due, and logs."""
        config = self.parts.config
        self._prepare_teacher(phase)
        started = time.perf_counter()
        on_host = self._next_batch(phase.name)
        batch = put_batch(on_host, self.parts.programs.mesh)
        batch_ready = time.perf_counter()
        first = phase.name not in self.compiled
        if first:
            step = self.parts.programs.steps[phase.name]
            self.compiled[phase.name] = step.lower(self.state, batch, self.key).compile()
            give_back()
        self.state, metrics = self.compiled[phase.name](self.state, batch, self.key)
        self.step += 1
        self.started.append(divergence.Step(self.step, on_host, metrics))
        self._look_at_steps(self.steps_ahead)
        self.checkpoints.check()
        if not first:  # which compiles: not counted as speed
            images = sum(part["image"].shape[0] for part in batch.values())
            self.stopwatch.add(images, started, batch_ready)
        self.display.update(self.step, {})
        if opinion_fitting.fit_is_due(config, phase, self.step):
            position = self.iterators["labeled"].get_state()
            self.state = opinion_fitting.fit_comparison(self.parts, self.state, phase, position)
        if self.step % config.log.every == 0 or self.step == phase.end:
            self._look_at_steps(ahead=0)
            figures = self.books.close_window() | self.stopwatch.read()
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
        if fit_is_due(self.parts.config, self.step - phase.start):
            position = self.iterators["labeled"].get_state()
            self.state = self.state.replace(gate=fit_gate(self.parts, self.state, position))

    def close(self) -> None:
        """Ends what runs in the background, and waits for the save under way.

        Raises:
            UserError: that failed.
        """
        with contextlib.ExitStack() as stack:  # all of them, whatever one raises
            stack.callback(self.checkpoints.close)
            stack.callback(self.logger.close)
            for iterator in self.iterators.values():
                stack.callback(iterator.close)


def _check_fingerprint(old: dict, parts: assembly.Parts, workdir: Path) -> None:
    found = differences(old, parts.data.fingerprint)
    if not found:
        return
    if before := read_images(workdir):
        found = changes(before, images_of(parts.data, parts.config.data.root)) or found
    raise UserError(
        f"The data has changed since the run in {workdir} began ({'; '.join(found[:5])}); put it "
        "back, or give another --workdir."
    )
