"""Makes a model usable anywhere: `python -m eln_jax.export --model=runs/mine --output=model`."""

import dataclasses
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eln_jax import command_line, configuration
from eln_jax.errors import UserError
from eln_jax.output import all_or_nothing, check_place, refuse_taken, room_for

DESCRIPTION = """\
Writes a trained model into a folder that needs nothing of eln_jax:
  model.stablehlo    one program, weights included, for images of any number and size, on CPUs, CUDA
                     GPUs and TPUs: classes, maximum probability and, with an ELN, P(wrong)
  model.onnx         with --onnx: the same for any ONNX runtime, such as onnxruntime
  model.safetensors  the weights alone
  model.json         classes, colours, figures, versions, checksums
  config.json        the training's configuration
  README.md          a model card
Programs are run and compared with the model before anything is written. jax alone runs the first:
see the README. evaluate and predict take the folder as --model, too.
"""
EXAMPLES = """\
examples:
  python -m eln_jax.export --model=runs/mine --output=model
  python -m eln_jax.export --model=runs/mine --network=student --checkpoint=best --output=model
  for onnxruntime (needs pip install 'eln_jax[onnx]')
    python -m eln_jax.export --model=runs/mine --output=model --onnx
"""


def main(argv: Sequence[str]) -> int:
    """Parses the flags and exports.

    Args:
        argv: arguments without the program's name.

    Returns:
        Exit code: 0.

    Raises:
        UserError: the model cannot be used, the output exists, or the program differs.
    """
    parser = command_line.make_parser("export", DESCRIPTION, EXAMPLES)
    command_line.add_model_flags(parser)
    parser.add_argument("--output", required=True, type=command_line.path, help="new folder")
    parser.add_argument("--onnx", action="store_true", help="write model.onnx as well")
    flags = parser.parse_args(argv)
    refuse_taken(flags.output)
    check_place("--output", flags.output)
    if importlib.util.find_spec("flatbuffers") is None:
        raise UserError("An export needs the package flatbuffers: pip install flatbuffers.")
    if flags.onnx and not all(map(importlib.util.find_spec, ("onnx", "onnxruntime"))):
        raise UserError(
            "--onnx needs the packages onnx and onnxruntime: pip install 'eln_jax[onnx]'."
        )
    config: Any = configuration.read_json(flags.model / "config.json")

    # Imports jax: after the flags have been understood.
    from eln_jax.training.export_folder import write_export
    from eln_jax.training.exporting import check_program, export_program, load_program
    from eln_jax.training.trained_model import open_model

    model = open_model(flags.model, config, flags.network, flags.checkpoint)
    predictor = model.predictor(1)
    print(f"Exporting the {model.description}.")
    program = export_program(predictor)
    agreement = check_program(load_program(program), predictor)
    print(f"The program gives the model's classes in {100 * agreement:.3f} % of the pixels tried.")
    onnx = _export_onnx(flags.model, model) if flags.onnx else None
    figures = _figures(flags.model, model)
    with room_for(flags.output), all_or_nothing(flags.output) as folder:
        write_export(folder, model, program, onnx, configuration.to_json(config), figures)
    sizes = f"{len(program) / 1e6:.1f} MB program"
    if onnx is not None:
        sizes += f", {len(onnx) / 1e6:.1f} MB ONNX model"
    print(f"Results: {flags.output} ({sizes}); begin with its README.md.")
    return 0


def _export_onnx(folder: Path, model: Any) -> bytes:
    """The model in ONNX, which computes in float32 whatever the training did."""
    from eln_jax.training.exporting import check_program, export_onnx, load_onnx

    config: Any = configuration.read_json(folder / "config.json", [("dtype", "float32")])
    predictor = dataclasses.replace(model, config=config).predictor(1)
    onnx = export_onnx(predictor, model.class_names)
    agreement = check_program(load_onnx(onnx), predictor, "ONNX model")
    dtype = model.config.dtype
    computed = "" if dtype == "float32" else f", computed in float32 instead of {dtype},"
    print(
        f"The ONNX model gives the model's classes{computed} in {100 * agreement:.3f} % of the "
        "pixels tried."
    )
    return onnx


def _figures(folder: Path, model: Any) -> dict[str, Any]:
    """What the run's own evaluation said of this network at this step; empty if there was none."""
    from eln_jax.evaluation.curves import read_metrics

    path = folder / "metrics.jsonl"
    for row in read_metrics(path) if path.is_file() else ():
        if row["split"] == "val" and row["step"] == model.step:
            judged = "teacher" if row["phase"] == "semi_supervised" else "student"
            detectors = ("eln/", "max_prob/") if model.name == judged else ()
            kinds = (f"{model.name}/", *detectors)
            return {key: value for key, value in row.items() if key.startswith(kinds)}
    return {}


if __name__ == "__main__":
    command_line.run(main)
