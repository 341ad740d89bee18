import functools
import inspect
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from eln_jax.data import simulated_errors
from eln_jax.data.simulated_errors import (
    MOST_TRIES,
    OPS,
    TOLERANCE,
    blotches,
    coarsen,
    drop_object,
    erode_or_dilate_class,
    insert_object,
    shift_boundaries,
    simulate_errors,
    swap_component,
)
from eln_jax.data.synthetic import SyntheticSource
from eln_jax.errors import UserError

CLASSES, VOID = 7, 200
SCENE = {"num_classes": CLASSES, "ignore_label": VOID}
modest = settings(max_examples=40, deadline=None, derandomize=True)
seeds = st.integers(0, 2**32 - 1)
every_op = pytest.mark.parametrize("name", OPS)


def rng(seed=0):
    return np.random.default_rng(seed)


@st.composite
def maps(draw):
    """Piecewise constant maps of any size, from a single pixel on, with patches of void."""
    sizes = st.one_of(
        st.sampled_from([(1, 1), (3, 5), (1, 40), (40, 1)]),
        st.tuples(st.integers(2, 70), st.integers(2, 70)),
    )
    height, width = draw(sizes)
    random = rng(draw(seeds))
    side = draw(st.sampled_from([1, 4, 16]))
    ids = random.integers(0, draw(st.integers(1, CLASSES)), (height // side + 1, width // side + 1))
    ids[random.random(ids.shape) < draw(st.sampled_from([0.0, 0.2, 1.0]))] = VOID
    return ids.repeat(side, 0).repeat(side, 1)[:height, :width].astype(np.uint8)


def square(size=40, side=8, at=(10, 20), value=3):
    """A background of class 0 with a square on it."""
    label = np.zeros((size, size), np.uint8)
    label[at[0] : at[0] + side, at[1] : at[1] + side] = value
    return label


def halves(size=64):
    label = np.zeros((size, size), np.uint8)
    label[:, size // 2 :] = 1
    return label


@functools.cache
def scenes():
    source = SyntheticSource(8, (128, 96), **SCENE, seed=5)
    return [source.read_label(index) for index in range(len(source))]


def wrong_rate(result, label):
    return (result != label)[label != VOID].mean()


def check_like(result, label):
    assert result.shape == label.shape
    assert result.dtype == label.dtype
    np.testing.assert_array_equal(result == VOID, label == VOID)
    assert (result[result != VOID] < CLASSES).all()
    assert not np.shares_memory(result, label)


@every_op
@modest
@given(maps(), seeds)
def test_an_op_keeps_void_and_is_a_function_of_map_and_generator(name, label, seed):
    before = label.copy()
    first, second = (OPS[name](label, rng(seed), **SCENE) for _ in range(2))
    np.testing.assert_array_equal(label, before)
    np.testing.assert_array_equal(first, second)
    check_like(first, label)


@modest
@given(maps(), maps(), seeds)
def test_a_donor_may_have_any_size_and_foreign_ids(label, donor, seed):
    donor[donor == 0] = CLASSES + 1
    before = donor.copy()
    result = insert_object(label, rng(seed), **SCENE, donor=donor)
    check_like(result, label)
    np.testing.assert_array_equal(donor, before)
    assert set(result[result != label]) <= set(donor[donor < CLASSES])


@every_op
def test_an_op_makes_errors_of_different_sizes(name):
    """On every scene most draws change something, and some change far more than others."""
    for label in scenes():
        rates = [wrong_rate(OPS[name](label, rng(seed), **SCENE), label) for seed in range(12)]
        assert np.count_nonzero(rates) >= 10
        assert max(rates) > 1.5 * min(rates)
        assert max(rates) < 0.6


@every_op
def test_two_generators_make_two_results(name):
    label = scenes()[0]
    first, second = (OPS[name](label, rng(seed), **SCENE) for seed in (3, 4))
    assert (first != second).any()


@every_op
def test_global_randomness_is_neither_used_nor_touched(name, monkeypatch):
    state = np.random.get_state()  # noqa: NPY002
    monkeypatch.setattr(np.random, "default_rng", None)
    generator = np.random.Generator(np.random.PCG64(1))
    OPS[name](scenes()[0], generator, **SCENE)
    for one, two in zip(state, np.random.get_state(), strict=True):  # noqa: NPY002
        np.testing.assert_array_equal(one, two)


def test_ops_travel_to_worker_processes_and_tell_how_they_are_called():
    for name, op in OPS.items():
        assert pickle.loads(pickle.dumps(op)) is op
        assert getattr(simulated_errors, name) is op
        assert "ignore_label" in inspect.signature(op).parameters


def test_void_between_two_classes_is_no_wall():
    """A border moves on through its void outline as if there were none."""
    label = halves()
    label[:, 30:34] = VOID
    moved = [
        shift_boundaries(label, rng(seed), num_classes=2, ignore_label=VOID, strength=5.0) != label
        for seed in range(20)
    ]
    assert np.any(moved, axis=0)[:, 26:30].any()
    assert np.any(moved, axis=0)[:, 34:38].any()


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


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.3, 0.5])
def test_the_composition_reaches_its_rate(rate):
    for index, label in enumerate(scenes()):
        for seed in range(4):
            result = simulate_errors(
                label,
                rng([index, seed]),
                **SCENE,
                error_rate=(rate, rate),
                donor=scenes()[index - 1],
            )
            check_like(result, label)
            slack = min(TOLERANCE, 0.1 * rate) + 1 / label.size
            assert abs(wrong_rate(result, label) - rate) <= slack * 1.05


@every_op
def test_each_op_alone_comes_no_farther_than_its_rate(name):
    for label in scenes()[:3]:
        result = simulate_errors(label, rng(1), **SCENE, error_rate=(0.02, 0.02), ops=[name])
        assert 0.005 < wrong_rate(result, label) <= 0.0225


def test_rates_fill_their_range():
    label = scenes()[1]
    rates = [
        wrong_rate(simulate_errors(label, rng(seed), **SCENE, error_rate=(0.1, 0.4)), label)
        for seed in range(40)
    ]
    assert 0.08 < min(rates) < 0.15
    assert 0.35 < max(rates) < 0.42
    assert 0.2 < np.mean(rates) < 0.3


@modest
@given(maps(), seeds, st.floats(0, 0.6))
def test_the_composition_keeps_void_and_never_overshoots(label, seed, rate):
    before = label.copy()
    first, second = (
        simulate_errors(label, rng(seed), **SCENE, error_rate=(rate, rate)) for _ in range(2)
    )
    np.testing.assert_array_equal(label, before)
    np.testing.assert_array_equal(first, second)
    check_like(first, label)
    counted = np.count_nonzero(label != VOID)
    if counted:
        missed = np.count_nonzero(first != label) - rate * counted
        assert missed <= TOLERANCE * counted + 1
        if counted == label.size >= 400:
            assert missed >= -TOLERANCE * counted - 1


def test_what_cannot_be_wrong_stays_right():
    void = np.full((5, 6), VOID, np.uint8)
    single = np.zeros((20, 20), np.uint8)
    wanted = {"ignore_label": VOID, "error_rate": (0.2, 0.3)}
    np.testing.assert_array_equal(simulate_errors(void, rng(), num_classes=3, **wanted), void)
    np.testing.assert_array_equal(simulate_errors(single, rng(), num_classes=1, **wanted), single)
    # Of one pixel nothing or everything is wrong.
    pixel = simulate_errors(single[:1, :1], rng(), num_classes=3, **wanted)
    assert pixel.shape == (1, 1)
    unharmed = simulate_errors(scenes()[0], rng(), num_classes=CLASSES, error_rate=(0.0, 0.0))
    np.testing.assert_array_equal(unharmed, scenes()[0])


def test_an_op_that_achieves_nothing_is_given_up(monkeypatch):
    tries = []
    monkeypatch.setitem(
        simulated_errors.OPS, "coarsen", lambda label, *_, **__: tries.append(0) or label.copy()
    )
    label = scenes()[0]
    result = simulate_errors(label, rng(), **SCENE, ops=["coarsen"])
    np.testing.assert_array_equal(result, label)
    assert len(tries) == MOST_TRIES


def test_an_op_that_sets_things_right_is_taken_back(monkeypatch):
    label = np.zeros((20, 20), np.uint8)
    monkeypatch.setitem(simulated_errors.OPS, "blotches", lambda *_, **__: square(20, 4, (3, 3)))
    monkeypatch.setitem(simulated_errors.OPS, "coarsen", lambda *_, **__: label)
    for seed in range(10):
        result = simulate_errors(
            label, rng(seed), num_classes=4, error_rate=(0.5, 0.5), ops=["blotches", "coarsen"]
        )
        np.testing.assert_array_equal(result, square(20, 4, (3, 3)))


def test_the_composition_draws_from_all_ops_and_hands_them_what_they_need(monkeypatch):
    confusion, donor, calls = np.ones((CLASSES, CLASSES)), scenes()[2], {}

    def spy(name, op):
        def called(label, generator, **options):
            calls.setdefault(name, []).append(options)
            return op(label, generator, **options)

        return called

    for name, op in OPS.items():
        monkeypatch.setitem(simulated_errors.OPS, name, spy(name, op))
    for seed in range(30):
        simulate_errors(scenes()[0], rng(seed), **SCENE, confusion=confusion, donor=donor)
    assert set(calls) == set(OPS)
    assert all(options["confusion"] is confusion for options in calls["swap_component"])
    assert all(options["donor"] is donor for options in calls["insert_object"])
    assert all(options["strength"] > 1 for options in calls["blotches"])


@pytest.mark.parametrize(("squares", "kept"), [(10, 5.5), (5, 2.5)])
def test_what_overshoots_is_kept_in_whole_regions_but_for_one(monkeypatch, squares, kept):
    """Ten squares are swapped at once, where some lie in void, which does not count."""
    too_much = np.zeros((100, 100), np.uint8)
    for number in range(10):
        row, column = 20 + 40 * (number // 5), 5 + 20 * (number % 5)
        too_much[row : row + 10, column : column + 10] = 1
    label = np.zeros((100, 100), np.uint8)
    label[10 * squares :] = VOID
    numbers, _ = ndimage.label(too_much)
    monkeypatch.setitem(simulated_errors.OPS, "blotches", lambda *_, **__: too_much)
    whole = set()
    for seed in range(5):
        result = simulate_errors(
            label,
            rng(seed),
            num_classes=2,
            ignore_label=VOID,
            error_rate=(kept / squares / 10,) * 2,
            ops=["blotches"],
        )
        shares = ndimage.mean(result == 1, numbers, np.arange(1, squares + 1))
        right = squares - int(kept) - 1
        assert sorted(shares.round(1)) == [0.0] * right + [0.5] + [1.0] * int(kept)
        # The half is of few pieces.
        assert ndimage.label(result == 1)[1] <= int(kept) + 4
        whole.add(tuple(shares == 1))
    assert len(whole) > 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ops": ["blotches", "swap_componnent"]}, "Did you mean swap_component"),
        ({"ops": []}, "ops is empty"),
        ({"error_rate": (0.3, 0.1)}, "error_rate"),
        ({"error_rate": (0.3, 1.1)}, "error_rate"),
    ],
)
def test_unknown_ops_and_impossible_rates_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        simulate_errors(scenes()[0], rng(), num_classes=CLASSES, **values)
