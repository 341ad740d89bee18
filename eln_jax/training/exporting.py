"""A trained model as programs that need nothing of eln_jax, and a check that they do the same."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from eln_jax.data.synthetic import SyntheticSource
from eln_jax.errors import UserError
from eln_jax.evaluation.inference import Predictor
from eln_jax.evaluation.maps import pixel_maps

PLATFORMS = ("cpu", "cuda", "tpu")
# Sizes at which program and model are compared: odd, small, and wide, one and two at a time.
_CHECKED_SIZES = ((1, 97, 143), (2, 160, 128), (1, 64, 200))
_LEAST_AGREEMENT = 0.9999

Segment = Callable[[np.ndarray], Mapping[str, Any]]  # images to maps by name


def export_program(predictor: Predictor) -> bytes:
    """Turns a predictor into one program for images of any number and size, serialised.

    The program maps uint8 RGB [batch, height, width, 3] to {"classes": uint8, "max_prob": float32,
    "p_wrong": float32 (with an ELN)}, each [batch, height, width]. The weights are part of it.
    """
    segment = jax.jit(_make_segment(predictor))
    return bytes(export.export(segment, platforms=PLATFORMS)(_any_images()).serialize())


def load_program(program: bytes) -> Segment:
    """Makes a serialised program runnable, through nothing but `jax.export`."""
    return jax.jit(export.deserialize(bytearray(program)).call)


def export_onnx(predictor: Predictor, class_names: Sequence[str]) -> bytes:
    """Turns a predictor into an ONNX model, of the same inputs and outputs as `export_program`'s.

    Args:
        predictor: of a network that computes in float32: few ONNX runtimes know bfloat16.
        class_names: go into the model's metadata.
    """
    # Needs the extra onnx.
    from eln_jax.training.onnx_program import to_onnx

    properties = {"classes": json.dumps(list(class_names))}
    return to_onnx(_make_segment(predictor), _any_images(), properties)


def load_onnx(model: bytes) -> Segment:
    """Makes a serialised ONNX model runnable, on the CPU by onnxruntime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (given,), found = session.get_inputs(), [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(found, session.run(found, {given.name: images}), strict=True))


def _make_segment(predictor: Predictor) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """The function that is exported: the network and what `predictor` does before and after."""

    def segment(image):
        height, width = image.shape[1:3]
        rows, columns = (_padding(side, predictor) for side in (height, width))
        fill = jnp.array(predictor.fill, jnp.int32)[None, None, None]
        padded = jnp.pad(image - fill, ((0, 0), (0, rows), (0, columns), (0, 0))) + fill
        maps = pixel_maps(predictor.network, predictor.variables, padded.astype(jnp.uint8))
        maps = jax.tree.map(lambda x: x[:, :height, :width], maps)
        found = {"classes": maps.prediction, "max_prob": maps.max_prob}
        return found if maps.p_right is None else found | {"p_wrong": 1.0 - maps.p_right}

    return segment


def _any_images() -> jax.ShapeDtypeStruct:
    constraints = ["batch >= 1", "height >= 32", "width >= 32"]
    shape = export.symbolic_shape("batch, height, width, 3", constraints=constraints)
    return jax.ShapeDtypeStruct(shape, jnp.uint8)


def _padding(side: Any, predictor: Predictor) -> Any:
    """Pixels that `predictor` would add to a side, also of a size unknown yet."""
    multiple, offset = predictor.pad_multiple, predictor.pad_offset
    return -(-(side - offset) // multiple) * multiple + offset - side


def check_program(call: Segment, predictor: Predictor, what: str = "program") -> float:
    """Runs what was exported and the live model on scenes of several sizes.

    Args:
        call: `load_program` or `load_onnx`.
        predictor: the live model.
        what: was exported, for the message.

    Returns:
        The share of pixels of equal class.

    Raises:
        UserError: it is too small, or the maps of probabilities differ.
    """
    equal, total, largest = 0, 0, 0.0
    for count, height, width in _CHECKED_SIZES:
        scenes = SyntheticSource(count, (height, width))
        images = np.stack([scenes.read_image(i) for i in range(count)])
        found = jax.tree.map(np.asarray, call(images))
        for i, image in enumerate(images):
            maps = predictor.predict(image)
            same = found["classes"][i] == maps.prediction
            equal, total = equal + int(same.sum()), total + same.size
            pairs = [(found["max_prob"][i], maps.max_prob)]
            if maps.p_right is not None:
                pairs.append((found["p_wrong"][i], 1.0 - maps.p_right))
            largest = max(largest, *(float(np.abs(a - b).max()) for a, b in pairs))
    agreement = equal / total
    if not (agreement >= _LEAST_AGREEMENT and largest <= 0.01):  # nan fails, too
        raise UserError(
            f"The exported {what} differs from the model (equal classes in {100 * agreement:.3f} %"
            f" of the pixels, probabilities by up to {largest:.2g}); nothing was exported."
        )
    return agreement
