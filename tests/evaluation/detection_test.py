import numpy as np
import pytest
from scipy import stats

from eln_jax.evaluation import detection
from eln_jax.evaluation.detection import ErrorHistogram, error_histogram

EMPTY = ErrorHistogram(np.zeros((2, 2, detection.NUM_BINS), np.int64))


def sample(seed, pixels=300, levels=12, classes=3):
    """Scores on few levels, far wider apart than a bin, so that ties are exact ties."""
    rng = np.random.default_rng(seed)
    score = (rng.integers(0, levels, pixels) / levels + 0.04).astype(np.float32)
    right = rng.random(pixels) < 0.3 + 0.6 * score
    return score, rng.integers(0, classes, pixels).astype(np.uint8), right


def brute_auroc(score, right):
    wrong_scores, right_scores = score[~right][:, None], score[right][None]
    if not wrong_scores.size or not right_scores.size:
        return np.nan
    return ((wrong_scores < right_scores) + 0.5 * (wrong_scores == right_scores)).mean()


def brute_average_precision(score, right):
    """Sums precision x gain in recall over the distinct thresholds, from the lowest score up."""
    total, recall_before, area = (~right).sum(), 0.0, 0.0
    for threshold in np.unique(score):
        flagged = score <= threshold
        hits = (~right[flagged]).sum()
        area += (hits / total - recall_before) * hits / flagged.sum()
        recall_before = hits / total
    return area


@pytest.mark.parametrize("seed", range(5))
def test_areas_equal_brute_force(seed):
    score, prediction, right = sample(seed)
    histogram = error_histogram(score, prediction, right, 3)
    assert detection.auroc(histogram) == pytest.approx(brute_auroc(score, right), abs=1e-12)
    assert detection.aupr(histogram) == pytest.approx(
        brute_average_precision(score, right), abs=1e-12
    )


def test_auroc_within_class_equals_brute_force():
    score, prediction, right = sample(7)
    right[prediction == 2] = True  # no error in this class: left out
    each, weights = [], []
    for c in (0, 1):
        each.append(brute_auroc(score[prediction == c], right[prediction == c]))
        weights.append((prediction == c).sum())
    histogram = error_histogram(score, prediction, right, 3)
    expected = np.average(each, weights=weights)
    assert detection.auroc_within_class(histogram) == pytest.approx(expected, abs=1e-12)


def test_knowing_only_the_class_is_worth_nothing_within_it():
    prediction = np.repeat([0, 1], 100)
    right = np.concatenate([np.arange(100) < 90, np.arange(100) < 10])
    histogram = error_histogram(np.where(prediction == 0, 0.9, 0.1), prediction, right, 2)
    assert detection.auroc(histogram) == pytest.approx(0.9)
    assert detection.auroc_within_class(histogram) == pytest.approx(0.5)


def test_small_case_by_hand():
    score = np.array([0.1, 0.2, 0.5, 0.9, 0.9, 0.99])
    right = np.array([0, 1, 0, 1, 0, 1], bool)
    histogram = error_histogram(score, np.zeros(6, int), right, 1)
    # Pairs (wrong below right): 0.1: 3; 0.5: 2; 0.9: 1 and half a tie. Of 3 x 3.
    assert detection.auroc(histogram) == pytest.approx(6.5 / 9)
    # Precision 1/1, then 2/3, then 3/5 where each third of the errors is found.
    assert detection.aupr(histogram) == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    # 0.1, 0.2 and exactly 0.5 are flagged.
    assert detection.precision_and_recall(histogram, 0.5) == (2 / 3, 2 / 3)
    np.testing.assert_allclose(
        detection.accuracy_at_coverage(histogram, [1 / 6, 2 / 6, 0.5, 1.0]), [1, 3 / 4, 2 / 3, 0.5]
    )


@pytest.mark.parametrize("seed", range(3))
def test_risk_coverage_area_equals_numerical_integration(seed):
    score, prediction, right = sample(seed)
    histogram = error_histogram(score, prediction, right, 3)
    kept, errors = [0], [0]
    for level in np.unique(score)[::-1]:
        kept.append(kept[-1] + (score == level).sum())
        errors.append(errors[-1] + (~right[score == level]).sum())
    middle = (np.arange(200_000) + 0.5) / 200_000 * kept[-1]
    expected = (np.interp(middle, kept, errors) / middle).mean()
    assert detection.risk_coverage_area(histogram) == pytest.approx(expected, abs=1e-6)


def test_area_of_a_detector_that_knows_nothing_is_the_error_rate():
    right = np.arange(10) >= 3
    histogram = error_histogram(np.full(10, 0.5), np.zeros(10, int), right, 1)
    assert detection.risk_coverage_area(histogram) == pytest.approx(0.3)
    assert detection.aupr(histogram) == pytest.approx(0.3)
    assert detection.auroc(histogram) == pytest.approx(0.5)


def test_two_halves_add_up_to_the_whole():
    score, prediction, right = sample(3)
    whole = error_histogram(score, prediction, right, 3)
    halves = [error_histogram(score[s], prediction[s], right[s], 3) for s in np.s_[:110, 110:]]
    np.testing.assert_array_equal((halves[0] + halves[1]).counts, whole.counts)
    assert whole.counts.sum() == 300


@pytest.mark.parametrize("far", [False, True])
def test_bins_stay_fine_near_zero_and_one(far):
    distance = np.array([1e-6, 3e-6, 1e-5, 1e-4], np.float32)
    score = np.float32(1) - distance if far else distance
    bins = error_histogram(score, np.zeros(4, int), np.ones(4, bool), 1).counts[0, 1]
    assert (bins > 0).sum() == 4


def test_bins_follow_the_logit():
    score = np.linspace(0.001, 0.999, 999)
    counts = error_histogram(score, np.zeros(999, int), np.ones(999, bool), 1).counts[0, 1]
    upper_edges = 1 / (1 + np.exp(-(np.arange(1, 4097) / 128 - 16)))
    # float64's rounding decides where a score lies on an edge exactly: only 0.5 here.
    expected = np.bincount(np.searchsorted(upper_edges, score - 1e-12), minlength=4096)
    np.testing.assert_array_equal(counts, expected)


def test_extreme_scores_land_in_the_outer_bins():
    score = np.array([0.0, 1e-30, 1.0], np.float32)
    counts = error_histogram(score, np.zeros(3, int), np.ones(3, bool), 1).counts[0, 1]
    assert (counts[0], counts[-1], counts.sum()) == (2, 1, 3)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_threshold_one_half_agrees_with_the_gate(dtype):
    score = np.array([0.5, np.nextafter(dtype(0.5), dtype(1)), 0.51], dtype)
    histogram = error_histogram(score, np.zeros(3, int), np.array([False, True, True]), 1)
    # One step above 0.5 may share the bin edge's rounding in logits, but 0.5 is always flagged.
    assert detection.precision_and_recall(histogram, 0.5)[1] == 1.0
    kept = error_histogram(score[2:], np.zeros(1, int), np.array([False]), 1)
    assert detection.precision_and_recall(kept, 0.5)[1] == 0.0


def test_no_pixel_gives_nan_without_a_warning():
    for value in detection.error_figures(EMPTY).values():
        assert np.isnan(value)
    assert np.isnan(detection.accuracy_at_coverage(EMPTY, [0.5, 1.0])).all()


@pytest.mark.parametrize("right", [True, False])
def test_only_right_or_only_wrong_pixels(right):
    histogram = error_histogram(np.array([0.2, 0.9]), np.array([0, 1]), np.full(2, right), 2)
    figures = detection.error_figures(histogram)
    assert np.isnan(figures["auroc"])
    assert np.isnan(figures["auroc_within_class"])
    np.testing.assert_equal(figures["aupr"], np.nan if right else 1.0)
    np.testing.assert_equal(figures["recall"], np.nan if right else 0.5)
    assert figures["risk_coverage_area"] == (0.0 if right else 1.0)
    assert figures["precision"] == (0.0 if right else 1.0)


@pytest.mark.parametrize("bad", [np.nan, -0.1, 1.1])
def test_scores_outside_their_range_are_refused(bad):
    with pytest.raises(ValueError, match="outside"):
        error_histogram(np.array([0.5, bad]), np.zeros(2, int), np.ones(2, bool), 1)


def test_binning_costs_little_on_saturated_scores():
    rng = np.random.default_rng(0)
    logit = rng.normal(7, 3, 50_000)
    score = (1 / (1 + np.exp(-logit))).astype(np.float32)
    right = rng.random(50_000) < 1 / (1 + np.exp(1 - logit / 3))
    ranks = stats.rankdata(score)
    pairs = right.sum() * (~right).sum()
    expected = (ranks[right].sum() - right.sum() * (right.sum() + 1) / 2) / pairs
    histogram = error_histogram(score, np.zeros(50_000, int), right, 1)
    assert detection.auroc(histogram) == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("seed", range(3))
def test_calibration_error_equals_guos_formula(seed):
    score, prediction, right = sample(seed, pixels=2000, levels=20)
    histogram = error_histogram(score, prediction, right, 3)
    expected = 0.0
    for low in np.arange(15) / 15:
        inside = (score >= low) & (score < low + 1 / 15)
        if inside.any():
            expected += inside.mean() * abs(score[inside].mean() - right[inside].mean())
    found = detection.expected_calibration_error(histogram)
    assert found == pytest.approx(expected, abs=2e-3)
    assert np.isnan(detection.expected_calibration_error(EMPTY))
