"""Makes a model usable anywhere: `python -m eln_jax.export --model=runs/mine --output=model`."""

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eln_jax import command_line, configuration
from eln_jax.errors import UserError

DESCRIPTION = """\
Writes a trained model into a folder that needs nothing of eln_jax:
  model.stablehlo    one program, weights included, for images of any number and size, on CPUs, CUDA
                     GPUs and TPUs: classes, maximum probability and, with an ELN, P(wrong)
  model.safetensors  the weights alone
  model.json         classes, colours, figures, versions, checksums
  config.json        the training's configuration
  README.md          a model card
The program is run and compared with the model before anything is written. jax alone runs it: see
the README. evaluate and predict take the folder as --model, too.
"""
EXAMPLES = """\
examples:
  python -m eln_jax.export --model=runs/mine --output=model
  python -m eln_jax.export --model=runs/mine --network=student --checkpoint=best --output=model
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
    parser.add_argument("--output", required=True, type=Path, help="new folder")
    flags = parser.parse_args(argv)
    if flags.output.exists() and (not flags.output.is_dir() or any(flags.output.iterdir())):
        raise UserError(f"{flags.output}: exists already; name another --output or remove it.")
    if importlib.util.find_spec("flatbuffers") is None:
        raise UserError("An export needs the package flatbuffers: pip install flatbuffers.")
    config: Any = configuration.read_json(flags.model / "config.json")

    # Imports jax: after the flags have been understood.
    from eln_jax.training.exporting import check_program, export_program, write_export
    from eln_jax.training.trained_model import open_model

    model = open_model(flags.model, config, flags.network, flags.checkpoint)
    predictor = model.predictor(1)
    print(f"Exporting the {model.description}.")
    program = bytes(export_program(predictor).serialize())
    agreement = check_program(program, predictor)
    print(f"The program gives the model's classes in {100 * agreement:.3f} % of the pixels tried.")
    figures = _figures(flags.model, model)
    write_export(flags.output, model, program, configuration.to_json(config), figures)
    print(
        f"Results: {flags.output} ({len(program) / 1e6:.1f} MB program); begin with its README.md."
    )
    return 0


def _figures(folder: Path, model: Any) -> dict[str, Any]:
    """What the run's own evaluation said of this network at this step; empty if there was none."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return {}
    rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    for row in rows:
        if row["split"] == "val" and row["step"] == model.step:
            shared = ("eln/", "max_prob/", f"{model.name}/")
            return {key: value for key, value in row.items() if key.startswith(shared)}
    return {}


if __name__ == "__main__":
    command_line.run(main)
