"""Which regions of human masks are probably mislabelled, by a model that saw the images.

A pixel is doubted where the model predicts class k though the mask says l. Errors of masks are
rare, errors of models are not, so the odds that it is the mask that errs,

    p(k) / p(l)  /  C(k | l)  *  PRIOR,

take two things into account beside the model's probabilities: C, how often the model says k where
the reviewed masks say l (what it confuses all the time says little about a mask), and that a mask
is right before one has looked. A region's score is the sum of the resulting P(label wrong) over its
pixels. That probabilities say more than who wins, and C, is what confident learning (Northcutt et
al. 2021) taught; the ELN's judgement, of the prediction or of the mask, made the ranking of planted
errors worse or no better, alone or as a factor, so it has no part here.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from scipy import ndimage

from eln_jax.data.simulated_errors.maps import Box, number_regions
from eln_jax.evaluation import metrics
from eln_jax.evaluation.inference import Predictor
from eln_jax.evaluation.maps import PixelMaps

# log of PRIOR. Networks are too sure of themselves, hence so small; the ranking of planted errors
# is equally good from -9 to -14.
_LOG_PRIOR = -10.0
# A region must hold a square of this side, as a share of the image's shorter side, and of 3 pixels:
# what is thinner is a matter of where exactly an outline was drawn.
_LEAST_SIDE = 0.03
# Regions in which fewer pixels are probably wrong are not listed.
_LEAST_SCORE = 1.0
# Doubt is kept as counts by steps of 1 / 4 up to 32, so that a region of any size is a few numbers.
_STEPS_PER_UNIT, _NUM_STEPS = 4, 128


@dataclasses.dataclass(frozen=True)
class Region:
    """A connected area where mask and model disagree.

    Attributes:
        image: which of the reviewed images, from 0.
        id: of the image.
        box: rows and columns that it lies in.
        bits: uint8, which pixels of the box are its own, packed: many regions are kept at a time.
        pixels: how many it has.
        labelled: the class that most of them have in the mask.
        suggested: the class that the model sees in most of them.
        score: how many of them are probably mislabelled, the sum of P(label wrong).
        planted_overlap: IoU with the planted error that it fits best, 0 with none; None where no
            errors were planted.
    """

    image: int
    id: str
    box: Box
    bits: np.ndarray
    pixels: int
    labelled: int
    suggested: int
    score: float
    planted_overlap: float | None

    @property
    def inside(self) -> np.ndarray:
        """Which pixels of the box are its own, bool [rows, columns]."""
        shape = [side.stop - side.start for side in self.box]
        return np.unpackbits(self.bits, count=shape[0] * shape[1]).reshape(shape).view(bool)


@dataclasses.dataclass(frozen=True)
class Review:
    """What was found.

    Attributes:
        regions: the highest score first.
        ids: of all reviewed images.
        image_scores: float64 [images], how many of their pixels are probably mislabelled.
        planted: bool [images], whether errors were planted in them.
    """

    regions: list[Region]
    ids: list[str]
    image_scores: np.ndarray
    planted: np.ndarray


def review(
    predictor: Predictor,
    examples: Iterable[Mapping[str, Any]],
    num_classes: int,
    ignore_label: int,
    *,
    progress: Callable[[int], None] | None = None,
) -> Review:
    """Looks for mislabelled regions.

    Args:
        predictor: one that doubts labels.
        examples: {"id", "image" uint8 [height, width, 3], "label" uint8 [height, width]}, and
            "planted" bool [height, width] where errors were planted on purpose.
        num_classes: number of classes.
        ignore_label: the id of void, which is never doubted.
        progress: called after every image with the number done.

    Raises:
        UserError: a label is neither a class nor void.
    """
    ids, planted, found = [], [], []
    confusion = np.zeros((num_classes, num_classes), np.int64)
    for number, (example, maps) in enumerate(predictor.stream(examples)):
        label = example["label"]
        confusion += metrics.confusion_matrix(label, maps.prediction, num_classes, ignore_label)
        wrong = example.get("planted")
        ids.append(example["id"])
        planted.append(wrong is not None and bool(wrong.any()))
        found += _find_regions(number, example["id"], maps, label, num_classes, wrong)
        if progress is not None:
            progress(number + 1)
    surprise = -np.log(np.maximum(confusion, 1) / np.maximum(confusion.sum(1, keepdims=True), 1))
    scored = [
        dataclasses.replace(region, score=_score(evidence, surprise)) for region, evidence in found
    ]
    scores = np.bincount([r.image for r in scored], [r.score for r in scored], len(ids))
    listed = [region for region in scored if region.score >= _LEAST_SCORE]
    return Review(
        sorted(listed, key=lambda region: -region.score), ids, scores, np.array(planted, bool)
    )


def _disputed(maps: PixelMaps, label: np.ndarray, num_classes: int) -> np.ndarray:
    """Numbers the areas where mask and model disagree and that are no slivers; 0 is outside."""
    disagree = (maps.prediction != label) & (label < num_classes)
    side = 2 * max(1, round(_LEAST_SIDE * min(label.shape) / 2)) + 1
    # An opening by a square, as two filters whose time does not grow with it.
    core = ndimage.minimum_filter(disagree.view(np.uint8), side, mode="constant")
    return number_regions(ndimage.maximum_filter(core, side, mode="constant"))


def _find_regions(
    number: int,
    image_id: str,
    maps: PixelMaps,
    label: np.ndarray,
    num_classes: int,
    planted: np.ndarray | None,
) -> list[tuple[Region, tuple[np.ndarray, np.ndarray]]]:
    """The regions of an image, not scored yet, each with its evidence.

    Evidence are cells, which stand for a labelled class, a predicted class and a step of doubt, and
    how many pixels fall into each.
    """
    numbers = _disputed(maps, label, num_classes)
    errors = None if planted is None else number_regions(planted)
    found = []
    for area, box in enumerate(ndimage.find_objects(numbers), start=1):
        inside = numbers[box] == area
        labelled = label[box][inside].astype(np.intp)
        suggested = maps.prediction[box][inside].astype(np.intp)
        step = np.minimum(maps.label_doubt[box][inside] * _STEPS_PER_UNIT, _NUM_STEPS - 1)
        cells = (labelled * num_classes + suggested) * _NUM_STEPS + step.astype(np.intp)
        region = Region(
            image=number,
            id=image_id,
            box=box,
            bits=np.packbits(inside),
            pixels=len(cells),
            labelled=int(np.bincount(labelled).argmax()),
            suggested=int(np.bincount(suggested).argmax()),
            score=0.0,
            planted_overlap=None if errors is None else _overlap(inside, box, errors),
        )
        found.append((region, np.unique(cells, return_counts=True)))
    return found


def _score(evidence: tuple[np.ndarray, np.ndarray], surprise: np.ndarray) -> float:
    """Sums P(label wrong) over a region.

    Args:
        evidence: cells, and how many pixels fall into each.
        surprise: float64 [num_classes, num_classes], -log C; rows are what the masks say.
    """
    cells, counts = evidence
    doubt = (cells % _NUM_STEPS + 0.5) / _STEPS_PER_UNIT
    log_odds = doubt + surprise.reshape(-1)[cells // _NUM_STEPS] + _LOG_PRIOR
    return float((counts / (1.0 + np.exp(-log_odds))).sum())


def _overlap(inside: np.ndarray, box: Box, errors: np.ndarray) -> float:
    """The highest IoU of a region, a bool mask in its box, with a numbered error."""
    best, hit = 0.0, np.bincount(errors[box][inside], minlength=1)
    for error in np.flatnonzero(hit[1:]) + 1:
        union = len(np.flatnonzero(inside)) + np.count_nonzero(errors == error) - hit[error]
        best = max(best, float(hit[error] / union))
    return best
