"""Trains a study's runs one after another, and skips what is done."""

import gc
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from eln_jax import configuration
from eln_jax.errors import DivergedError, UserError
from eln_jax.studies.detectors import DETECTORS_FILE, judge_detectors
from eln_jax.studies.plan import Run
from eln_jax.training import branching, loop
from eln_jax.training.damage import finished_steps
from eln_jax.training.logging import Progress, duration
from eln_jax.training.workdir import CONFIG, Resume, changed_since, is_free

# What a step of a phase costs beside one of the first, until it is known.
_GUESSES = {"supervised": 1.0, "eln": 3.0, "semi_supervised": 5.0}


class Outcome(NamedTuple):
    """How it ended.

    Attributes:
        exit_code: 0 at the end, 128 + the signal's number if stopped.
        left_out: a sentence on each run that has diverged, or begins from one that has.
    """

    exit_code: int
    left_out: Sequence[str]


def train_runs(runs: Sequence[Run], output: Path, *, previous_if_damaged: bool = False) -> Outcome:
    """Trains what is not done yet; the same call goes on where it stopped.

    Args:
        runs: in order; each follows the one that it begins from.
        output: the study's folder.
        previous_if_damaged: set damaged checkpoints aside for the newest whole one.

    Raises:
        UserError: the data cannot be used, or the folder holds runs of other configurations.
    """
    left_out: dict[Path, str] = {}
    todo = [run for run in runs if not is_done(run, output)]
    if len(todo) < len(runs):
        print(f"{len(runs) - len(todo)} of {len(runs)} trainings are done already.")
    for number, run in enumerate(todo, start=1):
        folder = output / run.folder
        with Progress(log_every=run.config.log.every) as display:
            left = remaining(todo[number - 1 :], runs, output)
            display.message(
                f"\nTraining {number} of {len(todo)}: {run.title}, "
                + ", ".join(f"{count} steps {name}" for name, count in run.steps.items())
                + (f"; the study ends in about {duration(left)}." if left else ".")
            )
            if run.parent is not None and run.parent.folder in left_out:
                left_out[run.folder] = f"{run.title} begins from {run.parent.folder}."
                display.message(f"Left out: {left_out[run.folder]}")
                continue
            try:
                code = _train(run, output, display, Resume(previous_if_damaged))
            except DivergedError as error:
                left_out[run.folder] = (
                    f"{run.title}: {error} In a study its file says what is to be changed, and "
                    f"without {folder} the run is trained anew."
                )
                display.message(f"Left out: {left_out[run.folder]}")
                continue
            if code:
                return Outcome(code, tuple(left_out.values()))
        if run.trains_eln:
            judge_detectors(run.config, folder, run.until)
        # Its programs and arrays are of no use to the next one.
        jax.clear_caches()
        gc.collect()
    return Outcome(0, tuple(left_out.values()))


def _train(run: Run, output: Path, display: Progress, resume: Resume) -> int:
    """Trains a run to its end, from its parent's if it has one; returns the exit code."""
    folder = output / run.folder
    if run.parent is not None:
        branching.branch_off(
            run.config,
            folder,
            run.parent.config,
            output / run.parent.folder,
            run.parent.until,
            previous_if_damaged=resume.previous_if_damaged,
        )
    if _is_trained(run, output):
        return 0
    config_json = configuration.to_json(run.config)
    outcome = loop.train_and_evaluate(run.config, config_json, folder, display, resume, run.until)
    return outcome.exit_code if outcome.summary is None else 0


def is_done(run: Run, output: Path) -> bool:
    """Whether a run is trained, and its detectors are compared if that is due."""
    judged = not run.trains_eln or (output / run.folder / DETECTORS_FILE).is_file()
    return _is_trained(run, output) and judged


def read_summary(run: Run, output: Path) -> dict[str, Any] | None:
    """What a run's `summary.json` says; None before its end."""
    try:
        summary = json.loads((output / run.folder / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return summary if summary["last"]["step"] == run.until else None


def _is_trained(run: Run, output: Path) -> bool:
    return read_summary(run, output) is not None


def check_same(runs: Sequence[Run], to_train: Sequence[Run], output: Path) -> None:
    """Refuses runs of another configuration, whose figures would be taken for those of this one.

    Args:
        runs: all of the study: the tables are of every finished one.
        to_train: those that would go on.
        output: the study's folder.

    Raises:
        UserError: there is such a run, or nobody knows what a run is of.
    """
    going_on = {run.folder for run in to_train}
    for run in runs:
        folder = output / run.folder
        begun = run.folder in going_on and finished_steps(folder / "checkpoints")
        if (folder / CONFIG).is_file() and (begun or _is_trained(run, output)):
            _compare(folder, configuration.to_json(run.config))


def _compare(folder: Path, config_json: str) -> None:
    try:
        rows = changed_since(folder / CONFIG, config_json)
    except (ValueError, AttributeError) as error:
        raise UserError(
            f"{folder / CONFIG} is damaged, so nobody knows whose run this is: put it back, or "
            "delete that folder to train the run anew."
        ) from error
    changes = [f"{name}: {a} -> {b}" for name, a, b in rows if not is_free(name)]
    if changes:
        raise UserError(
            f"{folder} holds a run of another configuration ({'; '.join(changes[:5])}); give "
            "another --output, the same study to go on, or delete that folder."
        )


def remaining(todo: Sequence[Run], runs: Sequence[Run], output: Path) -> float:
    """Seconds that runs will take, by what finished ones took; 0 while nobody knows."""
    seconds = seconds_per_step(runs, output)
    if not seconds:
        return 0.0
    unit = max(value / _GUESSES[name] for name, value in seconds.items())
    return sum(
        count * seconds.get(name, unit * _GUESSES[name])
        for run in todo
        for name, count in run.steps.items()
    )


def seconds_per_step(runs: Sequence[Run], output: Path) -> Mapping[str, float]:
    """What a step of each phase took in finished runs, with compilation and evaluation."""
    seconds: dict[str, float] = {}
    steps: dict[str, int] = {}
    for run in runs:
        summary = read_summary(run, output)
        before = read_summary(run.parent, output) if run.parent else {"seconds": 0.0}
        if summary is None or before is None or len(run.steps) != 1:
            continue
        ((name, count),) = run.steps.items()
        seconds[name] = seconds.get(name, 0.0) + summary["seconds"] - before["seconds"]
        steps[name] = steps.get(name, 0) + count
    return {name: seconds[name] / steps[name] for name in seconds}
