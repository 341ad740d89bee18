import numpy as np
import pytest

from eln_jax.errors import UserError
from eln_jax.evaluation import metrics

LABEL = np.array([[0, 0, 1], [1, 1, 255]], np.uint8)
PREDICTION = np.array([[0, 1, 1], [1, 0, 2]], np.uint8)


def test_counts_by_hand():
    matrix = metrics.confusion_matrix(LABEL, PREDICTION, 3, 255)
    assert matrix.dtype == np.int64
    np.testing.assert_array_equal(matrix, [[1, 1, 0], [1, 2, 0], [0, 0, 0]])


def test_equals_a_loop_over_pixels():
    rng = np.random.default_rng(0)
    label = rng.choice([0, 1, 2, 3, 255], (9, 7)).astype(np.uint8)
    prediction = rng.integers(0, 4, (9, 7)).astype(np.uint8)
    expected = np.zeros((4, 4), int)
    for y, x in np.ndindex(9, 7):
        if label[y, x] != 255:
            expected[label[y, x], prediction[y, x]] += 1
    np.testing.assert_array_equal(metrics.confusion_matrix(label, prediction, 4, 255), expected)


@pytest.mark.parametrize(("ignore_label", "dtype"), [(-1, np.int32), (0, np.uint8), (7, np.int64)])
def test_void_may_be_any_number(ignore_label, dtype):
    label = np.array([1, ignore_label, 2], dtype)
    matrix = metrics.confusion_matrix(label, np.array([1, 1, 1]), 3, ignore_label)
    np.testing.assert_array_equal(matrix, [[0, 0, 0], [0, 1, 0], [0, 1, 0]])


def test_figures_by_hand():
    matrix = metrics.confusion_matrix(LABEL, PREDICTION, 3, 255)
    np.testing.assert_allclose(metrics.iou(matrix), [1 / 3, 2 / 4, np.nan])
    assert metrics.mean_iou(matrix) == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert metrics.pixel_accuracy(matrix) == pytest.approx(3 / 5)
    assert metrics.mean_class_accuracy(matrix) == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_a_class_that_is_only_predicted_counts_as_zero():
    matrix = np.array([[3, 0, 1], [0, 0, 0], [0, 0, 0]])
    np.testing.assert_allclose(metrics.iou(matrix), [3 / 4, np.nan, 0])
    assert metrics.mean_iou(matrix) == pytest.approx(3 / 8)
    assert metrics.mean_class_accuracy(matrix) == pytest.approx(3 / 4)


def test_one_division_at_the_end_is_not_the_mean_of_images():
    first = metrics.confusion_matrix(np.zeros(9, int), np.zeros(9, int), 2, 255)
    second = metrics.confusion_matrix(np.zeros(1, int), np.ones(1, int), 2, 255)
    assert metrics.pixel_accuracy(first + second) == pytest.approx(0.9)


def test_nothing_counted_is_nan():
    matrix = metrics.confusion_matrix(np.full(4, 255), np.zeros(4, int), 2, 255)
    assert matrix.sum() == 0
    for figure in (metrics.mean_iou, metrics.pixel_accuracy, metrics.mean_class_accuracy):
        assert np.isnan(figure(matrix))


@pytest.mark.parametrize("value", [3, 254, -1])
def test_unknown_label_is_refused(value):
    with pytest.raises(UserError, match=rf"value {value}, but classes are 0 to 2 and void is 255"):
        metrics.confusion_matrix(np.array([0, value]), np.array([0, 0]), 3, 255)


def test_programming_errors_are_refused():
    with pytest.raises(ValueError, match="differ in shape"):
        metrics.confusion_matrix(np.zeros((2, 3), int), np.zeros((3, 2), int), 3, 255)
    with pytest.raises(ValueError, match="predicted id"):
        metrics.confusion_matrix(np.array([0]), np.array([3]), 3, 255)
