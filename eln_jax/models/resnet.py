"""ResNet encoders for dense prediction (He et al. 2016; DeepLabv3's multi-grid, Chen et al. 2017).

Parameter names mirror torchvision's: `layer1.0.conv1` is `layer1_0/conv1` here.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from eln_jax.models.convolution import max_pool
from eln_jax.models.layers import BatchNorm, Conv, Features, Groups, call, fan_out_normal

MULTI_GRID = (1, 2, 4)  # dilation of the last stage's blocks, relative to the stage's
_STAGES = {  # output stride -> stride and dilation of the four stages
    16: ((1, 2, 2, 1), (1, 1, 1, 2)),
    8: ((1, 2, 1, 1), (1, 1, 2, 4)),
}


class _Block(nn.Module):
    """A residual block: two 3x3 convolutions, or 1x1, 3x3, 1x1 with four times the channels.

    Attributes:
        features: channels of the 3x3 convolutions.
        bottleneck: the second form.
        stride: of the first 3x3 convolution.
        dilation: of the 3x3 convolutions.
        dtype: of the arithmetic.
        param_dtype: of the weights.
    """

    features: int
    bottleneck: bool
    stride: int = 1
    dilation: int = 1
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False, groups: Groups = None) -> jax.Array:
        """Maps [batch, height, width, channels] to [batch, rows, columns, channels]."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = partial(Conv, kernel_init=fan_out_normal, **types)

        def norm(y, name):
            return BatchNorm(name=name, **types)(y, train=train, groups=groups)

        first = {"stride": self.stride, "dilation": self.dilation}
        if self.bottleneck:
            width = 4 * self.features
            y = nn.relu(norm(conv(self.features, name="conv1")(x), "bn1"))
            y = nn.relu(norm(conv(self.features, 3, **first, name="conv2")(y), "bn2"))
            y = norm(conv(width, name="conv3")(y), "bn3")
        else:
            width = self.features
            y = nn.relu(norm(conv(width, 3, **first, name="conv1")(x), "bn1"))
            y = norm(conv(width, 3, dilation=self.dilation, name="conv2")(y), "bn2")
        if self.stride != 1 or x.shape[-1] != width:
            x = norm(conv(width, stride=self.stride, name="downsample_conv")(x), "downsample_bn")
        return nn.relu(x + y)


class ResNet(nn.Module):
    """ResNet without its classifier.

    Attributes:
        stage_sizes: blocks a stage; the last stage's are the multi-grid.
        bottleneck: blocks are bottlenecks (ResNet-50 and deeper) or basic ones.
        output_stride: 16 or 8.
        width: channels of the stem and of the first stage's 3x3 convolutions.
        dilated: strides given up become dilation; False in the official ELN's basic blocks.
        multi_grid: the last stage's blocks differ in dilation; else a stage's first block keeps
            that of the stage before, as torchvision has it.
        stem_size: side of the first kernel: 7.
        rematerialize: keep little for the backward pass and compute the rest anew.
        dtype: of the arithmetic.
        param_dtype: of the weights.
    """

    stage_sizes: tuple[int, ...]
    bottleneck: bool
    output_stride: int = 16
    width: int = 64
    dilated: bool = True
    multi_grid: bool = True
    stem_size: int = 7
    rematerialize: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False, groups: Groups = None) -> Features:
        """Encodes normalised images.

        Args:
            image: [batch, height, width, channels].
            train: batch norm uses, and records, batch statistics.
            groups: sizes of the parts of the batch with statistics of their own.

        Returns:
            The last stage's and the first stage's features.
        """
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        stem = Conv(
            self.width, self.stem_size, 2, kernel_init=fan_out_normal, name="conv1", **types
        )
        x = BatchNorm(name="bn1", **types)(stem(image), train=train, groups=groups)
        x = max_pool(nn.relu(x))
        strides, dilations = _STAGES[self.output_stride]
        outputs = []
        again = self.rematerialize and train
        for i, blocks in enumerate(self.stage_sizes):
            for j in range(blocks):
                dilation = dilations[i] * (MULTI_GRID[j] if i == 3 and self.multi_grid else 1)
                if j == 0 and not self.multi_grid:
                    dilation = dilations[max(i - 1, 0)]
                block = _Block(
                    self.width * 2**i,
                    self.bottleneck,
                    strides[i] if j == 0 else 1,
                    dilation if self.dilated else 1,
                    name=f"layer{i + 1}_{j}",
                    **types,
                )
                x = call(block, x, rematerialize=again, train=train, groups=groups)
            outputs.append(x)
        return Features(high=outputs[-1], low=outputs[0])
