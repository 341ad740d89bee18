"""ResNet encoders: torchvision's parameter counts, shapes, dilation. Golden tests check values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from eln_jax.models.encoders import ENCODERS, input_statistics
from eln_jax.models.layers import Conv


def shapes(encoder, image_shape=(1, 64, 64, 3)):
    image = jax.ShapeDtypeStruct(image_shape, jnp.float32)
    return jax.eval_shape(encoder.init, jax.random.key(0), image)


def features(encoder, size, **mode):
    """Shapes and types of the features of an image of that size."""
    image = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    variables = shapes(encoder)
    return jax.eval_shape(lambda v, x: encoder.apply(v, x, **mode), variables, image)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet18", 11_176_512),
        ("resnet34", 21_284_672),
        ("resnet50", 23_508_032),
        ("resnet101", 42_500_160),
    ],
)
def test_parameters_are_as_many_as_torchvisions(name, count):
    params = shapes(ENCODERS[name]())["params"]
    assert sum(x.size for x in jax.tree.leaves(params)) == count


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("size", [(64, 64), (65, 96), (65, 65)])
@pytest.mark.parametrize(("name", "high", "low"), [("resnet50", 2048, 256), ("resnet18", 512, 64)])
def test_features_have_their_strides(name, high, low, size, output_stride):
    result = features(ENCODERS[name](output_stride=output_stride), size)
    rows, columns = (-(-n // output_stride) for n in size)
    assert result.high.shape == (2, rows, columns, high)
    assert result.low.shape == (2, -(-size[0] // 4), -(-size[1] // 4), low)


def test_names_mirror_torchvision():
    params = shapes(ENCODERS["resnet50"]())["params"]
    assert sorted(params["layer4_0"]) == [
        *("bn1", "bn2", "bn3", "conv1", "conv2", "conv3", "downsample_bn", "downsample_conv")
    ]
    assert sorted(params["layer4_2"]) == ["bn1", "bn2", "bn3", "conv1", "conv2", "conv3"]
    assert params["layer4_2"]["conv2"]["kernel"].shape == (3, 3, 512, 512)
    basic = shapes(ENCODERS["resnet34"]())["params"]
    assert "downsample_conv" not in basic["layer1_0"]
    assert "downsample_conv" in basic["layer4_0"]


def reach(row, **attributes):
    """Rows of the input that a central row of `high` depends on."""
    encoder = ENCODERS["resnet_tiny"](width=4, **attributes)
    # Every weight positive and every activation alive: a gradient is zero only outside the reach.
    variables = jax.tree.map(lambda x: jnp.full(x.shape, 0.1), shapes(encoder))
    gradient = jax.jit(jax.grad(lambda x: encoder.apply(variables, x).high[0, row].sum()))
    rows = np.flatnonzero(abs(gradient(jnp.ones((1, 256, 8, 3)))).sum((0, 2, 3)))
    return rows[-1] - rows[0] + 1


def test_dilation_widens_the_reach():
    # Counted by hand, from the input on: a 3x3 convolution adds 2 * dilation * stride so far.
    # Max-pooling of equal values hands the gradient to one of them, so it adds nothing.
    stem_and_stage_1 = 1 + 2 * 1 + 2 * 4 + 2 * 4
    stage_2 = 2 * 4 + 2 * 8
    stage_3 = 2 * 8 + 2 * 16
    before = stem_and_stage_1 + stage_2
    assert reach(8, dilated=False) == before + stage_3 + 2 * (2 * 16)
    assert reach(8) == before + stage_3 + 2 * (2 * 2 * 16)
    assert reach(16, output_stride=8) == before + 2 * (2 * 2 * 8) + 2 * (2 * 4 * 8)


def test_blocks_of_the_last_stage_form_a_multi_grid():
    calls = {}

    def record(next_function, args, kwargs, context):
        if isinstance(context.module, Conv):
            calls["/".join(context.module.path)] = context.module.dilation
        return next_function(*args, **kwargs)

    for output_stride, dilations in ((16, (1, 2, 4, 8)), (8, (2, 4, 8, 16))):
        with nn.intercept_methods(record):
            features(ENCODERS["resnet50"](output_stride=output_stride), (32, 32))
        names = ["layer3_5/conv2", *(f"layer4_{i}/conv2" for i in range(3))]
        assert tuple(calls[name] for name in names) == dilations
        assert calls["layer4_2/conv1"] == calls["layer4_2/conv3"] == 1


@pytest.mark.parametrize("name", ["resnet34", "resnet_tiny", "efficientnet_lite0"])
def test_bfloat16_features_from_float32_weights(name):
    encoder = ENCODERS[name](dtype=jnp.bfloat16)
    assert {x.dtype for x in jax.tree.leaves(shapes(encoder))} == {jnp.dtype("float32")}
    assert {x.dtype for x in features(encoder, (32, 32))} == {jnp.dtype("bfloat16")}


def test_inputs_are_normalised_as_the_weights_expect():
    mean, std = input_statistics("resnet50")
    np.testing.assert_allclose(mean, [0.485, 0.456, 0.406])
    np.testing.assert_allclose(std, [0.229, 0.224, 0.225])
    mean, std = input_statistics("efficientnet_lite2")
    byte = np.array([0, 127, 255])
    np.testing.assert_allclose((byte / 255 - mean) / std, (byte - 127) / 128, atol=1e-6)
