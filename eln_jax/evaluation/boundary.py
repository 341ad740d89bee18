"""How well predicted outlines follow the true ones: the boundary F-score (Csurka et al. 2013)."""

import numpy as np
from scipy.ndimage import distance_transform_edt
from scipy.spatial import KDTree

# Share of an image's diagonal within which an outline counts as found.
TOLERANCE = 0.0075


def boundary_f_scores(
    label: np.ndarray, prediction: np.ndarray, num_classes: int, ignore_label: int
) -> np.ndarray:
    """Boundary F-score of each class in one image.

    Precision is the share of the predicted outline that lies within the tolerance of the true one,
    recall the share of the true outline within the tolerance of the predicted one. An outline is
    made of a class's pixels that touch another class; the image's border is none. Narrow void along
    objects is divided between its neighbours; pixels of void further from any label than the
    tolerance are left out.

    Args:
        label: integers [height, width], class ids or `ignore_label`.
        prediction: class ids [height, width].
        num_classes: number of classes.
        ignore_label: the id of void.

    Returns:
        float64 [num_classes] in [0, 1]; nan for a class without an outline in either map.
    """
    tolerance = max(1.0, TOLERANCE * float(np.hypot(*label.shape)))
    counted = np.ones(label.shape, bool)
    void = label == ignore_label
    if void.all():
        return np.full(num_classes, np.nan)
    if void.any():
        distance, nearest = distance_transform_edt(void, return_indices=True)  # type: ignore[misc]
        counted = distance <= tolerance
        label = label[tuple(nearest)]
    truth = _outlines(label, counted, num_classes)
    found = _outlines(prediction, counted, num_classes)
    return np.array([_f_score(t, f, tolerance) for t, f in zip(truth, found, strict=True)])


def _outlines(ids: np.ndarray, counted: np.ndarray, num_classes: int) -> list[np.ndarray]:
    """Rows and columns [points, 2] of each class's pixels that touch another class."""
    edge = np.zeros(ids.shape, bool)
    across, down = ids[:, 1:] != ids[:, :-1], ids[1:] != ids[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    points = np.argwhere(edge & counted)
    classes = ids[tuple(points.T)]
    return [points[classes == i] for i in range(num_classes)]


def _f_score(truth: np.ndarray, found: np.ndarray, tolerance: float) -> float:
    if not len(truth) and not len(found):
        return float("nan")
    if not len(truth) or not len(found):
        return 0.0
    precision, recall = _near(found, truth, tolerance), _near(truth, found, tolerance)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _near(points: np.ndarray, others: np.ndarray, tolerance: float) -> float:
    """Share of the points within the tolerance of one of the others."""
    # Without balancing: outlines make a good tree anyway, and it is built several times faster.
    tree = KDTree(others, balanced_tree=False, compact_nodes=False)
    distance, _ = tree.query(points, distance_upper_bound=np.nextafter(tolerance, np.inf))
    return float(np.isfinite(distance).mean())
