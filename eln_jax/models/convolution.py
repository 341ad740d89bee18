"""Convolution of channels-last maps, in the form that the backend at hand runs fastest.

XLA's CPU backend is slow at two kinds that segmentation networks live on: depthwise and dilated
convolutions. Both are written here as sums over shifted maps when the program is traced for a CPU;
every other backend, and maps whose size is not known when tracing, get XLA's own convolution.
"""

import jax
from jax import lax

Padding = tuple[tuple[int, int], tuple[int, int]] | str

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: int = 1,
    dilation: int = 1,
    padding: Padding = "SAME",
    depthwise: bool = False,
) -> jax.Array:
    """Convolves a batch of maps.

    Args:
        x: [batch, height, width, channels].
        kernel: [rows, columns, channels, features], or [rows, columns, 1, channels] if depthwise.
        stride: pixels between outputs.
        dilation: pixels between taps.
        padding: ((top, bottom), (left, right)), or "SAME" as TensorFlow pads.
        depthwise: every channel has a kernel of its own.

    Returns:
        [batch, rows, columns, features] in the type of `x`.
    """
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=_LAYOUT,
        feature_group_count=x.shape[-1] if depthwise else 1,
    )
