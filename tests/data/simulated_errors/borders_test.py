import numpy as np
import pytest
from scipy import ndimage

from eln_jax.data.simulated_errors.borders import coarsen, erode_or_dilate_class, shift_boundaries
from tests.data.simulated_errors.label_maps import halves, rng, square


def test_shift_moves_borders_and_nothing_else():
    label = halves(100)
    single = np.full((20, 30), 4, np.uint8)
    for seed in range(20):
        np.testing.assert_array_equal(shift_boundaries(single, rng(seed), num_classes=9), single)
        result = shift_boundaries(label, rng(seed), num_classes=2, strength=2.0)
        # Noise of deviation 6 at most stays within four deviations of the border.
        np.testing.assert_array_equal(result[:, :26], label[:, :26])
        np.testing.assert_array_equal(result[:, 74:], label[:, 74:])


@pytest.mark.parametrize("strength", [0.5, 2.0])
def test_a_shift_is_as_long_as_its_strength(strength):
    """The border of two halves of 200 pixels moves by 1 to 3 or 12 pixels' deviation."""
    label = halves(200)
    deviations = []
    for seed in range(60):
        result = shift_boundaries(label, rng(seed), num_classes=2, strength=strength)
        moves = np.argmax(result == 1, axis=1) - 100.0
        # Smooth: from row to row a border moves far less than at all.
        assert np.abs(np.diff(moves)).mean() < 0.07 * max(2.0, np.ptp(moves))
        deviations.append(np.sqrt(np.mean(moves**2)))
    assert 0.3 < min(deviations) < 1.6
    assert 3 * strength < max(deviations) < 9 * strength


def test_grown_and_shrunken_classes_keep_to_their_radius():
    """A square grows by discs and shrinks by discs, by at most 4 % of 100 pixels."""
    label = square(100, 30, (40, 30))
    radii = {"grown": set(), "shrunken": set()}
    for seed in range(60):
        result = erode_or_dilate_class(label, rng(seed), num_classes=4)
        grown, shrunken = (result == 3) & (label == 0), (result == 0) & (label == 3)
        assert grown.any() != shrunken.any()
        moved = grown if grown.any() else shrunken
        distance = ndimage.distance_transform_edt((label == 0) == grown.any())
        radius = distance[moved].max()
        np.testing.assert_array_equal(moved, (distance > 0) & (distance <= radius))
        radii["grown" if grown.any() else "shrunken"].add(float(radius))
    for reached in radii.values():
        assert min(reached) < 2
        assert 3 <= max(reached) <= 4
    single = np.full((9, 9), 2, np.uint8)
    np.testing.assert_array_equal(erode_or_dilate_class(single, rng(), num_classes=4), single)


def test_a_class_shrinks_and_grows_on_all_its_sides():
    """Between two stripes a third gives each side to the neighbour there, or takes of both."""
    label = np.repeat(np.array([1, 2, 3], np.uint8), 50)[None].repeat(60, 0)
    shrunken = grown = 0
    for seed in range(40):
        result = erode_or_dilate_class(label, rng(seed), num_classes=4, strength=3.0)
        left, right = (result[:, side][label[:, side] == 2] for side in (slice(75), slice(75, 150)))
        if (left != 2).any() and (right != 2).any():
            assert set(left) == {1, 2}
            assert set(right) == {2, 3}
            shrunken += 1
        grown += 2 in result[:, :50] and 2 in result[:, 100:]
    assert 3 <= shrunken <= 12
    assert 3 <= grown <= 12


def test_coarse_blocks_take_the_majority():
    """Blocks of 8 or 9 pixels, wherever they begin, hold their commonest class and no other."""
    label = (rng().random((45, 60)) < 0.5).astype(np.uint8)
    seen = set()
    for seed in range(12):
        result = coarsen(label, rng(seed), num_classes=2, factors=(8, 9))
        fits = [
            (factor, top, left)
            for factor in (8, 9)
            for top in range(factor)
            for left in range(factor)
            if (result == majority(label, factor, top, left)).all()
        ]
        assert len(fits) == 1
        seen |= set(fits)
    assert {factor for factor, _, _ in seen} == {8, 9}
    assert all(len(set(offsets)) > 4 for offsets in list(zip(*seen, strict=True))[1:])
    # A thing finer than every block is lost, and one far coarser keeps its middle.
    np.testing.assert_array_equal(coarsen(square(40, 2), rng(), num_classes=4), 0)
    assert (coarsen(square(200, 100, (50, 50)), rng(), num_classes=4)[84:116, 84:116] == 3).all()


def majority(label, factor, top, left):
    result = np.empty_like(label)
    for row in range(-top, label.shape[0], factor):
        for column in range(-left, label.shape[1], factor):
            block = (slice(max(0, row), row + factor), slice(max(0, column), column + factor))
            if label[block].size:
                result[block] = 2 * label[block].sum() > label[block].size
    return result
