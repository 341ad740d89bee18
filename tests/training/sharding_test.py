import jax
import numpy as np
import pytest

from eln_jax.errors import UserError
from eln_jax.training import assembly, sharding
from tests.tiny import tiny_config


def run_one_step(num_devices):
    """Metrics and new state of a semi-supervised step on some devices."""
    mesh = sharding.make_mesh(jax.devices()[:num_devices])
    fields = {"gate": "confidence", "gate_threshold": "0.21", "loss_ceilings": "(0.0, 0.0)"}
    config = tiny_config(**{f"method__{name}": value for name, value in fields.items()})
    parts = assembly.build(config, mesh)
    state = parts.programs.initial_state()
    batch = {name: next(iter(stream)) for name, stream in parts.data.streams.items()}
    batch = sharding.put_batch(batch, mesh)
    state, metrics = parts.programs.steps["semi_supervised"](state, batch, jax.random.key(0))
    return jax.device_get((metrics, state))


def test_a_step_over_four_devices_equals_the_step_on_one():
    # Of the third phase, which holds the terms of the other two.
    (metrics, state), (metrics_4, state_4) = (run_one_step(n) for n in (1, 4))
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
