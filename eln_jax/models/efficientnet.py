"""EfficientNet-Lite encoders for dense prediction (Tan and Le 2019; Lite variants 2020).

Against EfficientNet the Lite models have no squeeze-and-excitation, ReLU6 for swish, and a stem and
first and last stage of fixed size. Padding and batch norm follow TensorFlow, where the published
weights come from. Parameters are named by stage and block: `stage2_0/depthwise_conv`.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from eln_jax.models.layers import (
    BatchNorm,
    Conv,
    Features,
    Groups,
    call,
    fan_in_normal,
    fan_out_normal,
)

STEM_FEATURES = 32
LOW_STAGE = 2  # the stage whose output has stride 4


class Stage(NamedTuple):
    """Blocks of one size: `expansion` is that of the channels inside a block."""

    kernel_size: int
    stride: int
    expansion: int
    features: int
    blocks: int


_STAGES = (  # of EfficientNet-Lite0
    Stage(3, 1, 1, 16, 1),
    Stage(3, 2, 6, 24, 2),
    Stage(5, 2, 6, 40, 2),
    Stage(3, 2, 6, 80, 3),
    Stage(5, 1, 6, 112, 3),
    Stage(5, 2, 6, 192, 4),
    Stage(3, 1, 6, 320, 1),
)


def lite_stages(width: float, depth: float) -> tuple[Stage, ...]:
    """Scales Lite0's stages: channels by `width` to multiples of 8, blocks by `depth`."""
    last = len(_STAGES) - 1
    return tuple(
        stage._replace(
            features=_round_features(stage.features * width),
            blocks=stage.blocks if i in (0, last) else math.ceil(stage.blocks * depth),
        )
        for i, stage in enumerate(_STAGES)
    )


def _round_features(features: float) -> int:
    rounded = max(8, int(features + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * features else rounded


class _Block(nn.Module):
    """Mobile inverted bottleneck: 1x1 expansion, depthwise convolution, 1x1 projection.

    Attributes:
        features: output channels.
        kernel_size: of the depthwise convolution.
        stride: of the depthwise convolution.
        dilation: of the depthwise convolution.
        expansion: of the channels inside; 1: no expansion.
        dtype: of the arithmetic.
        param_dtype: of the weights.
    """

    features: int
    kernel_size: int
    stride: int
    dilation: int
    expansion: int
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False, groups: Groups = None) -> jax.Array:
        """Maps [batch, height, width, channels] to [batch, rows, columns, features]."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = partial(Conv, kernel_init=fan_out_normal, **types)
        norm = partial(_norm, train=train, groups=groups, **types)
        inner = x.shape[-1] * self.expansion
        y = x
        if self.expansion != 1:
            y = nn.relu6(norm(conv(inner, name="expand_conv")(y), name="bn0"))
        # A channel's kernel has one output channel, so this fan_in is TensorFlow's fan_out.
        depthwise = Conv(
            inner,
            self.kernel_size,
            self.stride,
            self.dilation,
            padding="SAME",
            depthwise=True,
            kernel_init=fan_in_normal,
            name="depthwise_conv",
            **types,
        )
        y = nn.relu6(norm(depthwise(y), name="bn1"))
        y = norm(conv(self.features, name="project_conv")(y), name="bn2")
        return x + y if self.stride == 1 and x.shape[-1] == self.features else y


def _norm(x, *, name, train, groups, dtype, param_dtype):
    norm = BatchNorm(momentum=0.99, epsilon=1e-3, dtype=dtype, param_dtype=param_dtype, name=name)
    return norm(x, train=train, groups=groups)


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite without its 1280-channel head and classifier.

    Attributes:
        stages: from `lite_stages`.
        output_stride: 16 or 8.
        dilated: strides given up become dilation.
        rematerialize: keep little for the backward pass and compute the rest anew.
        dtype: of the arithmetic.
        param_dtype: of the weights.
    """

    stages: tuple[Stage, ...]
    output_stride: int = 16
    dilated: bool = True
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
            The features of the last stage and of the one at stride 4.
        """
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        stem = Conv(
            STEM_FEATURES,
            3,
            2,
            padding="SAME",
            kernel_init=fan_out_normal,
            name="stem_conv",
            **types,
        )
        x = nn.relu6(_norm(stem(image), name="stem_bn", train=train, groups=groups, **types))
        outputs = []
        again = self.rematerialize and train
        stride, dilation = 2, 1
        for i, stage in enumerate(self.stages, start=1):
            for j in range(stage.blocks):
                # The block that gives up its stride still reads neighbours: only the maps after
                # it are finer than the weights expect.
                step, taps = 1, dilation
                if j == 0 and stage.stride > 1:
                    if stride < self.output_stride:
                        step, stride = stage.stride, stride * stage.stride
                    elif self.dilated:
                        dilation *= stage.stride
                block = _Block(
                    stage.features,
                    stage.kernel_size,
                    step,
                    taps,
                    stage.expansion,
                    name=f"stage{i}_{j}",
                    **types,
                )
                x = call(block, x, rematerialize=again, train=train, groups=groups)
            outputs.append(x)
        return Features(high=outputs[-1], low=outputs[LOW_STAGE - 1])
