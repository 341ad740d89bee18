"""The folder that an export leaves: programs, weights, description, model card."""

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from eln_jax.models.variables import save_variables, sha256
from eln_jax.training.exporting import PLATFORMS
from eln_jax.training.trained_model import EXPORT_KIND, TrainedModel, classes_json

PROGRAM = "model.stablehlo"
ONNX = "model.onnx"

_ONNX_LINES = """\
- `model.onnx`: the same as an ONNX model (opset 17, float32), for any ONNX runtime; see below.
"""
_ONNX_SCRIPT = """
## With onnxruntime

```python
import sys

import numpy as np
import onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession(sys.argv[1])  # model.onnx
image = np.asarray(Image.open(sys.argv[2]).convert("RGB"))  # sides of 32 pixels or more
NAMES = session.run(None, {"image": image[None]})
Image.fromarray(classes[0]).save(sys.argv[3])  # a PNG, the number of a class in each pixel
```

`pip install onnxruntime numpy pillow`; the numbers are places in the list of classes above, from 0.
"""


def write_export(
    folder: Path,
    model: TrainedModel,
    program: bytes,
    onnx: bytes | None,
    config_json: str,
    figures: Mapping[str, Any],
) -> None:
    """Writes programs, weights, config.json, model.json and a model card.

    Args:
        folder: made if absent.
        model: what was exported.
        program: of `export_program`.
        onnx: of `export_onnx`; None: not wanted.
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
    if onnx is not None:
        (folder / ONNX).write_bytes(onnx)
        metadata |= {"onnx_sha256": sha256(folder / ONNX), "onnx_arithmetic": "float32"}
    variables = {"student": model.variables["network"]}
    if model.has_eln:
        variables["eln"] = model.variables["eln"]
    by_collection = {
        collection: {name: tree[collection] for name, tree in variables.items()}
        for collection in ("params", "batch_stats")
    }
    save_variables(folder, by_collection, metadata)
    (folder / "README.md").write_text(_card(model, metadata, figures), encoding="utf-8")


def _card(model: TrainedModel, metadata: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    """The model card, as Markdown."""
    names = ", ".join(entry["name"] for entry in metadata["classes"])
    rows = [
        f"| {key} | {value:.4f} |"
        for key, value in figures.items()
        if isinstance(value, float) and not math.isnan(value)
    ]
    table = "\n".join(["| on the validation images | |", "|---|---|", *rows]) if rows else ""
    trained = model.origin if model.step is None else f"{model.origin} of a training with eln_jax"
    onnx = _ONNX_LINES if "onnx_sha256" in metadata else ""
    script = (
        _ONNX_SCRIPT.replace(
            "NAMES", "classes, max_prob, p_wrong" if metadata["has_eln"] else "classes, max_prob"
        )
        if onnx
        else ""
    )
    return f"""# A segmentation model

The {model.name} of {trained}; encoder {metadata["encoder"]}.
It gives every pixel one of {len(metadata["classes"])} classes: {names}.

- `model.stablehlo`: the program, weights included, for {", ".join(metadata["platforms"])}. Input:
  {metadata["input"]}. Output: {metadata["output"]}. Run it with `jax.export.deserialize`.
{onnx}- `model.safetensors`: the weights alone, by name.
- `config.json`: the training's configuration.
- `model.json`: classes with colours, figures, versions, checksums.

{table}

It was trained on, and judged by, images of one data set; elsewhere it may be worse. `p_wrong` is
the Error Localization Network's estimate of where it is wrong.
{script}"""
