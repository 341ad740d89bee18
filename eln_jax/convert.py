"""Turn a checkpoint of the official PyTorch code into a folder that eln_jax loads, and back.

  python -m eln_jax.convert --input=epoch_0400.pth --output=converted
  python -m eln_jax.convert --input=converted --output=again.pth

The first form reads the .pth file without PyTorch and without running anything in it, checks every
entry, and writes converted/variables.safetensors (the weights of encoder, decoder, auxiliary
decoders and ELN) and converted/model.json (what they are). Optimiser states are left behind.
The second form writes a checkpoint that the official code's torch.load accepts; the weights come
back byte for byte.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from eln_jax.errors import UserError
from eln_jax.models.official import ELN_ENCODER, from_official, to_official
from eln_jax.models.torch_file import read_torch_file, to_mapping, write_torch_file
from eln_jax.models.torch_names import flatten
from eln_jax.models.variables import load_variables, save_variables, sha256

_NOT_WEIGHTS = ("optimizer_state_dict", "scaler_state_dict")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the flags and converts; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m eln_jax.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--input", required=True, help="official .pth file, or a converted folder")
    parser.add_argument("--output", required=True, help="new folder, or a new .pth file to go back")
    flags = parser.parse_args(arguments)
    source, target = Path(flags.input), Path(flags.output)
    try:
        if target.is_file() or (target.is_dir() and any(target.iterdir())):
            raise UserError(f"{target}: exists already; name another --output or remove it.")
        if source.is_dir():
            _to_official(source, target)
        else:
            _from_official(source, target)
    except (UserError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0


def _from_official(source: Path, target: Path) -> None:
    checkpoint = to_mapping(read_torch_file(source, skip=_NOT_WEIGHTS), source)
    official = from_official(checkpoint, str(source))
    epoch = checkpoint.get("epoch")
    epoch = epoch if isinstance(epoch, int) else None
    metadata = {
        "encoder": official.encoder,
        "output_stride": 16,
        "num_classes": official.num_classes,
        "num_aux_decoders": official.num_aux_decoders,
        "eln_encoder": ELN_ENCODER,
        "source": {
            "format": "official",
            "file": source.name,
            "sha256": sha256(source),
            "epoch": epoch,
            "batches_tracked": official.batches_tracked,
        },
    }
    save_variables(target, official.variables, metadata)
    weights = flatten(official.variables["params"]).values()
    print(
        f"Read {source}: {official.encoder}, {official.num_classes} classes, "
        f"{official.num_aux_decoders} auxiliary decoders, ELN on {ELN_ENCODER}, "
        f"{sum(array.size for array in weights) / 1e6:.1f} million weights, "
        f"epoch {'unknown' if epoch is None else epoch}."
    )
    print(f"Written: {target}/variables.safetensors and {target}/model.json")


def _to_official(source: Path, target: Path) -> None:
    if target.suffix != ".pth":
        raise UserError(f"{target}: --input is a folder, so --output must be a new .pth file.")
    variables, metadata = load_variables(source)
    origin = metadata.get("source", {})
    state = to_official(variables, origin.get("batches_tracked"))
    target.parent.mkdir(parents=True, exist_ok=True)
    write_torch_file(target, {"epoch": origin.get("epoch") or 0, **state})
    count = sum(len(entries) for entries in state.values())
    print(f"Written: {target} with {count} entries of {', '.join(state)}.")


if __name__ == "__main__":
    sys.exit(main())
