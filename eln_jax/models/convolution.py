"""Convolution and max-pooling of channels-last maps, in the form that suits the backend."""

import jax
import jax.numpy as jnp
from jax import lax

from eln_jax.models import cpu_forms, windows
from eln_jax.models.windows import Window

# Measured: below this share of products inside the map, leaving out the rest pays.
_SHARE_WORTH_SHIFTING = 0.6


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: int = 1,
    dilation: int = 1,
    padding: str = "symmetric",
    depthwise: bool = False,
) -> jax.Array:
    """Convolves a batch of maps.

    Args:
        x: [batch, height, width, channels].
        kernel: [size, size, channels, features], or [size, size, 1, channels] if depthwise.
        stride: pixels between outputs.
        dilation: pixels between taps.
        padding: "symmetric": dilation * (size - 1) / 2 zeros on each side, as PyTorch's networks
            have it; or "SAME", as TensorFlow pads.
        depthwise: every channel has a kernel of its own.

    Returns:
        [batch, rows, columns, features] in the type of `x`.
    """
    if not cpu_forms.use_cpu_form(x):
        margin = dilation * (kernel.shape[0] - 1) // 2
        edges = "SAME" if padding == "SAME" else ((margin, margin),) * 2
        return _plain(x, kernel, stride, dilation, edges, x.shape[-1] if depthwise else 1)
    window = _window(x, kernel.shape[0], stride, dilation, padding)
    # In float32: these forms add up in the type of their input.
    y = _on_cpu(x.astype(jnp.float32), kernel.astype(jnp.float32), window, depthwise)
    return y.astype(x.dtype)


def _plain(x, kernel, stride, dilation, edges, groups) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        edges,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _on_cpu(x, kernel, window, depthwise) -> jax.Array:
    stride, dilation = window.stride, window.dilation
    if depthwise:
        return windows.depthwise(x, kernel, window)
    if window.size == 1:
        return cpu_forms.pointwise(x[:, ::stride, ::stride], kernel[0, 0])
    centred = stride == 1 and window.size % 2 == 1
    share = cpu_forms.share_inside(window.size, dilation, window.map_size)
    if centred and share < _SHARE_WORTH_SHIFTING:
        return cpu_forms.shifted_products(x, kernel, dilation)
    return _plain(x, kernel, stride, dilation, window.padding, 1)


def _window(x, size, stride, dilation, padding) -> Window:
    extent = dilation * (size - 1) + 1
    edges = []
    for length in x.shape[1:3]:
        if padding == "SAME":
            total = max((-(-length // stride) - 1) * stride + extent - length, 0)
            edges.append((total // 2, total - total // 2))
        else:
            edges.append(((extent - 1) // 2,) * 2)
    return Window(x.shape[1:3], size, stride, dilation, (edges[0], edges[1]))


def max_pool(x: jax.Array) -> jax.Array:
    """Takes 3x3 maxima at stride 2, padded by 1 on each side, as PyTorch's ResNets do.

    Args:
        x: [batch, height, width, channels].

    Returns:
        [batch, ceil(height / 2), ceil(width / 2), channels].
    """
    if cpu_forms.use_cpu_form(x):
        return windows.max_pool(x, _window(x, 3, 2, 1, "symmetric"))
    padding = ((0, 0), (1, 1), (1, 1), (0, 0))
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), padding)
