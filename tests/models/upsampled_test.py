"""Convolution of upsampled maps equals upsampling, joining and convolving."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eln_jax.models.convolution import convolve
from eln_jax.models.layers import Conv, resize_bilinear
from eln_jax.models.upsampled import UpsampledConv, convolve_upsampled


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize(
    ("source", "target", "k"),
    [((5, 3), (17, 9), 3), ((4, 6), (16, 24), 3), ((1, 2), (4, 5), 3), ((4, 4), (13, 16), 5)],
)
def test_values_and_gradients_are_those_of_the_large_maps(source, target, k):
    small, large = draw(0, 2, *source, 4), draw(1, 2, *target, 3)
    kernel, given = draw(2, k, k, 7, 5), draw(3, 2, *target, 5)

    def direct(small, large, kernel):
        return convolve(jnp.concatenate([resize_bilinear(small, target), large], -1), kernel)

    def cheap(small, large, kernel):
        layer = UpsampledConv(5, k)
        return layer.apply({"params": {"kernel": kernel}}, small, large)

    expected, backward = jax.vjp(direct, small, large, kernel)
    found, cheap_backward = jax.vjp(cheap, small, large, kernel)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    for one, other in zip(cheap_backward(given), backward(given), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_a_constant_map_becomes_the_sum_of_the_taps_inside():
    kernel = jnp.arange(9.0).reshape(3, 3, 1, 1)
    y = convolve_upsampled(jnp.ones((1, 2, 2, 1)), kernel, (4, 4))[0, ..., 0]
    assert y[1, 1] == pytest.approx(36)
    assert y[0, 0] == pytest.approx(4 + 5 + 7 + 8)  # no row above, no column to the left
    assert y[3, 3] == pytest.approx(0 + 1 + 3 + 4)


def test_weights_are_those_of_a_convolution_of_the_joined_maps():
    small, large = draw(0, 1, 2, 2, 4), draw(1, 1, 8, 8, 3)
    key = jax.random.key(0)
    weights = UpsampledConv(6).init(key, small, large)
    same = Conv(6, 3).init(key, jnp.zeros((1, 8, 8, 7)))
    jax.tree.map(np.testing.assert_array_equal, weights, same)


def test_sixteen_bits_stay_sixteen_bits():
    small, large = draw(0, 1, 2, 2, 4), draw(1, 1, 8, 8, 3)
    layer = UpsampledConv(6, dtype=jnp.bfloat16)
    weights = layer.init(jax.random.key(0), small, large)
    assert weights["params"]["kernel"].dtype == jnp.float32
    y = layer.apply(weights, small, large)
    assert y.dtype == jnp.bfloat16
    exact = UpsampledConv(6).apply(weights, small, large)
    np.testing.assert_allclose(y.astype(jnp.float32), exact, atol=0.1)
