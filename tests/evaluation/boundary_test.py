import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from eln_jax.evaluation.boundary import boundary_f_scores


def square(left, size=100, side=40, top=30):
    ids = np.zeros((size, size), np.uint8)
    ids[top : top + side, left : left + side] = 1
    return ids


def test_equal_maps_score_one_and_absent_classes_nothing():
    scores = boundary_f_scores(square(30), square(30), 3, 255)
    np.testing.assert_array_equal(scores, [1.0, 1.0, np.nan])


def test_a_shift_within_the_tolerance_costs_nothing():
    """Of 100x100 pixels the diagonal is 141 and the tolerance 1.06 pixels."""
    np.testing.assert_array_equal(boundary_f_scores(square(30), square(31), 2, 255), [1.0, 1.0])


def test_a_larger_shift_is_counted_pixel_by_pixel():
    """A square of 40 moved right by 10, of 156 outline pixels.

    Of the moved outline, the upper and lower row lie on the true ones for columns 40 to 69, and
    within 1.06 pixels of them at column 70; the left and right columns' other 38 pixels each are
    far off, but where the left column begins, next to the rows: rows 31 and 68.
    """
    scores = boundary_f_scores(square(30), square(40), 2, 255)
    near = 2 * 31 + 2  # columns 40-70 of both rows, and rows 31 and 68 of column 40
    np.testing.assert_allclose(scores[1], near / 156)


def test_a_class_found_where_there_is_none_scores_zero():
    scores = boundary_f_scores(np.zeros((50, 50), np.uint8), square(5, 50, 20, 5), 2, 255)
    np.testing.assert_array_equal(scores, [0.0, 0.0])


def test_a_band_of_void_is_divided_between_its_neighbours():
    label = np.zeros((200, 200), np.uint8)  # the tolerance is 2.1 pixels
    label[:, 100:] = 1
    label[:, 98:102] = 255
    prediction = np.zeros((200, 200), np.uint8)
    prediction[:, 100:] = 1
    np.testing.assert_array_equal(boundary_f_scores(label, prediction, 2, 255), [1.0, 1.0])


def test_what_is_predicted_deep_in_void_does_not_count():
    label = square(10)
    label[:, 60:] = 255
    prediction = square(10)
    prediction[40:60, 70:90] = 1
    np.testing.assert_array_equal(boundary_f_scores(label, prediction, 2, 255), [1.0, 1.0])
    assert np.isnan(boundary_f_scores(np.full((9, 9), 255), square(2, 9, 3, 2), 2, 255)).all()


def by_hand(label, prediction, num_classes, tolerance):
    """Every pair of outline pixels, one by one."""
    scores = []
    for c in range(num_classes):
        outlines = []
        for ids in (label, prediction):
            padded = np.pad(ids.astype(int), 1, mode="edge")
            around = [padded[1:-1, 2:], padded[1:-1, :-2], padded[2:, 1:-1], padded[:-2, 1:-1]]
            edge = np.any([side != ids for side in around], axis=0)
            outlines.append(np.argwhere(edge & (ids == c)))
        truth, found = outlines
        if not len(truth) and not len(found):
            scores.append(np.nan)
        elif not len(truth) or not len(found):
            scores.append(0.0)
        else:
            distance = np.linalg.norm(truth[:, None] - found[None], axis=-1)
            recall, precision = (distance.min(i) <= tolerance for i in (1, 0))
            p, r = precision.mean(), recall.mean()
            scores.append(2 * p * r / (p + r) if p + r else 0.0)
    return scores


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), height=st.integers(2, 14), width=st.integers(2, 14))
def test_scores_equal_those_of_all_pairs_of_outline_pixels(seed, height, width):
    rng = np.random.default_rng(seed)
    label, prediction = rng.integers(0, 3, (2, height, width))
    found = boundary_f_scores(label, prediction, 3, 255)
    np.testing.assert_allclose(found, by_hand(label, prediction, 3, 1.0))
