"""Convolution of maps upsampled bilinearly and joined with others, without making those maps.

Upsampling works on every channel alike, and a convolution is a sum over its taps of products with
the channels. So both can change places: the small map is multiplied by each tap's weights, and what
comes out is upsampled, shifted by the tap and summed. The values are the same but for rounding; the
products, almost all of the work, are fewer by the ratio of the areas, 16 from stride 16 to 4.
"""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from eln_jax.models.convolution import convolve
from eln_jax.models.cpu_forms import interpolation_matrix
from eln_jax.models.layers import Initializer, fan_in_normal, resize_bilinear


class UpsampledConv(nn.Module):
    """Convolution of a small map, upsampled with aligned corners, beside a large one.

    As `Conv` on the two maps joined along their channels, the upsampled one first.

    Attributes:
        features: output channels.
        kernel_size: side of the kernel, odd.
        kernel_init: initialiser of the kernel.
        dtype: of the arithmetic and the output.
        param_dtype: of the weights.
    """

    features: int
    kernel_size: int = 3
    kernel_init: Initializer = fan_in_normal
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, small: jax.Array, large: jax.Array) -> jax.Array:
        """Convolves [batch, rows, columns, m] and [batch, height, width, n].

        Returns:
            [batch, height, width, features].
        """
        channels = small.shape[-1] + large.shape[-1]
        shape = (self.kernel_size, self.kernel_size, channels, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        small, large, kernel = (x.astype(self.dtype) for x in (small, large, kernel))
        if not all(isinstance(n, int) for n in (*small.shape, *large.shape)):  # to be exported
            joined = jnp.concatenate([resize_bilinear(small, large.shape[1:3]), large], -1)
            return convolve(joined, kernel)
        of_small, of_large = jnp.split(kernel, [small.shape[-1]], axis=2)
        return convolve_upsampled(small, of_small, large.shape[1:3]) + convolve(large, of_large)


def convolve_upsampled(x: jax.Array, kernel: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """Upsamples bilinearly with aligned corners and convolves, padded by zeros to the same size.

    Args:
        x: [batch, rows, columns, channels].
        kernel: [k, k, channels, features], k odd.
        size: height and width of the upsampled map.

    Returns:
        [batch, *size, features] in the type of `x`.
    """
    batch, rows, columns, channels = x.shape
    k, features = kernel.shape[0], kernel.shape[-1]
    # One product for each row of taps, whose results lie as the sums below want them:
    # [batch, tap row, row, column, tap column, feature].
    taps = [kernel[i].transpose(1, 0, 2).reshape(channels, k * features) for i in range(k)]
    products = jnp.stack([convolve(x, tap[None, None]) for tap in taps], 1)
    exactly = lax.Precision.HIGHEST  # as in resizing
    y = products.reshape(batch, k * rows, columns * k * features)
    y = jnp.einsum("Yy,byn->bYn", _rows(rows, size[0], k).astype(x.dtype), y, precision=exactly)
    y = y.reshape(batch * size[0], columns * k, features)
    y = jnp.einsum(
        "Xx,nxf->nXf", _columns(columns, size[1], k).astype(x.dtype), y, precision=exactly
    )
    return y.reshape(batch, *size, features)


def _rows(source: int, target: int, taps: int) -> np.ndarray:
    """Weights [target, taps * source]: upsampled, then shifted by each tap, zeros from outside."""
    return _shifted(source, target, taps).transpose(1, 0, 2).reshape(target, taps * source)


def _columns(source: int, target: int, taps: int) -> np.ndarray:
    """As `_rows`, with the taps varying fastest: [target, source * taps]."""
    return _shifted(source, target, taps).transpose(1, 2, 0).reshape(target, source * taps)


@lru_cache(maxsize=64)
def _shifted(source: int, target: int, taps: int) -> np.ndarray:
    """Weights [taps, target, source] of what each tap sees of the upsampled line."""
    matrix, reach = interpolation_matrix(source, target), taps // 2
    padded = np.pad(matrix, ((reach, reach), (0, 0)))
    return np.stack([padded[tap : tap + target] for tap in range(taps)])
