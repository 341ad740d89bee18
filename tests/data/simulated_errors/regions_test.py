import numpy as np
import pytest
from hypothesis import given, settings
from scipy import ndimage

from eln_jax.data.simulated_errors.regions import (
    blotches,
    drop_object,
    insert_object,
    swap_component,
)
from tests.data.simulated_errors.label_maps import (
    CLASSES,
    SCENE,
    VOID,
    check_like,
    halves,
    maps,
    rng,
    seeds,
    square,
)

modest = settings(max_examples=40, deadline=None, derandomize=True)


def test_a_swap_changes_one_component_as_a_whole():
    label = np.zeros((30, 30), np.uint8)
    label[2:8, 2:8] = label[20:28, 20:28] = 1
    swapped = set()
    for seed in range(60):
        result = swap_component(label, rng(seed), num_classes=4)
        changed = result != label
        assert len(set(result[changed])) == 1
        corner = (int(label[changed][0]), bool(changed[2, 2]), bool(changed[20, 20]))
        assert changed.sum() == {(1, True, False): 36, (1, False, True): 64}[corner]
        swapped.add((corner, int(result[changed][0])))
    # Both squares take each of the three other classes; the ground is more than half of the map.
    assert len(swapped) == 6
    # Where there is nothing but ground, it is swapped.
    single = np.full((9, 9), 2, np.uint8)
    assert (swap_component(single, rng(), num_classes=4) != 2).all()


def test_a_swap_follows_the_confusion_matrix():
    confusion = np.zeros((5, 5), int)
    confusion[3] = [0, 0, 0, 1000, 7]
    for seed in range(20):
        result = swap_component(square(), rng(seed), num_classes=5, confusion=confusion)
        np.testing.assert_array_equal(result, np.where(square() == 3, 4, 0))
    confusion[3] = [30, 0, 0, 1000, 10]
    drawn = [
        int(swap_component(square(), rng(seed), num_classes=5, confusion=confusion)[12, 22])
        for seed in range(200)
    ]
    assert set(drawn) == {0, 4}
    assert 130 <= drawn.count(0) <= 170
    # An empty row says nothing: any other class will do.
    confusion[3] = [0, 0, 0, 1000, 0]
    drawn = {
        int(swap_component(square(), rng(seed), num_classes=5, confusion=confusion)[12, 22])
        for seed in range(40)
    }
    assert drawn == {0, 1, 2, 4}


def test_a_dropped_object_leaves_its_surroundings():
    for seed in range(10):
        result = drop_object(square(), rng(seed), num_classes=4)
        np.testing.assert_array_equal(result, np.zeros_like(result))
    single = np.full((9, 9), 2, np.uint8)
    np.testing.assert_array_equal(drop_object(single, rng(), num_classes=4), single)


def test_a_dropped_object_is_filled_from_the_nearest_pixels():
    label = halves(40)
    label[15:25, 10:36] = 2
    result = drop_object(label, rng(), num_classes=3)
    sides = ndimage.distance_transform_cdt(label != 0), ndimage.distance_transform_cdt(label != 1)
    lost = label == 2
    near_0, near_1 = lost & (sides[0] < sides[1]), lost & (sides[1] < sides[0])
    assert near_0.sum() > 60
    assert near_1.sum() > 60
    assert (result[near_0] == 0).all()
    assert (result[near_1] == 1).all()
    np.testing.assert_array_equal(result[~lost], label[~lost])


def test_the_largest_component_is_not_dropped():
    label = np.repeat(np.array([0, 1, 3], np.uint8), (18, 12, 10))[None].repeat(40, 0)
    drops = {drop_object(label, rng(seed), num_classes=4).tobytes() for seed in range(40)}
    kept = [drop_object(label, rng(seed), num_classes=4)[:, :18] for seed in range(40)]
    assert (np.array(kept) == 0).all()
    assert len(drops) == 2


def test_an_inserted_object_has_the_donors_outline():
    """An ellipse stays one in any place and size; the donor's ground is not pasted."""
    y, x = np.ogrid[:50, :50]
    inside = (y - 20) ** 2 + 4 * (x - 30) ** 2 <= 15**2
    donor = np.where(inside, 5, 2).astype(np.uint8)
    donor[0:2] = VOID
    label = np.zeros((80, 120), np.uint8)
    sizes, places = [], []
    for seed in range(60):
        result = insert_object(label, rng(seed), num_classes=6, ignore_label=VOID, donor=donor)
        assert set(np.unique(result)) == {0, 5}
        rows, columns = np.nonzero(result)
        if not result[[0, -1]].any() and not result[:, [0, -1]].any():
            height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
            assert abs(width - height * 15 / 31) <= 2  # its tips may be lost
            assert abs(len(rows) - np.pi / 4 * height * width) < 1 + 2 * height
            sizes.append(height)
            places.append((rows.mean(), columns.mean()))
    assert min(sizes) < 16
    assert 35 < max(sizes) <= 48
    assert np.ptp(places, axis=0).min() > 40
    # Without a donor the map itself lends its square.
    result = insert_object(square(), rng(1), num_classes=6)
    assert (result == 3).sum() > 64
    np.testing.assert_array_equal(result[square() == 3], 3)


@modest
@given(maps(), maps(), seeds)
def test_a_donor_may_have_any_size_and_foreign_ids(label, donor, seed):
    donor[donor == 0] = CLASSES + 1
    before = donor.copy()
    result = insert_object(label, rng(seed), **SCENE, donor=donor)
    check_like(result, label)
    np.testing.assert_array_equal(donor, before)
    assert set(result[result != label]) <= set(donor[donor < CLASSES])


@pytest.mark.parametrize("strength", [1.0, 4.0])
def test_blotches_are_wrong_everywhere_and_of_the_size_asked(strength):
    """Of two classes each blotch takes the one that is not there, so that all of it is wrong."""
    label = halves(120)
    rates, numbers = [], []
    for seed in range(40):
        changed = blotches(label, rng(seed), num_classes=2, strength=strength) != label
        rates.append(changed.mean())
        numbers.append(ndimage.label(changed)[1])
    assert 0.005 < min(rates) < 0.02 + 0.03 * strength
    assert 0.09 * strength < max(rates) < 0.13 * strength
    assert min(numbers) < 6
    assert 6 < max(numbers) < 60
    assert 0.2 < np.mean(rates) / (0.01 + 0.06 * strength) < 1.3


def test_a_blotch_has_one_class():
    label = np.full((90, 90), 3, np.uint8)
    for seed in range(10):
        result = blotches(label, rng(seed), num_classes=CLASSES)
        numbers, count = ndimage.label(result != label)
        kinds = [set(result[numbers == number]) for number in range(1, count + 1)]
        assert all(len(kind) == 1 for kind in kinds)
        assert len(set().union(*kinds)) > 1
