import contextlib

import jax
import numpy as np
import pytest

from eln_jax.errors import UserError
from eln_jax.training import assembly, sharding
from eln_jax.training.checkpoint import Checkpoints
from tests.tiny import tiny_config


def parts_on(num_devices, **changes):
    mesh = sharding.make_mesh(jax.devices()[:num_devices])
    fields = {"gate": "confidence", "gate_threshold": "0.21", "loss_ceilings": "(0.0, 0.0)"}
    config = tiny_config(**{f"method__{name}": value for name, value in fields.items()}, **changes)
    return assembly.build(config, mesh)


def run_one_step(parts):
    """Metrics and new state, on the devices, of a semi-supervised step."""
    state = parts.programs.initial_state()
    batch = {name: next(iter(stream)) for name, stream in parts.data.streams.items()}
    batch = sharding.put_batch(batch, parts.programs.mesh)
    state, metrics = parts.programs.steps["semi_supervised"](state, batch, jax.random.key(0))
    return jax.device_get(metrics), state


def bytes_of_a_device(state):
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))


@pytest.fixture(scope="module")
def on_one_device():
    return run_one_step(parts_on(1))


@pytest.mark.slow
def test_a_step_with_a_split_state_equals_the_step_on_one(on_one_device):
    split = run_one_step(parts_on(4, shard_state="true"))
    (metrics, state), (metrics_4, state_4) = on_one_device, split
    for name, value in metrics.items():
        np.testing.assert_allclose(metrics_4[name], value, rtol=1e-5, atol=1e-5, err_msg=name)
    for old, new in zip(jax.tree.leaves(state), jax.tree.leaves(state_4), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-5)


def test_a_split_state_is_evaluated_and_saved_whole(tmp_path):
    state = parts_on(4, shard_state="true").programs.initial_state()
    # Nearly all of it lies in arrays that are split; the small ones are everywhere.
    assert bytes_of_a_device(state) < 0.4 * sum(x.nbytes for x in jax.tree.leaves(state))
    whole = sharding.local_copy(state.params, sharding.make_mesh())
    for old, new in zip(jax.tree.leaves(state.params), jax.tree.leaves(whole), strict=True):
        assert new.sharding.is_fully_replicated
        np.testing.assert_array_equal(new, old)
    with contextlib.closing(Checkpoints(tmp_path)) as checkpoints:
        checkpoints.save(state, {}, None)
        # A run may go on with its state split over other devices, or not at all.
        mesh = sharding.make_mesh(jax.devices()[:2])
        shardings = sharding.state_shardings(state, mesh)
        like = jax.tree.map(
            lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), state, shardings
        )
        restored, _ = checkpoints.restore(like)
    for old, new, at in zip(*map(jax.tree.leaves, (state, restored, shardings)), strict=True):
        np.testing.assert_array_equal(new, old)
        assert new.sharding == at


@pytest.mark.parametrize(
    ("shape", "split_over"),
    [
        ((3, 3, 256, 512), (None, None, None, "data")),
        ((3, 3, 512, 254), (None, None, "data")),
        ((513, 511), ()),  # no side divides
        ((128,), ()),  # small
        ((), ()),
    ],
)
def test_which_side_of_an_array_is_split(shape, split_over):
    array = jax.ShapeDtypeStruct(shape, np.float32)
    sharding_of_it = sharding.state_shardings(array, sharding.make_mesh())
    wanted = (*split_over, *[None] * (len(shape) - len(split_over))) if split_over else ()
    assert tuple(sharding_of_it.spec) == wanted


def test_a_step_over_four_devices_equals_the_step_on_one(on_one_device):
    # Of the third phase, which holds the terms of the other two.
    (metrics, state), (metrics_4, state_4) = on_one_device, run_one_step(parts_on(4))
    assert 0.1 < metrics["valid_ratio"] < 0.9  # the gate rejects some pixels
    assert metrics["aux_learns/0"] == metrics["aux_learns/1"] == 1
    for name, value in metrics.items():
        np.testing.assert_allclose(metrics_4[name], value, rtol=1e-5, atol=1e-5, err_msg=name)
    for old, new in zip(jax.tree.leaves(state), jax.tree.leaves(state_4), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-5)


def test_a_batch_that_does_not_divide_names_the_sizes_that_do():
    with pytest.raises(UserError, match="use 4 or 8"):
        sharding.check_batch_size("batch_size_labeled", 6, sharding.make_mesh())
    with pytest.raises(UserError, match=r"use 4\.$"):
        sharding.check_batch_size("batch_size_labeled", 2, sharding.make_mesh())
    with pytest.raises(UserError, match=r"4 devices in 2 parts \(accumulation\); use 8 or 16\."):
        sharding.check_batch_size("batch_size_labeled", 12, sharding.make_mesh(), 2)
