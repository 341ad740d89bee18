"""The encoders there are, by name: the one place that chooses."""

from collections.abc import Callable
from functools import partial

import numpy as np
from flax import linen as nn

from eln_jax.models.efficientnet import EfficientNetLite, lite_stages
from eln_jax.models.resnet import ResNet

# Each makes a module from output_stride, dilated, dtype and param_dtype.
ENCODERS: dict[str, Callable[..., nn.Module]] = {
    "resnet_tiny": partial(
        ResNet, stage_sizes=(1, 1, 1, 1), bottleneck=False, width=16, stem_size=3
    ),
    "resnet18": partial(ResNet, stage_sizes=(2, 2, 2, 2), bottleneck=False),
    "resnet34": partial(ResNet, stage_sizes=(3, 4, 6, 3), bottleneck=False),
    "resnet50": partial(ResNet, stage_sizes=(3, 4, 6, 3), bottleneck=True),
    "resnet101": partial(ResNet, stage_sizes=(3, 4, 23, 3), bottleneck=True),
    "efficientnet_lite0": partial(EfficientNetLite, stages=lite_stages(1.0, 1.0)),
    "efficientnet_lite1": partial(EfficientNetLite, stages=lite_stages(1.0, 1.1)),
    "efficientnet_lite2": partial(EfficientNetLite, stages=lite_stages(1.1, 1.2)),
}


def input_statistics(encoder: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and deviation [3] of RGB in [0, 1] by which an encoder's input is normalised."""
    if encoder.startswith("efficientnet_lite"):  # (RGB - 127) / 128 on bytes
        return np.full(3, 127 / 255, np.float32), np.full(3, 128 / 255, np.float32)
    mean = np.array([0.485, 0.456, 0.406], np.float32)
    return mean, np.array([0.229, 0.224, 0.225], np.float32)
