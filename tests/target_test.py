"""Programs are traced in the forms of the device that they are for."""

from functools import partial

import jax
import jax.numpy as jnp

from eln_jax import target
from eln_jax.models.convolution import convolve


def operations(x, kernel):
    """Names of those in a convolution's program, traced anew."""
    program = jax.make_jaxpr(partial(convolve))(x, kernel)
    return {equation.primitive.name for equation in program.eqns}


def test_a_convolution_has_the_form_of_the_device_it_is_for():
    x, kernel = jnp.ones((1, 4, 4, 3)), jnp.ones((1, 1, 3, 5))
    assert target.platform() == "cpu"
    assert "conv_general_dilated" not in operations(x, kernel)
    with target.traced_for("tpu"):
        assert target.platform() == "tpu"
        assert "conv_general_dilated" in operations(x, kernel)
    assert target.platform() == "cpu"
