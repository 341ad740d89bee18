"""What evaluation runs is what training trained, at full size too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eln_jax.method.state import student_variables
from eln_jax.method.views import normalize, to_unit
from eln_jax.models.layers import resize_bilinear
from eln_jax.training import programs
from eln_jax.training.networks import input_statistics, make_evaluation_networks, make_networks
from tests.tiny import tiny_config
from tests.training.sharding_test import parts_on, run_one_step

SIZE = (32, 48)


@pytest.mark.parametrize("architecture", ["official", "torchvision"])
def test_logits_are_enlarged_as_the_loss_enlarges_them(architecture):
    config = tiny_config(model__architecture=architecture)
    networks = make_networks(config)
    make_state, args = programs._state_and_step_arguments(config, networks, None)
    state = make_state(pretrained=False)
    eln = {"params": state.params["eln"], "batch_stats": state.batch_stats["eln"]}
    variables = {"network": student_variables(state), "eln": eln}
    image = jax.random.randint(jax.random.key(0), (1, *SIZE, 3), 0, 256).astype(jnp.uint8)
    evaluation = make_evaluation_networks(config, networks)
    logits = jax.jit(evaluation.logits)(variables, image)
    seen = normalize(to_unit(image), *input_statistics(config)[2:])
    eln_logits = jax.jit(networks.eln.apply)(eln, seen, logits)
    found = jax.jit(evaluation.network_with_eln)(variables, image)
    for actual, learned in zip(found, (logits, eln_logits[..., None]), strict=True):
        actual = actual.reshape(*actual.shape[:3], -1)
        np.testing.assert_allclose(
            resize_bilinear(actual, SIZE), args.resize(learned, SIZE), rtol=1e-4, atol=1e-4
        )


@pytest.mark.slow
def test_a_decoder_with_torchvisions_names_trains():
    metrics, _ = run_one_step(parts_on(1, model__architecture="torchvision"))
    assert np.isfinite([float(value) for value in metrics.values()]).all()
