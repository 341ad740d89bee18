"""A trained model as a folder that needs nothing of eln_jax: program, weights, description."""

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from eln_jax.data.synthetic import SyntheticSource
from eln_jax.errors import UserError
from eln_jax.evaluation.inference import Predictor
from eln_jax.evaluation.maps import pixel_maps
from eln_jax.models.variables import save_variables, sha256
from eln_jax.training.trained_model import EXPORT_KIND, TrainedModel, classes_json

PROGRAM = "model.stablehlo"
PLATFORMS = ("cpu", "cuda", "tpu")
# Sizes at which program and model are compared: odd, small, and wide, one and two at a time.
_CHECKED_SIZES = ((1, 97, 143), (2, 160, 128), (1, 64, 200))
_LEAST_AGREEMENT = 0.9999


def export_program(predictor: Predictor) -> export.Exported:
    """Turns a predictor into one program for images of any number and size.

    The program maps uint8 RGB [batch, height, width, 3] to {"classes": uint8, "max_prob": float32,
    "p_wrong": float32 (with an ELN)}, each [batch, height, width]. The weights are part of it.
    """

    def segment(image):
        height, width = image.shape[1:3]
        rows, columns = (_padding(side, predictor) for side in (height, width))
        fill = jnp.array(predictor.fill, jnp.int32)[None, None, None]
        padded = jnp.pad(image - fill, ((0, 0), (0, rows), (0, columns), (0, 0))) + fill
        maps = pixel_maps(predictor.network, predictor.variables, padded.astype(jnp.uint8))
        maps = jax.tree.map(lambda x: x[:, :height, :width], maps)
        found = {"classes": maps.prediction, "max_prob": maps.max_prob}
        return found if maps.p_right is None else found | {"p_wrong": 1.0 - maps.p_right}

    shape = export.symbolic_shape("b, h, w, 3", constraints=["b >= 1", "h >= 32", "w >= 32"])
    image = jax.ShapeDtypeStruct(shape, jnp.uint8)
    return export.export(jax.jit(segment), platforms=PLATFORMS)(image)


def _padding(side: Any, predictor: Predictor) -> Any:
    """Pixels that `predictor` would add to a side, also of a size unknown yet."""
    multiple, offset = predictor.pad_multiple, predictor.pad_offset
    return -(-(side - offset) // multiple) * multiple + offset - side


def check_program(program: bytes, predictor: Predictor) -> float:
    """Runs a serialised program and the live model on scenes of several sizes.

    Returns:
        The share of pixels of equal class.

    Raises:
        UserError: it is too small, or the maps of probabilities differ.
    """
    call = jax.jit(export.deserialize(bytearray(program)).call)
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
    if agreement < _LEAST_AGREEMENT or largest > 0.01:
        raise UserError(
            f"The exported program differs from the model (equal classes in {100 * agreement:.3f} %"
            f" of the pixels, probabilities by up to {largest:.2g}); nothing was exported."
        )
    return agreement


def write_export(
    folder: Path,
    model: TrainedModel,
    program: bytes,
    config_json: str,
    figures: Mapping[str, Any],
) -> None:
    """Writes program, weights, config.json, model.json and a model card.

    Args:
        folder: made if absent.
        model: what was exported.
        program: `export_program`, serialised.
        config_json: of the training.
        figures: of the model on val, by metric key; empty if unknown.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PROGRAM).write_bytes(program)
    (folder / "config.json").write_text(config_json, encoding="utf-8")
    metadata = {
        "kind": EXPORT_KIND,
        "network": model.name,
        "step": model.step,
        "encoder": model.config.model.encoder,
        "has_eln": model.has_eln,
        "classes": classes_json(model),
        "input": "uint8 RGB [batch, height, width, 3], sides of 32 pixels or more",
        "output": "classes uint8, max_prob float32"
        + (", p_wrong float32" if model.has_eln else "")
        + ", each [batch, height, width]",
        "platforms": list(PLATFORMS),
        "metrics": dict(figures),
        "versions": {"jax": jax.__version__, "python": sys.version.split()[0]},
        "program_sha256": sha256(folder / PROGRAM),
    }
    variables = {"student": model.variables["network"]}
    if model.has_eln:
        variables["eln"] = model.variables["eln"]
    by_collection = {
        collection: {name: tree[collection] for name, tree in variables.items()}
        for collection in ("params", "batch_stats")
    }
    save_variables(folder, by_collection, metadata)
    (folder / "README.md").write_text(_card(metadata, figures), encoding="utf-8")


def _card(metadata: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    """The model card, as Markdown."""
    names = ", ".join(entry["name"] for entry in metadata["classes"])
    rows = [
        f"| {key} | {value:.4f} |"
        for key, value in figures.items()
        if isinstance(value, float) and not math.isnan(value)
    ]
    table = "\n".join(["| on the validation images | |", "|---|---|", *rows]) if rows else ""
    return f"""# A segmentation model

The {metadata["network"]} of step {metadata["step"]} of a training with eln_jax; encoder
{metadata["encoder"]}. It gives every pixel one of {len(metadata["classes"])} classes: {names}.

- `model.stablehlo`: the program, weights included, for {", ".join(metadata["platforms"])}. Input:
  {metadata["input"]}. Output: {metadata["output"]}. Run it with `jax.export.deserialize`.
- `model.safetensors`: the weights alone, by name. `config.json`: the training's configuration.
- `model.json`: classes with colours, figures, versions, checksums.

{table}

It was trained on, and judged by, images of one data set; elsewhere it may be worse. `p_wrong` is
the Error Localization Network's estimate of where it is wrong.
"""
