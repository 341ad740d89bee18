"""The whole judgement of a model on a split: figures, and a row of scores an image."""

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from eln_jax.evaluation import metrics
from eln_jax.evaluation.boundary import boundary_f_scores
from eln_jax.evaluation.detection import accuracy_at_coverage, expected_calibration_error
from eln_jax.evaluation.findings import Collector, in_turn
from eln_jax.evaluation.inference import Predictor
from eln_jax.evaluation.kept_classes import KEPT, RIGHT, rejects
from eln_jax.evaluation.scoring import EvaluationResult, ImageGate, evaluate

_COVERAGES = (90, 80, 70, 50)  # percent
DETECTORS = {
    "eln": "ELN",
    "max_prob": "maximum probability",
    "entropy": "entropy",
    "margin": "margin",
    "logistic": "fitted gate",
}
# Detectors whose score is meant as the probability of being right.
_PROBABILITIES = ("max_prob", "eln", "logistic")


@dataclasses.dataclass(frozen=True)
class Assessment:
    """What was found on a split.

    Attributes:
        class_names: one a class.
        result: the counts of all images.
        figures: by metric key; nan where one is undefined.
        collector: the images' rows, with "boundary_f_score", and small pictures.
    """

    class_names: tuple[str, ...]
    result: EvaluationResult
    figures: dict[str, float]
    collector: Collector


def assess(
    predictor: Predictor,
    examples: Iterable[Mapping[str, Any]],
    class_names: Sequence[str],
    ignore_label: int,
    gate: ImageGate | None = None,
    *,
    progress: Callable[[int], None] | None = None,
    gather: Callable[[Any], Sequence[Any]] = lambda own: [own],
) -> Assessment:
    """Judges a model on labelled images; arguments and errors as of `scoring.evaluate`.

    With several processes, each of which has every n-th image, `gather` brings what all of them
    found together, in the order of the processes.
    """
    collector, boundaries = Collector(ignore_label), []

    def on_image(example, maps, label, result):
        boundaries.append(boundary_f_scores(label, maps.prediction, len(class_names), ignore_label))
        collector.add(example, maps, label, result)
        collector.images[-1]["boundary_f_score"] = metrics.mean_of_defined(boundaries[-1])

    result = evaluate(
        predictor,
        examples,
        len(class_names),
        ignore_label,
        gate,
        progress=progress,
        on_image=on_image,
    )
    assert result is not None  # nothing asks it to stop
    results, collectors, parts = zip(*gather((result, collector, boundaries)), strict=True)
    result, collector, boundaries = (
        functools.reduce(operator.add, results),
        Collector.merged(collectors),
        in_turn(parts),
    )
    figures = result.figures(class_names) | _boundary_figures(boundaries, class_names)
    for name, histogram in result.histograms.items():
        kept = accuracy_at_coverage(histogram, [c / 100 for c in _COVERAGES])
        figures |= {
            f"{name}/accuracy_at_{c}": float(v) for c, v in zip(_COVERAGES, kept, strict=True)
        }
        if name in _PROBABILITIES:
            figures[f"{name}/calibration_error"] = expected_calibration_error(histogram)
    return Assessment(tuple(class_names), result, figures, collector)


def _boundary_figures(each: Sequence[np.ndarray], class_names: Sequence[str]) -> dict[str, float]:
    """The mean over images with the class, of each class, and the mean of these."""
    by_class = [metrics.mean_of_defined(scores) for scores in np.array(each).T]
    named = {f"boundary_f_score/{n}": v for n, v in zip(class_names, by_class, strict=True)}
    return {"boundary_f_score": metrics.mean_of_defined(np.array(by_class)), **named}


def class_table(assessment: Assessment) -> Table:
    """IoU, recall and boundary F-score of each class, in percent, and their means.

    And what a gate keeps of the pixels predicted as the class, if it rejects anything.
    """
    figures, confusion = assessment.figures, assessment.result.confusion
    table = Table(title="Classes, %", box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("class")
    gated = rejects(figures)
    titles = ("IoU", "recall", "boundary F", "share of pixels")
    if gated:
        titles += ("kept of predicted",)
    for title in titles:
        table.add_column(title, justify="right")
    truth = confusion.sum(1)
    for i, name in enumerate(assessment.class_names):
        recall = confusion[i, i] / truth[i] if truth[i] else math.nan
        share = truth[i] / truth.sum() if truth.sum() else math.nan
        values = (figures[f"iou/{name}"], recall, figures[f"boundary_f_score/{name}"], share)
        if gated:
            values += (figures[f"{KEPT}/{name}"],)
        last = i == len(assessment.class_names) - 1
        table.add_row(name, *map(percent, values), end_section=last)
    means = ("mean_iou", "mean_class_accuracy", "boundary_f_score")
    table.add_row("mean", *(percent(figures[key]) for key in means))
    table.caption = f"pixel accuracy {percent(figures['pixel_accuracy'])}"
    if gated:
        kept, right = percent(figures[KEPT]), percent(figures[RIGHT])
        table.caption += f"; kept by the gate {kept}, right of those {right}"
    return table


def detection_table(assessment: Assessment) -> Table:
    """How well each score finds the wrong pixels of the prediction, in percent."""
    rows = {
        "auroc": "AUROC",
        "aupr": "AUPR of the wrong ones",
        "auroc_within_class": "AUROC within a predicted class",
        "precision": "precision of score <= 0.5",
        "recall": "recall of score <= 0.5",
        "risk_coverage_area": "area under risk-coverage",
        **{f"accuracy_at_{c}": f"right of the best {c}%" for c in _COVERAGES},
        "calibration_error": "calibration error",
    }
    table = Table(title="Finding the wrong pixels, %", box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("")
    detectors = [name for name in DETECTORS if name in assessment.result.histograms]
    for name in detectors:
        table.add_column(DETECTORS[name], justify="right")
    for key, title in rows.items():
        values = (assessment.figures.get(f"{name}/{key}", math.nan) for name in detectors)
        table.add_row(title, *map(percent, values))
    return table


def percent(value: float) -> str:
    """A share as percent with one decimal; "-" if it is undefined."""
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


def points(gain: float) -> str:
    """The difference of two shares in percentage points, with its sign, such as "+1.5 points"."""
    return f"{round(100 * gain, 1) + 0.0:+.1f} points".replace("-", "\N{MINUS SIGN}")
