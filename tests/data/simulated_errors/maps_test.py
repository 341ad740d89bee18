"""What holds for every op, whatever it does: void, generators, types, sizes of the errors."""

import inspect
import pickle

import numpy as np
import pytest
from hypothesis import given, settings

from eln_jax.data.simulated_errors.borders import shift_boundaries
from eln_jax.data.simulated_errors.simulation import OPS
from tests.data.simulated_errors.label_maps import (
    SCENE,
    VOID,
    check_like,
    halves,
    maps,
    rng,
    scenes,
    seeds,
    wrong_rate,
)

modest = settings(max_examples=40, deadline=None, derandomize=True)
every_op = pytest.mark.parametrize("name", OPS)


@every_op
@modest
@given(maps(), seeds)
def test_an_op_keeps_void_and_is_a_function_of_map_and_generator(name, label, seed):
    before = label.copy()
    first, second = (OPS[name](label, rng(seed), **SCENE) for _ in range(2))
    np.testing.assert_array_equal(label, before)
    np.testing.assert_array_equal(first, second)
    check_like(first, label)


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
        assert op.__name__ == name
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
