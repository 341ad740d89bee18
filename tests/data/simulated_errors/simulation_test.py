import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from eln_jax.data.simulated_errors import simulation
from eln_jax.data.simulated_errors.simulation import (
    MOST_TRIES,
    OPS,
    TOLERANCE,
    Simulation,
    simulate_errors,
    thin_out,
)
from eln_jax.errors import UserError
from tests.data.simulated_errors.label_maps import (
    CLASSES,
    SCENE,
    VOID,
    check_like,
    maps,
    rng,
    scenes,
    seeds,
    square,
    wrong_rate,
)

modest = settings(max_examples=40, deadline=None, derandomize=True)
every_op = pytest.mark.parametrize("name", OPS)


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.3, 0.5])
def test_the_composition_reaches_its_rate(rate):
    for index, label in enumerate(scenes()):
        for seed in range(4):
            result = simulate_errors(
                label,
                rng([index, seed]),
                Simulation((rate, rate)),
                **SCENE,
                donor=lambda index=index: scenes()[index - 1],
            )
            check_like(result, label)
            slack = min(TOLERANCE, 0.1 * rate) + 1 / label.size
            assert abs(wrong_rate(result, label) - rate) <= slack * 1.05


@every_op
def test_each_op_alone_comes_no_farther_than_its_rate(name):
    for label in scenes()[:3]:
        result = simulate_errors(label, rng(1), Simulation((0.02, 0.02), (name,)), **SCENE)
        assert 0.005 < wrong_rate(result, label) <= 0.0225


def test_rates_fill_their_range():
    label = scenes()[1]
    rates = [
        wrong_rate(simulate_errors(label, rng(seed), Simulation((0.1, 0.4)), **SCENE), label)
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
        simulate_errors(label, rng(seed), Simulation((rate, rate)), **SCENE) for _ in range(2)
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
    wanted = Simulation((0.2, 0.3))
    for label, classes in ((void, 3), (single, 1)):
        result = simulate_errors(label, rng(), wanted, num_classes=classes, ignore_label=VOID)
        np.testing.assert_array_equal(result, label)
        assert not np.shares_memory(result, label)
    # Of one pixel nothing or everything is wrong.
    assert simulate_errors(single[:1, :1], rng(), wanted, num_classes=3).shape == (1, 1)
    unharmed = simulate_errors(scenes()[0], rng(), Simulation((0.0, 0.0)), **SCENE)
    np.testing.assert_array_equal(unharmed, scenes()[0])


def test_an_op_that_achieves_nothing_is_given_up(monkeypatch):
    tries = []
    monkeypatch.setitem(
        simulation.OPS, "coarsen", lambda label, *_, **__: tries.append(0) or label.copy()
    )
    label = scenes()[0]
    result = simulate_errors(label, rng(), Simulation(ops=("coarsen",)), **SCENE)
    np.testing.assert_array_equal(result, label)
    assert len(tries) == MOST_TRIES


def test_an_op_that_sets_things_right_is_taken_back(monkeypatch):
    label = np.zeros((20, 20), np.uint8)
    monkeypatch.setitem(simulation.OPS, "blotches", lambda *_, **__: square(20, 4, (3, 3)))
    monkeypatch.setitem(simulation.OPS, "coarsen", lambda *_, **__: label)
    for seed in range(10):
        wanted = Simulation((0.5, 0.5), ("blotches", "coarsen"))
        result = simulate_errors(label, rng(seed), wanted, num_classes=4)
        np.testing.assert_array_equal(result, square(20, 4, (3, 3)))


def test_the_composition_draws_from_all_ops_and_hands_them_what_they_need(monkeypatch):
    confusion, donor, calls = np.ones((CLASSES, CLASSES)), scenes()[2], {}

    def spy(name, op):
        def called(label, generator, **options):
            calls.setdefault(name, []).append(options)
            return op(label, generator, **options)

        return called

    for name, op in OPS.items():
        monkeypatch.setitem(simulation.OPS, name, spy(name, op))
    for seed in range(30):
        wanted = Simulation(stride=2, confusion=confusion)
        simulate_errors(scenes()[0], rng(seed), wanted, **SCENE, donor=lambda: donor)
    assert set(calls) == set(OPS)
    assert all(options["confusion"] is confusion for options in calls["swap_component"])
    assert all(options["donor"] is donor for options in calls["insert_object"])
    assert all(options["factors"] == (4, 16) for options in calls["coarsen"])
    for name in ("shift_boundaries", "erode_or_dilate_class", "blotches"):
        assert all(1.25 <= options["strength"] <= 2.5 for options in calls[name])


def test_a_donor_is_only_asked_for_when_an_object_is_inserted():
    asked = []
    without = Simulation(ops=tuple(name for name in OPS if name != "insert_object"))
    simulate_errors(scenes()[0], rng(), without, **SCENE, donor=lambda: asked.append(0))
    assert not asked
    alone = Simulation(ops=("insert_object",))
    result = simulate_errors(scenes()[0], rng(), alone, **SCENE, donor=lambda: asked.append(0))
    assert asked
    assert wrong_rate(result, scenes()[0]) > 0.03  # its own mirror image lends


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
    monkeypatch.setitem(simulation.OPS, "blotches", lambda *_, **__: too_much)
    whole = set()
    for seed in range(5):
        result = simulate_errors(
            label,
            rng(seed),
            Simulation((kept / squares / 10,) * 2, ("blotches",)),
            num_classes=2,
            ignore_label=VOID,
        )
        shares = ndimage.mean(result == 1, numbers, np.arange(1, squares + 1))
        right = squares - int(kept) - 1
        assert sorted(shares.round(1)) == [0.0] * right + [0.5] + [1.0] * int(kept)
        # The half is of few pieces.
        assert ndimage.label(result == 1)[1] <= int(kept) + 4
        whole.add(tuple(shares == 1))
    assert len(whole) > 1


@modest
@given(maps(), st.integers(1, 6))
def test_a_thinned_out_map_reaches_from_corner_to_corner(label, stride):
    thin = thin_out(label, stride)
    assert thin.shape == tuple((extent - 1) // stride + 1 for extent in label.shape)
    assert thin[0, 0] == label[0, 0]
    if min(thin.shape) > 1:
        assert thin[-1, -1] == label[-1, -1]
    even = label[tuple(slice((extent - 1) // stride * stride + 1) for extent in label.shape)]
    np.testing.assert_array_equal(thin_out(even, stride), even[::stride, ::stride])


@pytest.mark.parametrize(("side", "cells"), [(96, 24), (512, 128), (513, 129), (505, 127)])
def test_a_thinned_out_map_is_as_large_as_the_networks(side, cells):
    assert thin_out(np.zeros((side, 8), np.uint8), 4).shape == (cells, 2)


def test_a_description_survives_json_and_leaves_out_what_was_measured():
    described = Simulation((0.1, 0.2), ("coarsen",), confusion=np.eye(3)).describe()
    assert described == {"error_rate": [0.1, 0.2], "ops": ["coarsen"], "stride": 4}
    assert json.loads(json.dumps(described)) == described


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ops": ("blotches", "swap_componnent")}, "Did you mean swap_component"),
        ({"ops": ()}, "ops is empty"),
        ({"error_rate": (0.3, 0.1)}, "error_rate"),
        ({"error_rate": (0.3, 1.1)}, "error_rate"),
    ],
)
def test_unknown_ops_and_impossible_rates_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        Simulation(**values)
