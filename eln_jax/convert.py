"""Converts PyTorch checkpoints: `python -m eln_jax.convert --input=X.pth --output=DIR`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eln_jax import command_line, configuration
from eln_jax.converted_configuration import official_configuration, torchvision_configuration
from eln_jax.errors import UserError
from eln_jax.output import all_or_nothing, check_place, refuse_taken, room_for

DESCRIPTION = """\
Turns a PyTorch checkpoint into a folder of weights by our names, and such a folder back into a
checkpoint that the code it came from loads. Two kinds are known:
  - of the official code (kinux98/SSL_ELN): encoder, decoder, auxiliary decoders and ELN;
  - a DeepLabV3+ on a ResNet with torchvision's names (backbone.*, classifier.*), at output stride
    16, as VainF/DeepLabV3Plus-Pytorch and its likes write it: encoder and decoder, no ELN.
Of any other network, and of ImageNet weights, the encoder can start a training as it is:
python -m eln_jax.main ... --config.model.pretrained=FILE.

A .pth file is read without PyTorch and without running anything in it. Every entry is checked, and
DIR gets model.safetensors (weights), model.json (what they are) and config.json (how they are
used): evaluate, predict and export take DIR as --model. Optimiser states are left behind. On the
way back the weights are the same byte for byte.

A checkpoint tells how many classes it has, not which: 21 are taken for PASCAL VOC's and 19 for
Cityscapes', with the crops that the official code trains on (505x505 and 512x1024) or, of the other
kind, the images' own size. Others are called class 0, class 1, ...; --classes=FILE names them.
"""
EXAMPLES = """\
examples:
  python -m eln_jax.convert --input=epoch_0400.pth --output=converted
  python -m eln_jax.predict --model=converted --input=photos --output=found
  python -m eln_jax.convert --input=converted --output=again.pth
  with classes of your own
    python -m eln_jax.convert --input=epoch_0400.pth --output=converted --classes=classes.txt
"""
_NOT_WEIGHTS = ("optimizer_state_dict", "optimizer_state", "scaler_state_dict")
# Variables, configuration, a sentence on the classes, and what model.json says.
_Read = tuple[dict[str, Any], Any, str, dict[str, Any]]


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
        "--input", required=True, type=command_line.path, help=".pth file, or a converted folder"
    )
    parser.add_argument(
        "--output",
        required=True,
        type=command_line.path,
        help="new folder, or a new .pth file to go back",
    )
    parser.add_argument(
        "--classes",
        type=command_line.path,
        help='file with a line a class, "ID NAME [#rrggbb]", in their order',
    )
    flags = parser.parse_args(argv)
    refuse_taken(flags.output)
    check_place("--output", flags.output)
    if not flags.input.is_dir() and flags.output.suffix == ".pth":
        raise UserError(
            f"{flags.output}: a .pth file becomes a folder; give --output another name, or the "
            "folder that was converted as --input."
        )
    if flags.classes and flags.input.is_dir():
        raise UserError("--classes names the classes of a .pth file; --input is a folder.")
    try:
        with room_for(flags.output):
            if flags.input.is_dir():
                _to_torch(flags.input, flags.output)
            else:
                _from_torch(flags.input, flags.output, flags.classes)
    except OSError as error:  # no right to read or write there
        raise UserError(f"{error.filename or flags.output}: {error.strerror}.") from None
    return 0


def _from_torch(source: Path, target: Path, classes: Path | None) -> None:
    # Imported here, after the flags have been understood: jax takes seconds.
    from eln_jax.models.torch_file import read_torch_file, to_mapping
    from eln_jax.models.torch_names import flatten
    from eln_jax.models.variables import save_variables, sha256
    from eln_jax.training.trained_model import CONVERTED_KIND

    checkpoint = to_mapping(read_torch_file(source, skip=_NOT_WEIGHTS), source)
    read = _read_official if "enc_state_dict" in checkpoint else _read_torchvision
    variables, config, told, facts = read(checkpoint, source, classes)
    epoch = checkpoint.get("epoch")
    epoch = epoch if isinstance(epoch, int) else None
    metadata = {
        "kind": CONVERTED_KIND,
        "network": "student",  # neither code keeps a teacher
        "step": None,
        "output_stride": 16,
        **facts,
    }
    metadata["source"] |= {"file": source.name, "sha256": sha256(source), "epoch": epoch}
    with all_or_nothing(target) as folder:
        save_variables(folder, variables, metadata)
        (folder / "config.json").write_text(configuration.to_json(config), encoding="utf-8")
    weights = flatten(variables["params"]).values()
    eln = f"ELN on {facts['eln_encoder']}" if facts["has_eln"] else "no ELN"
    print(
        f"Read {source}: {facts['encoder']}, {facts['num_classes']} classes, "
        f"{facts['num_aux_decoders']} auxiliary decoders, {eln}, "
        f"{sum(array.size for array in weights) / 1e6:.1f} million weights, "
        f"epoch {'unknown' if epoch is None else epoch}."
    )
    print(told)
    print(f"Written: {target} with model.safetensors, model.json and config.json.")


def _read_official(checkpoint: Any, source: Path, classes: Path | None) -> _Read:
    from eln_jax.models.official import ELN_ENCODER, from_official

    found = from_official(checkpoint, str(source))
    config, told = official_configuration(
        found.encoder, ELN_ENCODER, found.num_classes, found.num_aux_decoders, classes
    )
    facts = {
        "has_eln": True,
        "encoder": found.encoder,
        "num_classes": found.num_classes,
        "num_aux_decoders": found.num_aux_decoders,
        "eln_encoder": ELN_ENCODER,
        "source": {"format": "official", "batches_tracked": found.batches_tracked},
    }
    return found.variables, config, told, facts


def _read_torchvision(checkpoint: Any, source: Path, classes: Path | None) -> _Read:
    from eln_jax.models.torchvision import from_torchvision, open_envelope

    found = from_torchvision(open_envelope(checkpoint), str(source))
    config, told = torchvision_configuration(found.encoder, found.num_classes, classes)
    facts = {
        "has_eln": False,
        "encoder": found.encoder,
        "num_classes": found.num_classes,
        "num_aux_decoders": 0,
        "source": {"format": "torchvision", "batches_tracked": found.batches_tracked},
    }
    return found.variables, config, told, facts


def _to_torch(source: Path, target: Path) -> None:
    from eln_jax.models.official import to_official
    from eln_jax.models.torch_file import write_torch_file
    from eln_jax.models.torchvision import to_torchvision
    from eln_jax.models.variables import load_variables
    from eln_jax.training.trained_model import CONVERTED_KIND

    if target.suffix != ".pth" or target.is_dir():
        raise UserError(f"{target}: --input is a folder, so --output must be a new .pth file.")
    variables, metadata = load_variables(source)
    if metadata.get("kind") != CONVERTED_KIND:
        raise UserError(f"{source}: only what convert has made of a .pth file goes back to one.")
    origin = metadata.get("source", {})
    counts = origin.get("batches_tracked")
    if origin.get("format") == "torchvision":
        state = {"model_state": to_torchvision(variables, metadata["encoder"], counts)}
    else:
        state = to_official(variables, counts)
    with all_or_nothing(target) as file:
        write_torch_file(file, {"epoch": origin.get("epoch") or 0, **state})
    count = sum(len(entries) for entries in state.values())
    print(f"Written: {target} with {count} entries of {', '.join(state)}.")


if __name__ == "__main__":
    command_line.run(main)
