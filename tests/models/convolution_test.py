"""Convolution and max-pooling: each CPU form against XLA's own operation and against SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax
from scipy.signal import correlate2d

from eln_jax.models import cpu_forms, windows
from eln_jax.models.convolution import convolve, max_pool


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def assert_same_with_gradients(function, reference, *inputs):
    """Values and gradients by every input agree to float32's accuracy."""
    cotangent = normal(*jax.eval_shape(reference, *inputs).shape, seed=9)

    def value_and_gradients(f):
        value, pull_back = jax.vjp(f, *inputs)
        return value, *pull_back(cotangent)

    results = (jax.jit(value_and_gradients, static_argnums=0)(f) for f in (function, reference))
    for value, expected in zip(*results, strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=2e-4)


def xla(stride, dilation, padding, groups):
    def apply(x, kernel):
        margin = dilation * (kernel.shape[0] - 1) // 2
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            "SAME" if padding == "SAME" else [(margin, margin)] * 2,
            rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    return apply


@pytest.mark.parametrize(
    ("size", "stride", "dilation", "map_size", "padding"),
    [
        (3, 1, 1, (8, 9), "symmetric"),
        (3, 1, 4, (5, 2), "symmetric"),
        (5, 1, 2, (8, 9), "SAME"),
        (3, 2, 1, (8, 9), "symmetric"),
        (3, 2, 1, (8, 9), "SAME"),
        (5, 2, 1, (5, 2), "SAME"),
        (5, 2, 2, (8, 9), "symmetric"),
        (3, 3, 1, (7, 8), "SAME"),
    ],
)
def test_depthwise_equals_xla(size, stride, dilation, map_size, padding):
    def depthwise(x, kernel):
        return convolve(
            x, kernel, stride=stride, dilation=dilation, padding=padding, depthwise=True
        )

    x, kernel = normal(2, *map_size, 6), normal(size, size, 1, 6, seed=1)
    assert_same_with_gradients(depthwise, xla(stride, dilation, padding, 6), x, kernel)


@pytest.mark.parametrize(
    ("size", "stride", "dilation", "map_size", "padding"),
    [
        (1, 1, 1, (7, 8), "symmetric"),
        (1, 2, 1, (7, 8), "symmetric"),
        (3, 1, 1, (1, 1), "symmetric"),
        (3, 2, 1, (7, 8), "SAME"),
        (7, 2, 1, (7, 8), "symmetric"),
        (3, 1, 2, (7, 8), "symmetric"),
        (3, 1, 6, (7, 8), "symmetric"),
        (3, 1, 6, (3, 16), "SAME"),
        (3, 1, 18, (7, 8), "symmetric"),
    ],
)
def test_convolution_equals_xla(size, stride, dilation, map_size, padding):
    def convolution(x, kernel):
        return convolve(x, kernel, stride=stride, dilation=dilation, padding=padding)

    x, kernel = normal(2, *map_size, 4), normal(size, size, 4, 5, seed=1)
    assert_same_with_gradients(convolution, xla(stride, dilation, padding, 1), x, kernel)


def test_dilated_convolution_equals_scipy():
    x, kernel = normal(1, 9, 8, 2), normal(3, 3, 2, 1, seed=1)
    spread = np.zeros((9, 9, 2))
    spread[::4, ::4] = kernel[..., 0]
    expected = sum(
        correlate2d(np.asarray(x[0, ..., c]), spread[..., c], mode="same") for c in range(2)
    )
    np.testing.assert_allclose(convolve(x, kernel, dilation=4)[0, ..., 0], expected, atol=1e-5)


def test_share_inside_counts_taps_that_hit_the_map():
    hits = sum(
        0 <= row + 3 * i < 8 and 0 <= column + 3 * j < 5
        for row in range(8)
        for column in range(5)
        for i in (-1, 0, 1)
        for j in (-1, 0, 1)
    )
    assert cpu_forms.share_inside(3, 3, (8, 5)) == pytest.approx(hits / (8 * 5 * 9))


def test_forms_are_chosen_for_this_backend(monkeypatch):
    calls = []
    original = windows.depthwise
    monkeypatch.setattr(windows, "depthwise", lambda *a: calls.append("cpu") or original(*a))
    x, kernel = normal(1, 4, 4, 2), normal(3, 3, 1, 2, seed=1)
    on_cpu = convolve(x, kernel, depthwise=True)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    np.testing.assert_allclose(convolve(x, kernel, depthwise=True), on_cpu, atol=1e-6)
    assert calls == ["cpu"]


@pytest.mark.parametrize("depthwise", [False, True])
def test_bfloat16_comes_back_as_bfloat16(depthwise):
    x = normal(1, 6, 6, 4).astype(jnp.bfloat16)
    kernel = normal(3, 3, 1 if depthwise else 4, 4, seed=1).astype(jnp.bfloat16)
    y = convolve(x, kernel, dilation=4, depthwise=depthwise)
    assert y.dtype == jnp.bfloat16
    exact = xla(1, 4, "symmetric", 4 if depthwise else 1)(
        x.astype(jnp.float32), kernel.astype(jnp.float32)
    )
    np.testing.assert_allclose(y.astype(jnp.float32), exact, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("cpu_form", [True, False])
@pytest.mark.parametrize("map_size", [(7, 6), (1, 3)])
def test_max_pool_equals_flax(map_size, cpu_form, monkeypatch):
    monkeypatch.setattr(cpu_forms, "use_cpu_form", lambda _: cpu_form)

    def reference(x):
        return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))

    assert_same_with_gradients(max_pool, reference, normal(2, *map_size, 3))


def test_max_pool_gives_the_gradient_to_the_first_of_equals():
    x = jnp.zeros((1, 3, 3, 1))
    gradient = jax.grad(lambda x: max_pool(x).sum())(x)[0, ..., 0]
    np.testing.assert_array_equal(gradient, [[1, 1, 0], [1, 1, 0], [0, 0, 0]])


def test_max_pool_hands_on_nan():
    x = normal(1, 4, 4, 1).at[0, 1, 1, 0].set(jnp.nan)
    assert jnp.isnan(max_pool(x)[0, ..., 0]).all()
