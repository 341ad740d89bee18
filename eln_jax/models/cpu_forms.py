"""Operations in the form that XLA's CPU backend runs fast; `use_cpu_form` chooses.

XLA on a CPU takes 5 to 20 times longer than need be for depthwise convolution and the gradient of
max-pooling (see `windows`), 2 to 4 times for 1x1 convolution and resizing, and it multiplies by the
zeros around the map where a dilated kernel mostly misses it.
GPUs and TPUs run XLA's own operations, and so do programs exported with symbolic sizes.
"""

from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from eln_jax import target


def use_cpu_form(x: jax.Array) -> bool:
    """Whether the program is traced for a CPU and the map's shape is known."""
    return target.platform() == "cpu" and all(isinstance(n, int) for n in x.shape)


def pointwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """1x1 convolution as a product: [batch, height, width, channels] x [channels, features]."""
    y = x.reshape(-1, x.shape[-1]) @ kernel
    return y.reshape(*x.shape[:-1], kernel.shape[-1])


def share_inside(size: int, dilation: int, map_size: tuple[int, int]) -> float:
    """Returns the share of a centred kernel's taps, over all places, that fall inside the map."""
    reach = size // 2
    distance = dilation * np.abs(np.arange(-reach, reach + 1))
    rows, columns = (np.maximum(1 - distance / length, 0).mean() for length in map_size)
    return float(rows * columns)


def shifted_products(x: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    """Centred dilated convolution at stride 1 that leaves out what lies outside the map.

    Args:
        x: [batch, height, width, channels].
        kernel: [size, size, channels, features], size odd.
        dilation: pixels between taps.

    Returns:
        [batch, height, width, features].
    """
    size = kernel.shape[0]
    total = jnp.zeros((*x.shape[:3], kernel.shape[3]), x.dtype)
    for i in range(size):
        for j in range(size):
            cuts, edges = [], []
            for tap, length in ((i, x.shape[1]), (j, x.shape[2])):
                shift = (tap - size // 2) * dilation
                cuts.append(slice(max(shift, 0), max(length + min(shift, 0), 0)))
                edges.append((max(-shift, 0), max(shift, 0), 0))
            part = x[:, cuts[0], cuts[1]]
            if part.size:
                term = pointwise(part, kernel[i, j])
                zero = jnp.zeros((), x.dtype)
                total = total + lax.pad(term, zero, ((0, 0, 0), *edges, (0, 0, 0)))
    return total


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def interpolate(x: jax.Array, source: tuple[int, ...], target: tuple[int, ...]) -> jax.Array:
    """Resizes maps bilinearly with aligned corners, by picking neighbours.

    Args:
        x: [batch, *source, channels].
        source: height and width of the maps.
        target: height and width of the result.

    Returns:
        [batch, *target, channels].
    """
    for axis in (1, 2):
        x = _apply_band(x, interpolation_matrix(source[axis - 1], target[axis - 1]), axis)
    return x


def _interpolate_forward(x, source, target):
    return interpolate(x, source, target), None


def _interpolate_backward(source, target, _, dy):
    for axis in (2, 1):
        dy = _apply_band(dy, interpolation_matrix(source[axis - 1], target[axis - 1]).T, axis)
    return (dy,)


interpolate.defvjp(_interpolate_forward, _interpolate_backward)


@lru_cache(maxsize=64)
def interpolation_matrix(source: int, target: int) -> np.ndarray:
    """Returns the weights [target, source]; samples are placed in whole numbers, so exactly."""
    steps = max(target - 1, 1)
    low, rest = np.divmod(np.arange(target) * (source - 1), steps)
    matrix = np.zeros((target, source + 1), np.float32)
    matrix[np.arange(target), low] = 1 - rest / steps
    matrix[np.arange(target), low + 1] = rest / steps
    return matrix[:, :source]


def _apply_band(x, matrix, axis):
    """Multiplies by a matrix whose rows are zero but for a few neighbouring entries."""
    used = matrix != 0
    first, rows = used.argmax(1), np.arange(len(matrix))
    shape = [1, 1, 1, 1]
    shape[axis] = len(matrix)
    total = jnp.zeros((), x.dtype)
    for offset in range(used.sum(1).max()):
        index = np.minimum(first + offset, matrix.shape[1] - 1)
        weight = np.where(first + offset == index, matrix[rows, index], 0).reshape(shape)
        total = total + jnp.take(x, index, axis, mode="clip") * weight.astype(x.dtype)
    return total
