"""The layers that every network here is made of: convolution, batch norm, dropout, resizing."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from eln_jax.models import cpu_forms
from eln_jax.models.convolution import convolve

# Sizes of the parts of a batch that have batch statistics of their own; a part given as
# (size, False) leaves the running statistics alone.
Groups = tuple[int | tuple[int, bool], ...] | None
Initializer = Callable[..., jax.Array]

fan_in_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
fan_out_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# PyTorch's default for convolutions: uniform within 1 / sqrt(fan_in), weights and biases alike.
fan_in_uniform = nn.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform")


class Features(NamedTuple):
    """What an encoder returns.

    Attributes:
        high: [batch, height/16, width/16, channels] (or /8), from the last stage.
        low: [batch, height/4, width/4, channels], from the stage at stride 4.
    """

    high: jax.Array
    low: jax.Array


def call(module: nn.Module, *inputs: Any, rematerialize: bool = False, **mode: Any) -> Any:
    """Calls a module.

    Args:
        module: to be called.
        inputs: arrays.
        rematerialize: keep nothing but the inputs for the backward pass, which computes the rest
            anew: less memory for the time of another forward pass.
        mode: arguments that are no arrays.

    Returns:
        What the module returns.
    """

    def run(module, *inputs):
        return module(*inputs, **mode)

    return (nn.remat(run) if rematerialize else run)(module, *inputs)


class Conv(nn.Module):
    """Convolution whose padding follows PyTorch (symmetric) or TensorFlow ("SAME").

    Attributes:
        features: output channels; ignored by a depthwise convolution, which keeps its input's.
        kernel_size: side of the kernel.
        stride: pixels between outputs.
        dilation: pixels between taps.
        padding: "symmetric": dilation * (kernel_size - 1) / 2 on each side; or "SAME".
        depthwise: every channel has a kernel of its own.
        use_bias: adds a bias, drawn as PyTorch draws it.
        kernel_init: initialiser of the kernel.
        dtype: of the arithmetic and the output.
        param_dtype: of the weights.
    """

    features: int
    kernel_size: int = 1
    stride: int = 1
    dilation: int = 1
    padding: str = "symmetric"
    depthwise: bool = False
    use_bias: bool = False
    kernel_init: Initializer = fan_in_normal
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves [batch, height, width, channels] into [batch, rows, columns, features]."""
        k, channels = self.kernel_size, x.shape[-1]
        shape = (k, k, 1, channels) if self.depthwise else (k, k, channels, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        y = convolve(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            stride=self.stride,
            dilation=self.dilation,
            padding=self.padding,
            depthwise=self.depthwise,
        )
        if not self.use_bias:
            return y
        bound = float(np.prod(shape[:3])) ** -0.5
        bias = self.param("bias", _uniform(bound), shape[-1:], self.param_dtype)
        return y + bias.astype(self.dtype)[None, None, None]


def _uniform(bound: float) -> Initializer:
    def init(key, shape, dtype):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Dropout(nn.Module):
    """Sets values to zero at random and scales the others to keep the mean.

    A byte of randomness a value makes it several times faster than Flax's on a CPU; the rate is
    thereby rounded to a multiple of 1/256.

    Attributes:
        rate: share of the values set to zero, in [0, 1).
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, *, active: bool) -> jax.Array:
        """Drops values of [batch, height, width, channels], by the random numbers "dropout"."""
        threshold = round(self.rate * 256)
        if not active or threshold == 0:
            return x
        words = -(-x.shape[-1] // 4)
        bits = jax.random.bits(self.make_rng("dropout"), (*x.shape[:-1], words), jnp.uint32)
        random = lax.bitcast_convert_type(bits, jnp.uint8).reshape(*x.shape[:-1], 4 * words)
        keep = random[..., : x.shape[-1]] >= threshold
        return jnp.where(keep, x / (1 - threshold / 256), jnp.zeros((), x.dtype))


class BatchNorm(nn.Module):
    """Batch normalisation in which parts of the batch can keep to themselves.

    With `groups=(n_labeled, n_weak, n_strong)` one pass over the whole batch computes what
    separate passes over its parts would: each part is normalised by its own statistics, and the
    running statistics move once a part, in order; `(n_strong, False)` instead of `n_strong` keeps
    them from moving by that part. The statistics are sums over each sample,
    combined by a small matrix: the batch is never cut, so it may be sharded over devices, and the
    statistics then are those of the whole batch.

    Attributes:
        momentum: share of the running statistics that an update keeps (1 - PyTorch's momentum).
        epsilon: added to the variance.
        dtype: of the output; statistics are float32 always.
        param_dtype: of scale and bias.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False, groups: Groups = None) -> jax.Array:
        """Normalises [batch, height, width, channels] over all but the channels.

        Args:
            x: the maps.
            train: use, and record, batch statistics; else use the running statistics.
            groups: sizes of the parts of the batch, in order, or pairs of a size and whether the
                part moves the running statistics; None: one part.

        Returns:
            As `x`, in `dtype`.

        Raises:
            ValueError: if `groups` do not add up to the batch, or one is empty.
        """
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, shape, self.param_dtype)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        if not train:
            return self._normalize(x, mean.value[None], var.value[None], scale, bias)
        parts = [g if isinstance(g, tuple) else (g, True) for g in groups or (x.shape[0],)]
        sizes = tuple(size for size, _ in parts)
        if sum(sizes) != x.shape[0] or min(sizes) < 1:
            raise ValueError(f"groups {groups} do not add up to a batch of {x.shape[0]}")
        means, variances, counts = _group_statistics(x.astype(jnp.float32), sizes)
        if not self.is_initializing():
            for i, (count, (_, recorded)) in enumerate(zip(counts, parts, strict=True)):
                if not recorded:
                    continue
                unbiased = variances[i] * (count / max(count - 1, 1))
                mean.value = self.momentum * mean.value + (1 - self.momentum) * means[i]
                var.value = self.momentum * var.value + (1 - self.momentum) * unbiased
        sample_group = np.repeat(np.arange(len(sizes)), sizes)
        if len(sizes) > 1:
            means, variances = means[sample_group], variances[sample_group]
        return self._normalize(x, means, variances, scale, bias)

    def _normalize(self, x, mean, var, scale, bias):
        factor = scale.astype(jnp.float32)[None] * lax.rsqrt(var + self.epsilon)
        offset = bias.astype(jnp.float32)[None] - mean * factor
        y = x.astype(jnp.float32) * factor[:, None, None] + offset[:, None, None]
        return y.astype(self.dtype)


def _group_statistics(
    x: jax.Array, groups: tuple[int, ...]
) -> tuple[jax.Array, jax.Array, list[int]]:
    """Returns mean and (biased) variance [groups, channels], and the number of values of each.

    Every sample's mean and sum of squared differences from it are combined as in Chan et al.
    (1979): nothing is cancelled, so the variance is accurate and never negative.
    """
    pixels = x.shape[1] * x.shape[2]
    counts = [size * pixels for size in groups]
    member = np.repeat(np.eye(len(groups), dtype=np.float32), groups, axis=1)
    share = member / np.array(groups, np.float32)[:, None]

    def average(values):  # [n, channels] -> [groups, channels]
        return jnp.einsum("gn,nc->gc", share, values, precision=lax.Precision.HIGHEST)

    sample_mean = x.mean((1, 2))
    # The derivative of the squares by the mean is zero: not asking for it saves a pass.
    centered = x - lax.stop_gradient(sample_mean)[:, None, None]
    mean = average(sample_mean)
    spread = sample_mean - mean[np.repeat(np.arange(len(groups)), groups)]
    variance = average(lax.square(centered).mean((1, 2)) + lax.square(spread))
    return mean, variance, counts


def resize_bilinear(x: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """Resizes maps bilinearly with aligned corners.

    As two small matrix products, or on a CPU by picking neighbours.

    Args:
        x: [batch, height, width, channels].
        size: height and width of the result.

    Returns:
        [batch, *size, channels] in the type of `x`.
    """
    if x.shape[1:3] == tuple(size):
        return x
    if cpu_forms.use_cpu_form(x) and all(isinstance(length, int) for length in size):
        return cpu_forms.interpolate(x, x.shape[1:3], tuple(size))
    rows, columns = (
        _interpolation_matrix(source, target).astype(x.dtype)
        for source, target in zip(x.shape[1:3], size, strict=True)
    )
    # Not in reduced precision: these products stand for exact arithmetic on logits.
    x = jnp.einsum("oh,bhwc->bowc", rows, x, precision=lax.Precision.HIGHEST)
    return jnp.einsum("ow,bhwc->bhoc", columns, x, precision=lax.Precision.HIGHEST)


def resize_bilinear_centred(x: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """Resizes maps bilinearly with the borders of the maps aligned, not the outermost pixels.

    Arguments and result as of `resize_bilinear`.
    """
    rows, columns = (
        _centred_matrix(source, target).astype(x.dtype)
        for source, target in zip(x.shape[1:3], size, strict=True)
    )
    x = jnp.einsum("oh,bhwc->bowc", rows, x, precision=lax.Precision.HIGHEST)
    return jnp.einsum("ow,bhwc->bhoc", columns, x, precision=lax.Precision.HIGHEST)


def _centred_matrix(source: int, target: int) -> jax.Array:
    """[target, source] weights, also of sizes unknown yet."""
    position = (jnp.arange(target) + 0.5) * source / target - 0.5
    position = jnp.clip(position, 0, source - 1)
    return jnp.maximum(0.0, 1.0 - jnp.abs(position[:, None] - jnp.arange(source)[None]))


def _interpolation_matrix(source: int, target: int) -> jax.Array:
    """[target, source] weights, also of sizes unknown yet; whole numbers place the samples."""
    steps = jnp.maximum(target - 1, 1)
    position = jnp.arange(target) * (source - 1)
    low = position // steps
    fraction = ((position - low * steps) / steps)[:, None]
    offset = jnp.arange(source)[None] - low[:, None]
    return jnp.where(offset == 0, 1.0 - fraction, jnp.where(offset == 1, fraction, 0.0))
