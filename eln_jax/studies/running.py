"""Trains a study's runs one after another, and skips what is done."""

import gc
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from eln_jax import configuration
from eln_jax.errors import UserError
from eln_jax.studies.detectors import DETECTORS_FILE, judge_detectors
from eln_jax.studies.plan import Run
from eln_jax.training import branching, loop
from eln_jax.training.logging import Progress, duration
from eln_jax.training.workdir import changed_since, is_free

# What a step of a phase costs beside one of the first, until it is known.
_GUESSES = {"supervised": 1.0, "eln": 3.0, "semi_supervised": 5.0}


def train_runs(runs: Sequence[Run], output: Path) -> int:
    """Trains what is not done yet; the same call goes on where it stopped.

    Args:
        runs: in order; each follows the one that it begins from.
        output: the study's folder.

    Returns:
        The exit code: 0 at the end, 128 + the signal's number if stopped.

    Raises:
        UserError: the data cannot be used, or the folder holds runs of other configurations.
    """
    for run in runs:
        _check_same(run, output)
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
            if run.parent is not None:
                branching.branch_off(
                    run.config,
                    folder,
                    run.parent.config,
                    output / run.parent.folder,
                    run.parent.until,
                )
            if not _is_trained(run, output):
                config_json = configuration.to_json(run.config)
                outcome = loop.train_and_evaluate(
                    run.config, config_json, folder, display, until=run.until
                )
                if outcome.summary is None:
                    return outcome.exit_code
        if run.trains_eln:
            judge_detectors(run.config, folder, run.until)
        # Its programs and arrays are of no use to the next one.
        jax.clear_caches()
        gc.collect()
    return 0


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


def _check_same(run: Run, output: Path) -> None:
    """Refuses a finished run of another configuration, which would be taken for this one's."""
    path = output / run.folder / "config.json"
    if not path.is_file() or not _is_trained(run, output):
        return
    rows = changed_since(path, configuration.to_json(run.config))
    changes = [f"{name}: {a} -> {b}" for name, a, b in rows if not is_free(name)]
    if changes:
        raise UserError(
            f"{path.parent} holds a run of another configuration ({'; '.join(changes[:5])}); give "
            "another --output, or the same study to go on."
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
