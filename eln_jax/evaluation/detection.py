"""Finding wrong pixels, judged as a detection problem.

A detector gives every pixel a score in [0, 1] that is higher where the predicted class is more
likely right. Errors are the positive class. Scores are counted into histograms, which add up over
images and hosts; each figure is then read off the counts of the whole split.

Bins are uniform on the logit scale, so that they stay fine near 0 and 1, where a trained network
puts almost every pixel: 4096 bins over logits of [-16, 16], beyond which a float32 probability can
hardly go. Neighbouring bins differ by less than 0.8 % in their odds. Scores in one bin are tied.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

NUM_BINS = 4096
MAX_LOGIT = 16.0
_BINS_PER_LOGIT = NUM_BINS / (2 * MAX_LOGIT)


@dataclasses.dataclass(frozen=True)
class ErrorHistogram:
    """How the scores of wrong and of right pixels are distributed.

    Attributes:
        counts: int64 [num_classes, 2, NUM_BINS]: pixels by predicted class, by wrong (0) or right
            (1), and by score. Bin k holds the scores in (edge k, edge k + 1].
    """

    counts: np.ndarray

    def __add__(self, other: "ErrorHistogram") -> "ErrorHistogram":
        """The histogram of both sets of pixels together."""
        return ErrorHistogram(self.counts + other.counts)


def error_histogram(
    score: np.ndarray, prediction: np.ndarray, right: np.ndarray, num_classes: int
) -> ErrorHistogram:
    """Counts pixels by predicted class, by whether it is right, and by score.

    Args:
        score: float [pixels] in [0, 1], higher where the prediction is more likely right.
        prediction: integers [pixels] in [0, num_classes).
        right: bool [pixels], whether the predicted class is the true one.
        num_classes: number of classes.

    Raises:
        ValueError: a score is nan or outside [0, 1].
    """
    row = prediction.astype(np.intp) * 2 + right
    counts = np.bincount(
        row * NUM_BINS + _bin_of_score(score), minlength=num_classes * 2 * NUM_BINS
    )
    return ErrorHistogram(counts.astype(np.int64, copy=False).reshape(num_classes, 2, NUM_BINS))


def _bin_of_score(score: np.ndarray) -> np.ndarray:
    if score.size and not (score.min() >= 0.0 and score.max() <= 1.0):
        raise ValueError("a score is nan or outside [0, 1]")
    # The clip keeps the odds finite; scores beyond it belong to the outermost bins anyway.
    inner = np.clip(score, np.float32(1e-7), np.float32(1.0 - 2.0**-24))
    edges_below = np.ceil((np.log(inner / (1.0 - inner)) + MAX_LOGIT) * _BINS_PER_LOGIT)
    return np.clip(edges_below, 1, NUM_BINS).astype(np.intp) - 1


def auroc(histogram: ErrorHistogram) -> float:
    """Area under the ROC curve of errors.

    The probability that a random wrong pixel scores lower than a random right one, ties counting
    half (the trapezoid under the curve). nan where no pixel is wrong, or none is right.
    """
    return _auroc(*_wrong_and_right(histogram))


def auroc_within_class(histogram: ErrorHistogram) -> float:
    """AUROC among the pixels of one predicted class, averaged over the classes.

    Weighted by the number of pixels predicted as the class; a class without a wrong or without a
    right pixel is left out. A detector that only knows which classes are often wrong has 0.5 here.
    nan where every class is left out.
    """
    each = np.array([_auroc(*counts) for counts in histogram.counts])
    weight = histogram.counts.sum((1, 2))[~np.isnan(each)]
    if not weight.size:
        return float("nan")
    return float(np.average(each[~np.isnan(each)], weights=weight))


def _auroc(wrong: np.ndarray, right: np.ndarray) -> float:
    pairs = float(wrong.sum()) * float(right.sum())
    if pairs == 0:
        return float("nan")
    right_above = right.sum() - np.cumsum(right)
    return float((wrong * (right_above + 0.5 * right)).sum() / pairs)


def aupr(histogram: ErrorHistogram) -> float:
    """Area under the precision-recall curve of errors, as average precision.

    Pixels are taken from the lowest score up, tied ones together; each group adds its share of all
    errors times the precision reached with it. A detector that knows nothing gets the error rate.
    nan where no pixel is wrong.
    """
    wrong, right = _wrong_and_right(histogram)
    if wrong.sum() == 0:
        return float("nan")
    flagged = np.cumsum(wrong + right)
    precision = np.cumsum(wrong) / np.maximum(flagged, 1)
    return float((wrong * precision).sum() / wrong.sum())


def precision_and_recall(histogram: ErrorHistogram, threshold: float = 0.5) -> tuple[float, float]:
    """Precision and recall of flagging the pixels whose score is not above the threshold.

    Args:
        histogram: the counts.
        threshold: in (0, 1). It acts at the nearest edge between bins; 0.5 is an edge, so the
            pixels not flagged are, up to rounding, those that the ELN's gate keeps.

    Returns:
        The fraction of flagged pixels that are wrong (nan where none is flagged) and the fraction
        of wrong pixels that are flagged (nan where none is wrong).
    """
    wrong, right = _wrong_and_right(histogram)
    logit = np.log(threshold / (1.0 - threshold))
    edge = int(np.clip(np.rint((logit + MAX_LOGIT) * _BINS_PER_LOGIT), 0, NUM_BINS))
    hits, flagged = int(wrong[:edge].sum()), int((wrong + right)[:edge].sum())
    precision = hits / flagged if flagged else float("nan")
    recall = hits / int(wrong.sum()) if wrong.any() else float("nan")
    return precision, recall


def risk_coverage_area(histogram: ErrorHistogram) -> float:
    """Mean risk over all coverages from 0 to 1; lower is better, nan where there is no pixel.

    Tied pixels enter in equal mixture: inside a bin the errors grow linearly with the pixels kept,
    e(n) = slope * n + offset, and the risk e(n) / n is integrated exactly.
    """
    kept, errors = _kept_and_errors(histogram)
    if not kept.size:
        return float("nan")
    before = np.concatenate([[0], kept[:-1]])
    grown = np.diff(errors, prepend=0)
    slope = grown / (kept - before)
    offset = errors - slope * kept
    growth = np.log(kept[1:] / before[1:])
    return float((grown.sum() + (offset[1:] * growth).sum()) / kept[-1])


def accuracy_at_coverage(histogram: ErrorHistogram, coverages: Sequence[float]) -> np.ndarray:
    """Accuracy among the best-scored pixels, for each fraction of pixels kept.

    Args:
        histogram: the counts.
        coverages: fractions in (0, 1]. Inside a bin the errors grow linearly.

    Returns:
        float64 [len(coverages)]; nan where there is no pixel.
    """
    kept, errors = _kept_and_errors(histogram)
    if not kept.size:
        return np.full(len(coverages), np.nan)
    wanted = np.asarray(coverages, np.float64) * kept[-1]
    found = np.interp(wanted, np.concatenate([[0], kept]), np.concatenate([[0], errors]))
    return 1.0 - found / wanted


def expected_calibration_error(histogram: ErrorHistogram, num_bins: int = 15) -> float:
    """Mean gap between a score, taken as the probability of being right, and the accuracy.

    Guo et al. 2017: pixels in bins of equal width by score, gaps weighted by their pixels. Pixels
    enter with the score in the middle of their bin of the histogram, at most 0.1 % off. nan where
    there is no pixel.
    """
    wrong, right = _wrong_and_right(histogram)
    counts = wrong + right
    if counts.sum() == 0:
        return float("nan")
    logit = (np.arange(NUM_BINS) + 0.5) / _BINS_PER_LOGIT - MAX_LOGIT
    score = 1.0 / (1.0 + np.exp(-logit))
    wide = np.minimum((score * num_bins).astype(int), num_bins - 1)
    gaps = np.bincount(wide, right - counts * score, minlength=num_bins)
    return float(np.abs(gaps).sum() / counts.sum())


def error_figures(histogram: ErrorHistogram) -> dict[str, float]:
    """The figures of one detector, by name, plain floats (nan where undefined)."""
    precision, recall = precision_and_recall(histogram)
    return {
        "auroc": auroc(histogram),
        "aupr": aupr(histogram),
        "auroc_within_class": auroc_within_class(histogram),
        "precision": precision,
        "recall": recall,
        "risk_coverage_area": risk_coverage_area(histogram),
    }


def _wrong_and_right(histogram: ErrorHistogram) -> tuple[np.ndarray, np.ndarray]:
    wrong, right = histogram.counts.sum(0)
    return wrong, right


def _kept_and_errors(histogram: ErrorHistogram) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and errors so far, from the best-scored bin down, bins without a pixel left out."""
    wrong, right = _wrong_and_right(histogram)
    filled = np.flatnonzero(wrong + right)[::-1]
    return np.cumsum((wrong + right)[filled]), np.cumsum(wrong[filled])
