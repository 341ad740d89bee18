"""Judging predictions against labels: counts of an image, which add up to those of a split."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from eln_jax.errors import UserError
from eln_jax.evaluation import metrics
from eln_jax.evaluation.detection import ErrorHistogram, error_figures, error_histogram
from eln_jax.evaluation.inference import Predictor
from eln_jax.evaluation.maps import PixelMaps
from eln_jax.method.gates import GateSettings

# (an image's maps, its label map) -> which pixels are kept, bool, or how much they weigh, float.
ImageGate = Callable[[PixelMaps, np.ndarray], np.ndarray]

# Which score each gate of `eln_jax.method.gates` goes by; the oracle looks at the label map.
GATE_SCORES = {
    "none": None,
    "confidence": "max_prob",
    "entropy": "entropy",
    "margin": "margin",
    "eln": "eln",
    "eln_and_confidence": "eln",
    "class_calibrated": "logistic",
    "oracle": None,
}


def make_gate(settings: GateSettings) -> ImageGate:
    """The gate of these settings, for an image's maps at full size.

    A quantile is taken over the image, where training takes it over a batch of crops.

    Raises:
        KeyError: there is no such gate.
    """
    name = GATE_SCORES[settings.gate]

    def gate(maps: PixelMaps, label: np.ndarray) -> np.ndarray:
        if settings.gate == "oracle":
            return maps.prediction == label
        if name is None:
            return np.ones(maps.prediction.shape, bool)
        score = maps.scores()[name]
        if settings.gate == "eln_and_confidence":
            score = np.where(maps.max_prob > settings.gate_confidence, score, 0.0)
        if settings.gate_mode == "soft":
            return score
        if settings.gate_mode == "quantile":
            return _best_fraction(score, settings.gate_fraction)
        above = score > settings.threshold
        if settings.gate_mode == "threshold":
            return above
        best = np.zeros(score.shape, bool)
        for predicted in np.unique(maps.prediction):
            of_class = maps.prediction == predicted
            best[of_class] = _best_fraction(score[of_class], settings.gate_fraction)
        return best if settings.gate_mode == "class_quantile" else best | above

    return gate


def _best_fraction(score: np.ndarray, fraction: float) -> np.ndarray:
    """Which scores are among the best share; ties at its end are all kept, and never a 0."""
    count = round(fraction * score.size)
    if not count:
        return np.zeros(score.shape, bool)
    lowest = np.partition(score.ravel(), score.size - count)[score.size - count]
    return (score >= lowest) & (score > 0)


@dataclasses.dataclass(frozen=True)
class EvaluationResult:
    """Counts over the pixels that are not void; results of disjoint images add up.

    Attributes:
        confusion: int64 [num_classes, num_classes], rows are the truth.
        histograms: error detector ("max_prob", "entropy", "margin", "eln") -> its counts.
        gated: [num_classes, 2, 2]: pixels by predicted class, by wrong (0) or right (1), and by
            rejected (0) or kept (1) as a pseudo-label, int64, or float64 where a gate weighs them
            (of a pixel of weight w, w is kept); None without a gate.
        num_images: how many images were counted.
    """

    confusion: np.ndarray
    histograms: Mapping[str, ErrorHistogram]
    gated: np.ndarray | None
    num_images: int

    def __add__(self, other: "EvaluationResult") -> "EvaluationResult":
        """The counts of both sets of images together."""
        return EvaluationResult(
            self.confusion + other.confusion,
            {name: own + other.histograms[name] for name, own in self.histograms.items()},
            None if self.gated is None or other.gated is None else self.gated + other.gated,
            self.num_images + other.num_images,
        )

    def segmentation_figures(self, class_names: Sequence[str]) -> dict[str, float]:
        """`mean_iou`, `pixel_accuracy`, `mean_class_accuracy` and `iou/NAME` of each class."""
        each = metrics.iou(self.confusion)
        return {
            "mean_iou": metrics.mean_of_defined(each),
            "pixel_accuracy": metrics.pixel_accuracy(self.confusion),
            "mean_class_accuracy": metrics.mean_class_accuracy(self.confusion),
            **{f"iou/{name}": float(v) for name, v in zip(class_names, each, strict=True)},
        }

    def detection_figures(self) -> dict[str, float]:
        """`DETECTOR/FIGURE` of every detector, e.g. `eln/auroc`; see `detection.error_figures`."""
        return {
            f"{detector}/{name}": value
            for detector, histogram in self.histograms.items()
            for name, value in error_figures(histogram).items()
        }

    def pseudo_label_figures(self, class_names: Sequence[str]) -> dict[str, float]:
        """`pseudo_label/kept`, the fraction kept, and `pseudo_label/accuracy` of those kept.

        With `/NAME` behind: the same of the pixels predicted as a class.
        """
        if self.gated is None:
            return {}
        figures = {}
        parts = {"": self.gated.sum(0)}
        parts |= {f"/{name}": of for name, of in zip(class_names, self.gated, strict=True)}
        for end, counts in parts.items():
            (_, wrong), (_, right) = counts.tolist()
            kept, total = wrong + right, float(counts.sum())
            figures[f"pseudo_label/kept{end}"] = kept / total if total else math.nan
            figures[f"pseudo_label/accuracy{end}"] = right / kept if kept else math.nan
        return figures

    def figures(self, class_names: Sequence[str]) -> dict[str, float]:
        """All figures by metric key; nan where one is undefined."""
        return (
            self.segmentation_figures(class_names)
            | self.detection_figures()
            | self.pseudo_label_figures(class_names)
        )


def score_image(
    maps: PixelMaps,
    label: np.ndarray,
    num_classes: int,
    ignore_label: int,
    gate: ImageGate | None = None,
) -> EvaluationResult:
    """Counts one image.

    Args:
        maps: its prediction, each [height, width].
        label: integers [height, width], class ids or `ignore_label`.
        num_classes: number of classes.
        ignore_label: the id of void; void pixels enter no count.
        gate: which pseudo-labels would be kept.

    Raises:
        UserError: a label is neither a class nor void.
        ValueError: shapes differ or a score is nan.
    """
    confusion = metrics.confusion_matrix(label, maps.prediction, num_classes, ignore_label)
    inside = np.flatnonzero(label != ignore_label)
    prediction = maps.prediction.reshape(-1)[inside]
    right = prediction == label.reshape(-1)[inside]
    histograms = {
        name: error_histogram(score.reshape(-1)[inside], prediction, right, num_classes)
        for name, score in maps.scores().items()
    }
    gated = None
    if gate is not None:
        kept = gate(maps, label).reshape(-1)[inside]
        gated = _count_kept(prediction.astype(np.intp) * 2 + right, kept, 2 * num_classes)
        gated = gated.reshape(num_classes, 2, 2)
    return EvaluationResult(confusion, histograms, gated, 1)


def _count_kept(cell: np.ndarray, kept: np.ndarray, cells: int) -> np.ndarray:
    """Counts [cells, 2] of rejected and kept pixels, or of the weights that they have as such."""
    weights = (~kept, kept) if kept.dtype == bool else (1.0 - kept, kept)
    counts = [np.bincount(cell, weight, minlength=cells) for weight in weights]
    counted = np.stack(counts, axis=1)
    return counted.astype(np.int64) if kept.dtype == bool else counted


# Told the example, its maps, the label map they were compared with, and the image's counts.
OnImage = Callable[[Mapping[str, Any], PixelMaps, np.ndarray, EvaluationResult], None]


def evaluate(
    predictor: Predictor,
    examples: Iterable[Mapping[str, Any]],
    num_classes: int,
    ignore_label: int,
    gate: ImageGate | None = None,
    *,
    should_stop: Callable[[], bool] | None = None,
    progress: Callable[[int], None] | None = None,
    on_image: OnImage | None = None,
) -> EvaluationResult | None:
    """Predicts and counts a split, at the images' original size unless the predictor warps.

    Args:
        predictor: the network with its weights.
        examples: {"id", "image" uint8 [height, width, 3], "label" uint8 [height, width]}.
        num_classes: number of classes.
        ignore_label: the id of void.
        gate: which pseudo-labels would be kept; None counts none.
        should_stop: polled after every image; if true the evaluation is given up.
        progress: called after every image with the number done.
        on_image: told of every image: the example, its maps, the label map they were compared
            with, and its own counts.

    Returns:
        The counts of all images, or None if it was asked to stop.

    Raises:
        UserError: there is no image, a label does not fit its image, or an output is not finite.
    """
    result = None
    for done, (example, maps) in enumerate(predictor.stream(examples), start=1):
        label = predictor.warp_label(_checked_label(example))
        _check_finite(maps, example["id"])
        try:
            image_result = score_image(maps, label, num_classes, ignore_label, gate)
        except UserError as error:
            raise UserError(f"Image {example['id']!r}: {error}") from None
        if on_image is not None:
            on_image(example, maps, label, image_result)
        result = image_result if result is None else result + image_result
        if progress is not None:
            progress(done)
        if should_stop is not None and should_stop():
            return None
    if result is None:
        raise UserError("There is no image to evaluate: check the validation split of the data.")
    return result


def _checked_label(example: Mapping[str, Any]) -> np.ndarray:
    image, label = example["image"], example["label"]
    if label.shape != image.shape[:2]:
        raise UserError(
            f"The mask of {example['id']!r} is {label.shape[1]}x{label.shape[0]} pixels but its "
            f"image is {image.shape[1]}x{image.shape[0]}: give it a mask of the image's size."
        )
    return label


def _check_finite(maps: PixelMaps, image_id: str) -> None:
    if not all(np.isfinite(score).all() for score in maps.scores().values()):
        raise UserError(
            f"The network's output for {image_id!r} is not finite: the training has diverged; "
            "start again with a lower optim.learning_rate."
        )
