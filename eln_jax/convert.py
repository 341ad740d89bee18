"""Converts official checkpoints: `python -m eln_jax.convert --input=X.pth --output=DIR`."""

from collections.abc import Sequence
from pathlib import Path

from eln_jax import command_line
from eln_jax.errors import UserError

DESCRIPTION = """\
Turns a checkpoint of the official PyTorch code (kinux98/SSL_ELN) into a folder of weights by our
names, and such a folder back into a checkpoint that the official code loads.

A .pth file is read without PyTorch and without running anything in it. Every entry is checked, and
DIR/model.safetensors (weights of encoder, decoder, auxiliary decoders and ELN) and
DIR/model.json (what they are) are written. Optimiser states are left behind. On the way back the
weights are the same byte for byte.
"""
EXAMPLES = """\
examples:
  python -m eln_jax.convert --input=epoch_0400.pth --output=converted
  python -m eln_jax.convert --input=converted --output=again.pth
"""
_NOT_WEIGHTS = ("optimizer_state_dict", "scaler_state_dict")


def main(argv: Sequence[str]) -> int:
    """Parses the flags and converts.

    Args:
        argv: arguments without the program's name.

    Returns:
        Exit code: 0.

    Raises:
        UserError: the input is not what it should be, or the output exists.
    """
    parser = command_line.make_parser("convert", DESCRIPTION, EXAMPLES)
    parser.add_argument(
        "--input", required=True, type=Path, help="official .pth file, or a converted folder"
    )
    parser.add_argument(
        "--output", required=True, type=Path, help="new folder, or a new .pth file to go back"
    )
    flags = parser.parse_args(argv)
    if flags.output.is_file() or (flags.output.is_dir() and any(flags.output.iterdir())):
        raise UserError(f"{flags.output}: exists already; name another --output or remove it.")
    convert = _to_official if flags.input.is_dir() else _from_official
    try:
        convert(flags.input, flags.output)
    except OSError as error:  # no right to read or write there, disk full
        raise UserError(f"{error.filename or flags.output}: {error.strerror}.") from None
    return 0


def _from_official(source: Path, target: Path) -> None:
    # Imported here, after the flags have been understood: jax takes seconds.
    from eln_jax.models.official import ELN_ENCODER, from_official
    from eln_jax.models.torch_file import read_torch_file, to_mapping
    from eln_jax.models.torch_names import flatten
    from eln_jax.models.variables import save_variables, sha256

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
    print(f"Written: {target}/model.safetensors and {target}/model.json")


def _to_official(source: Path, target: Path) -> None:
    from eln_jax.models.official import to_official
    from eln_jax.models.torch_file import write_torch_file
    from eln_jax.models.variables import load_variables

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
    command_line.run(main)
