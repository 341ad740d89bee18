"""Networks of every kind as ONNX models, beside what jax itself says of the same images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from eln_jax.errors import UserError
from eln_jax.evaluation.panels import make_palette
from eln_jax.models.segmenter import init_networks
from eln_jax.training.exporting import check_program, export_onnx, load_onnx
from eln_jax.training.networks import make_networks
from eln_jax.training.trained_model import TrainedModel
from tests.tiny import tiny_config

pytest.importorskip("onnxruntime", reason="needs the extra onnx")
pytest.importorskip("onnx", reason="needs the extra onnx")


# Weights of any kind will do for their form.
FROZEN = {"model__eln_frozen_encoder": "true", "model__eln_pretrained": "a file"}


def untrained(has_eln=True, **changes):
    """A predictor with random weights, and statistics that are not those of a fresh network."""
    config = tiny_config(**changes)
    networks = make_networks(config)
    shapes = jax.eval_shape(
        lambda key: init_networks(networks, key, (33, 33), 0), jax.random.key(0)
    )
    rng = np.random.default_rng(0)

    def draw(x):
        if len(x.shape) != 4:
            return rng.uniform(0.5, 1.5, x.shape).astype(np.float32)
        deviation = (2 / np.prod(x.shape[:3])) ** 0.5
        return (deviation * rng.standard_normal(x.shape)).astype(np.float32)

    drawn = jax.tree.map(draw, shapes)
    parts = {"network": "student", "eln": "eln"} if has_eln else {"network": "student"}
    variables = {
        name: {kind: drawn[kind][part] for kind in ("params", "batch_stats")}
        for name, part in parts.items()
    }
    names = tuple("abcdef")
    return TrainedModel(config, "student", 0, variables, names, make_palette(6)).predictor(1)


@pytest.mark.parametrize(
    ("sizes", "changes"),
    [
        (((1, 40, 32), (3, 45, 70)), {}),
        (((2, 45, 70),), {"crop_size": "(33, 33)", "model__output_stride": "8"}),
        (((1, 45, 70),), {"model__encoder": "efficientnet_lite0", "has_eln": False}),
        (((1, 40, 70),), {"model__architecture": "torchvision"}),
        (((2, 45, 70),), {"model__eln_second_opinion": "true"}),
        (((1, 45, 70),), FROZEN),
    ],
    ids=[
        "resnet",
        "stride-8-sizes-8n+1",
        "efficientnet-no-eln",
        "torchvision",
        "second-opinion",
        "frozen-encoder",
    ],
)
def test_an_onnx_model_gives_what_jax_gives_at_any_size(sizes, changes):
    predictor = untrained(**changes)
    call = load_onnx(export_onnx(predictor, "abcdef"))
    for size in sizes:
        images = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
        found = call(images)
        assert found["classes"].dtype == np.uint8
        assert ("p_wrong" in found) == changes.get("has_eln", True)
        for i, image in enumerate(images):
            maps = predictor.predict(image)
            assert (found["classes"][i] == maps.prediction).mean() >= 0.999
            np.testing.assert_allclose(found["max_prob"][i], maps.max_prob, atol=1e-4)
            if "p_wrong" in found:
                np.testing.assert_allclose(found["p_wrong"][i], 1 - maps.p_right, atol=1e-4)


def test_a_model_that_differs_is_refused():
    predictor = untrained()

    def wrong(images):
        ones = np.ones(images.shape[:3])
        return {"classes": 255 * ones, "max_prob": ones, "p_wrong": ones}

    with pytest.raises(UserError, match=r"0\.000 %.*nothing was exported"):
        check_program(wrong, predictor)


def convert(function):
    from eln_jax.training.onnx_program import to_onnx  # imports onnx

    argument = jax.ShapeDtypeStruct(export.symbolic_shape("n, m"), jnp.int32)
    return load_onnx(to_onnx(lambda x: {"y": function(x)}, argument, {}))


def test_sizes_and_whole_numbers_divide_as_in_python():
    def function(x):
        n, m = x.shape
        padded = jnp.pad(x, ((0, -n % 4), (n // 3, 0)))
        return padded // 7 + padded % 5 + jnp.arange(padded.shape[0])[:, None] * m

    call = convert(function)
    for size in ((1, 3), (4, 1), (7, 9)):
        x = np.arange(np.prod(size), dtype=np.int32).reshape(size) - 8
        padded = np.pad(x, ((0, -size[0] % 4), (size[0] // 3, 0)))
        expected = padded // 7 + padded % 5 + np.arange(len(padded))[:, None] * size[1]
        np.testing.assert_array_equal(call(x)["y"], expected)


def test_an_operation_without_an_onnx_form_is_one_sentence():
    with pytest.raises(UserError, match="operation sort, which has no ONNX form here") as error:
        convert(lambda x: jnp.sort(x, 0))
    assert "\n" not in str(error.value)
