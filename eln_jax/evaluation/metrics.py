"""Segmentation figures from one confusion matrix over a whole split.

Matrices of images, batches and hosts add up; every figure is one division at the very end. The mean
of per-batch figures would be another, wrong number.
"""

import numpy as np

from eln_jax.errors import UserError


def confusion_matrix(
    label: np.ndarray, prediction: np.ndarray, num_classes: int, ignore_label: int
) -> np.ndarray:
    """Counts how often each class is predicted as each class, void excluded.

    Args:
        label: integers of any shape, class ids in [0, num_classes) or `ignore_label`.
        prediction: integers of the same shape, class ids in [0, num_classes).
        num_classes: number of classes.
        ignore_label: the id of void; its pixels are not counted, whatever is predicted there.

    Returns:
        int64 [num_classes, num_classes]: rows are the truth, columns the prediction.

    Raises:
        UserError: a label is neither a class nor void.
        ValueError: the shapes differ, or a predicted id is no class.
    """
    if label.shape != prediction.shape:
        raise ValueError(f"label {label.shape} and prediction {prediction.shape} differ in shape")
    inside = np.flatnonzero(label != ignore_label)
    truth = label.reshape(-1)[inside].astype(np.intp)
    predicted = prediction.reshape(-1)[inside].astype(np.intp)
    if truth.size:
        _refuse_unknown_label(truth, num_classes, ignore_label)
        if predicted.min() < 0 or predicted.max() >= num_classes:
            raise ValueError(f"a predicted id lies outside [0, {num_classes})")
    counts = np.bincount(truth * num_classes + predicted, minlength=num_classes**2)
    return counts.astype(np.int64, copy=False).reshape(num_classes, num_classes)


def _refuse_unknown_label(truth: np.ndarray, num_classes: int, ignore_label: int) -> None:
    worst = truth.max() if truth.max() >= num_classes else truth.min()
    if not 0 <= worst < num_classes:
        raise UserError(
            f"a label map holds the value {worst}, but classes are 0 to {num_classes - 1} and void "
            f"is {ignore_label}: correct the masks, data.num_classes or data.ignore_label."
        )


def iou(matrix: np.ndarray) -> np.ndarray:
    """Intersection over union of each class.

    Args:
        matrix: [num_classes, num_classes] counts, rows are the truth.

    Returns:
        float64 [num_classes] in [0, 1]; nan for a class that neither occurs nor is predicted.
    """
    hits = np.diag(matrix)
    return _ratio(hits, matrix.sum(0) + matrix.sum(1) - hits)


def mean_iou(matrix: np.ndarray) -> float:
    """Mean IoU over the classes whose IoU is defined.

    A class that occurs nowhere in the split but is predicted somewhere counts as 0; a class that
    neither occurs nor is predicted is left out. nan where no pixel was counted.
    """
    return mean_of_defined(iou(matrix))


def pixel_accuracy(matrix: np.ndarray) -> float:
    """Fraction of the counted pixels whose class is right; nan where no pixel was counted."""
    return float(_ratio(np.trace(matrix)[None], matrix.sum()[None])[0])


def mean_class_accuracy(matrix: np.ndarray) -> float:
    """Mean over the classes that occur of the fraction of their pixels found (their recall)."""
    return mean_of_defined(_ratio(np.diag(matrix), matrix.sum(1)))


def mean_of_defined(values: np.ndarray) -> float:
    """Mean of the values that are not nan; nan, without a warning, where none is."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Part / whole as float64, nan where the whole is 0."""
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
