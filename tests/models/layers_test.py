"""Batch norm against NumPy and Flax, resizing against NumPy, dropout by its statistics."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from eln_jax.models import cpu_forms, layers
from eln_jax.models.layers import BatchNorm, Conv, Dropout, resize_bilinear, resize_bilinear_centred


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def norm_variables(channels, seed=1):
    rng = np.random.default_rng(seed)
    draw = lambda: jnp.asarray(rng.uniform(0.5, 1.5, channels), jnp.float32)  # noqa: E731
    return {
        "params": {"scale": draw(), "bias": draw()},
        "batch_stats": {"mean": draw(), "var": draw()},
    }


def numpy_batch_norm(x, variables, groups, momentum, epsilon):
    """Float64, one part of the batch after the other."""
    params, stats = (
        {name: np.asarray(value, np.float64) for name, value in variables[kind].items()}
        for kind in ("params", "batch_stats")
    )
    outputs, start = [], 0
    for group in groups:
        size, recorded = group if isinstance(group, tuple) else (group, True)
        part = np.asarray(x[start : start + size], np.float64)
        start += size
        mean, var = part.mean((0, 1, 2)), part.var((0, 1, 2))
        outputs.append((part - mean) / np.sqrt(var + epsilon) * params["scale"] + params["bias"])
        if not recorded:
            continue
        unbiased = part.var((0, 1, 2), ddof=1)
        stats["mean"] = momentum * stats["mean"] + (1 - momentum) * mean
        stats["var"] = momentum * stats["var"] + (1 - momentum) * unbiased
    return np.concatenate(outputs), stats


@pytest.mark.parametrize("groups", [(6,), (1, 5), (2, 3, 1), (2, (3, False), 1)])
def test_batch_norm_equals_numpy_for_each_group(groups):
    x = normal(6, 4, 5, 3) * 2 + normal(6, 1, 1, 3, seed=2)
    variables = norm_variables(3)
    apply = partial(BatchNorm(momentum=0.8, epsilon=1e-3).apply, mutable=["batch_stats"])
    y, updates = jax.jit(partial(apply, train=True, groups=groups))(variables, x)
    expected, stats = numpy_batch_norm(x, variables, groups, 0.8, 1e-3)
    np.testing.assert_allclose(y, expected, atol=2e-6)
    for name, value in stats.items():
        np.testing.assert_allclose(updates["batch_stats"][name], value, rtol=1e-6)


def test_batch_norm_of_one_group_equals_flax():
    x, cotangent, variables = normal(4, 3, 5, 7), normal(4, 3, 5, 7, seed=3), norm_variables(7)

    def run(module, **mode):
        def apply(params, x):
            return module.apply({**variables, "params": params}, x, mutable=["batch_stats"], **mode)

        y, pull_back, updates = jax.vjp(apply, variables["params"], x, has_aux=True)
        return y, pull_back(cotangent), updates["batch_stats"]

    y, gradients, stats = jax.jit(lambda: run(BatchNorm(), train=True))()
    flax_norm = nn.BatchNorm(use_running_average=False, momentum=0.9, epsilon=1e-5)
    flax_y, flax_gradients, flax_stats = jax.jit(lambda: run(flax_norm))()
    np.testing.assert_allclose(y, flax_y, atol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), gradients, flax_gradients
    )
    np.testing.assert_allclose(stats["mean"], flax_stats["mean"], rtol=1e-5)
    # Flax records the biased variance of the 60 values, PyTorch and we the unbiased one.
    old = 0.9 * variables["batch_stats"]["var"]
    np.testing.assert_allclose(stats["var"], (flax_stats["var"] - old) * 60 / 59 + old, rtol=1e-5)


def test_batch_norm_in_evaluation_uses_running_statistics():
    x, v = normal(2, 3, 3, 4), norm_variables(4)
    stats, params = v["batch_stats"], v["params"]
    expected = (x - stats["mean"][None, None, None]) / np.sqrt(stats["var"] + 1e-5)[
        None, None, None
    ] * params["scale"][None, None, None] + params["bias"][None, None, None]
    np.testing.assert_allclose(BatchNorm().apply(v, x), expected, atol=1e-5)


def test_batch_norm_is_accurate_far_from_zero():
    x = normal(4, 8, 8, 2) + 1000.0
    y, _ = BatchNorm().apply(norm_variables(2), x, train=True, mutable=["batch_stats"])
    expected, _ = numpy_batch_norm(x, norm_variables(2), (4,), 0.9, 1e-5)
    np.testing.assert_allclose(y, expected, atol=5e-4)


@pytest.mark.parametrize("value", [0.0, 3.3e4])
def test_batch_norm_of_a_constant_is_its_bias_with_finite_gradients(value):
    x, variables = jnp.full((3, 4, 4, 2), value), norm_variables(2)

    def apply(params, x):
        y, _ = BatchNorm().apply(
            {**variables, "params": params}, x, train=True, groups=(1, 2), mutable=["batch_stats"]
        )
        return (y**2).sum(), y

    gradients, y = jax.jit(jax.grad(apply, (0, 1), has_aux=True))(variables["params"], x)
    np.testing.assert_allclose(
        y, np.broadcast_to(variables["params"]["bias"], y.shape), atol=value * 1e-4 + 1e-6
    )
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(gradients))


@pytest.mark.parametrize("groups", [(2, 3), (4, 0)])
def test_batch_norm_refuses_groups_that_do_not_fit(groups):
    with pytest.raises(ValueError, match="do not add up to a batch of 4"):
        BatchNorm().init(jax.random.key(0), normal(4, 2, 2, 3), train=True, groups=groups)


def test_batch_norm_starts_from_untouched_statistics():
    variables = BatchNorm().init(jax.random.key(0), normal(4, 2, 2, 3), train=True)
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], np.zeros(3))
    np.testing.assert_array_equal(variables["batch_stats"]["var"], np.ones(3))


def test_sharded_batch_norm_equals_unsharded():
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("batch"))
    x, variables = normal(8, 3, 3, 5), norm_variables(5)

    @jax.jit
    def apply(x):
        return BatchNorm().apply(variables, x, train=True, groups=(3, 5), mutable=["batch_stats"])

    sharded = apply(jax.device_put(x, sharding))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), sharded, apply(x))


def numpy_resize(x, size):
    """Separable np.interp with the corners aligned."""
    for axis, length in ((1, size[0]), (2, size[1])):
        source = x.shape[axis]
        places = np.linspace(0, source - 1, length) if length > 1 else np.zeros(1)
        x = np.apply_along_axis(lambda v, p=places, n=source: np.interp(p, range(n), v), axis, x)
    return x


SIZES = [
    ((4, 5), (13, 9)),
    ((9, 12), (4, 5)),
    ((1, 1), (3, 4)),
    ((3, 4), (1, 1)),
    ((1, 6), (5, 1)),
    ((5, 3), (5, 8)),
    ((33, 17), (129, 65)),
]


@pytest.mark.parametrize("cpu_form", [True, False])
@pytest.mark.parametrize(("source", "target"), SIZES)
def test_resize_equals_numpy(source, target, cpu_form, monkeypatch):
    monkeypatch.setattr(cpu_forms, "use_cpu_form", lambda _: cpu_form)
    x = normal(2, *source, 3)
    cotangent = normal(2, *target, 3, seed=4)

    @jax.jit
    def resize_and_gradient(x):
        y, pull_back = jax.vjp(lambda x: resize_bilinear(x, target), x)
        return y, pull_back(cotangent)[0]

    y, gradient = resize_and_gradient(x)
    np.testing.assert_allclose(y, numpy_resize(np.asarray(x), target), atol=1e-5)
    # The gradient is the transposed map: <resize(x), g> = <x, gradient(g)>.
    assert jnp.vdot(y, cotangent) == pytest.approx(float(jnp.vdot(x, gradient)), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(("source", "target"), [((5, 7), (20, 28)), ((6, 3), (7, 11))])
def test_resize_with_borders_aligned_equals_jax(source, target):
    x = np.random.default_rng(0).normal(size=(2, *source, 3)).astype(np.float32)
    expected = jax.image.resize(x, (2, *target, 3), "bilinear")
    np.testing.assert_allclose(resize_bilinear_centred(x, target), expected, atol=1e-5)


def test_resize_to_the_same_size_is_the_identity():
    x = normal(1, 6, 7, 2)
    np.testing.assert_array_equal(resize_bilinear(x, (6, 7)), x)


def test_resize_keeps_corners_exactly_and_the_type():
    x = normal(1, 4, 6, 2)
    y = resize_bilinear(x, (61, 97))
    np.testing.assert_array_equal(y[:, ::60, ::96], x[:, ::3, ::5])
    assert resize_bilinear(x.astype(jnp.bfloat16), (9, 9)).dtype == jnp.bfloat16


@pytest.mark.parametrize("channels", [64, 3])
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_drops_the_rate_and_keeps_the_mean(rate, channels):
    x = jnp.ones((8, 32, 128 * 64 // channels, channels))
    y = Dropout(rate).apply({}, x, active=True, rngs={"dropout": jax.random.key(0)})
    assert (y == 0).mean() == pytest.approx(rate, abs=0.004)
    assert y.mean() == pytest.approx(1, abs=0.01)
    assert len(np.unique(y)) == 2


def test_dropout_of_values_is_independent():
    x = jnp.ones((256, 16, 16, 4))
    y = Dropout(0.5).apply({}, x, active=True, rngs={"dropout": jax.random.key(1)})
    dropped = np.asarray(y == 0, np.float64).reshape(256, -1) - 0.5
    correlation = dropped.T @ dropped / 256 / 0.25
    np.fill_diagonal(correlation, 0)
    assert abs(correlation).max() < 0.4  # 6 standard deviations of 1 / sqrt(256)


def test_dropout_switched_off_or_of_rate_zero_is_the_identity():
    x = normal(1, 2, 2, 3)
    np.testing.assert_array_equal(Dropout(0.5).apply({}, x, active=False), x)
    np.testing.assert_array_equal(Dropout(0.0).apply({}, x, active=True), x)


def deviation(init, **attributes):
    module = Conv(64, 3, kernel_init=init, **attributes)
    variables = module.init(jax.random.key(0), jnp.zeros((1, 3, 3, 32)))
    return variables["params"]


def test_initialisers_have_the_deviations_of_pytorch():
    assert deviation(layers.fan_in_normal)["kernel"].std() == pytest.approx(
        (2 / (9 * 32)) ** 0.5, rel=0.02
    )
    assert deviation(layers.fan_out_normal)["kernel"].std() == pytest.approx(
        (2 / (9 * 64)) ** 0.5, rel=0.02
    )
    params = deviation(layers.fan_in_uniform, use_bias=True)
    bound = (9 * 32) ** -0.5
    for value in params.values():
        assert abs(value).max() <= bound
        assert value.std() == pytest.approx(bound / 3**0.5, rel=0.2)


def test_depthwise_initialiser_counts_one_output_channel():
    params = deviation(layers.fan_in_normal, depthwise=True)
    assert params["kernel"].shape == (3, 3, 1, 32)
    assert params["kernel"].std() == pytest.approx((2 / 9) ** 0.5, rel=0.15)
