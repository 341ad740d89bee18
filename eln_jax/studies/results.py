"""What a study has found: figures of every arm and seed, and of every detector, as plain values."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eln_jax.evaluation.curves import read_metrics
from eln_jax.output import write_whole
from eln_jax.studies.detectors import read_detectors
from eln_jax.studies.plan import Run
from eln_jax.studies.running import read_summary
from eln_jax.studies.study_file import Study
from eln_jax.training.bookkeeping import phases

RESULTS = "results.json"


def collect(study: Study, runs: Sequence[Run], output: Path) -> dict[str, Any]:
    """Gathers the results of the runs that are finished.

    Args:
        study: of `study_file.load_study`.
        runs: of `plan.make_runs`.
        output: the study's folder.

    Returns:
        Plain values: "reference", "seeds" of which there is anything, "class_names"; "arms":
        arm -> {"overrides", "gate" (empty without a third phase), "steps", "labeled", "unlabeled",
        "val", "seeds": {seed: {"figures" of the last evaluation, "best", "seconds", "curve"
        [[step, mean IoU]]}}};
        "detectors": ELN's arm -> {seed: what `detectors.json` holds}.
    """
    found: dict[str, Any] = {
        "reference": study.reference,
        "seeds": [],
        "class_names": [],
        "arms": {},
        "detectors": {},
    }
    seeds = set()
    for run in runs:
        summary = read_summary(run, output)
        if summary is None:
            continue
        if run.trains_eln and (judged := read_detectors(output / run.folder)):
            found["detectors"].setdefault(run.arm, {})[str(run.seed)] = judged
            seeds.add(run.seed)
        if run.is_trunk:
            continue
        seeds.add(run.seed)
        found["class_names"] = summary["class_names"]
        arm = found["arms"].setdefault(run.arm, _describe(study, run, summary))
        arm["seeds"][str(run.seed)] = {
            "figures": {k: v for k, v in summary["last"].items() if k not in ("step", "phase")},
            "best": _mean_iou(summary["best"]),
            "seconds": summary["seconds"],
            "curve": _curve(output / run.folder),
        }
    found["seeds"] = [seed for seed in study.seeds if seed in seeds]
    return found


def _describe(study: Study, run: Run, summary: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "overrides": {name: str(value) for name, value in study.arms[run.arm].items()},
        "gate": run.config.method.gate if run.config.steps.semi_supervised else "",
        "steps": {p.name: p.end - p.start for p in phases(run.config.steps)},
        "labeled": summary["labeled"],
        "unlabeled": summary["unlabeled"],
        "val": summary["val"],
        "seeds": {},
    }


def _mean_iou(figures: Mapping[str, Any]) -> float | None:
    return figures.get("teacher/mean_iou", figures.get("student/mean_iou"))


def _curve(workdir: Path) -> list[list[Any]]:
    """Steps and mean IoU of every evaluation, the teacher's where there is one."""
    rows = read_metrics(workdir / "metrics.jsonl")
    return [
        [row["step"], _mean_iou(row)]
        for row in rows
        if row["split"] == "val" and _mean_iou(row) is not None
    ]


def write(found: Mapping[str, Any], output: Path) -> Path:
    """Writes `results.json`, in one move."""
    path = output / RESULTS
    write_whole(path, (json.dumps(found, indent=2, allow_nan=False) + "\n").encode())
    return path


class Spread:
    """A figure over seeds: its mean and standard deviation, in the unit of the values."""

    def __init__(self, values: Sequence[float]):
        self.values = [float(v) for v in values]

    @property
    def mean(self) -> float:
        """The mean; nan without a value."""
        return float(np.mean(self.values)) if self.values else math.nan

    @property
    def deviation(self) -> float:
        """The sample's standard deviation; nan with fewer than two values."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else math.nan

    @property
    def is_noise(self) -> bool:
        """Whether the mean is no further from 0 than twice its standard error, over the seeds."""
        return not abs(self.mean) > 2 * self.deviation / math.sqrt(max(1, len(self.values)))


def figure(name: str) -> Callable[[Mapping[str, Any]], float | None]:
    """What picks a figure out of a seed's results."""
    return lambda found: found["figures"].get(name)


def gated_arms(found: Mapping[str, Any]) -> dict[str, Any]:
    """The arms that have kept pseudo-labels to learn from."""
    return {
        name: arm
        for name, arm in found["arms"].items()
        if over_seeds(arm["seeds"], figure("pseudo_label/kept")).values
        and float(arm["overrides"].get("method.pseudo_label_weight", 1))
    }


def over_seeds(
    seeds: Mapping[str, Mapping[str, Any]], value: Callable[[Mapping[str, Any]], float | None]
) -> Spread:
    """A figure of the seeds for which it is defined."""
    values = [value(found) for found in seeds.values()]
    return Spread([v for v in values if v is not None])


def paired(
    seeds: Mapping[str, Mapping[str, Any]],
    reference: Mapping[str, Mapping[str, Any]],
    value: Callable[[Mapping[str, Any]], float | None],
    of_reference: Callable[[Mapping[str, Any]], float | None] | None = None,
) -> Spread:
    """The differences to a reference, seed by seed, where both are defined."""
    pairs = [
        (value(found), (of_reference or value)(reference[seed]))
        for seed, found in seeds.items()
        if seed in reference
    ]
    return Spread([a - b for a, b in pairs if a is not None and b is not None])


def final_mean_iou(found: Mapping[str, Any]) -> float | None:
    """An arm's mean IoU at the end: the teacher's where there is one."""
    return _mean_iou(found["figures"])
