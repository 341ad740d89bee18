"""What the doors share: flags with `--config.field=value` overrides, and errors as one sentence."""

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from eln_jax.errors import StorageError, UserError, is_full
from eln_jax.user_cache import keep_compiled_programs

CONFIG_HELP = """\
Any field of the configuration can be set on the command line by its dotted name:
  --config.optim.learning_rate=3e-4 --config.crop_size="(256, 256)"
eln_jax/defaults.py lists every field with its default, unit and the paper's value.
"""


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one sentence."""

    def error(self, message: str):
        """Raises what argparse would print with the usage."""
        raise UserError(f"{message[:1].upper()}{message[1:]}; see {self.prog} --help.")


def make_parser(name: str, description: str, epilog: str = "") -> Parser:
    """Creates the parser of the command `python -m eln_jax.NAME`."""
    return Parser(
        prog=f"python -m eln_jax.{name}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def filled(text: str) -> str:
    """The type of a flag that says nothing when it is empty.

    Raises:
        argparse.ArgumentTypeError: it is, as where a variable of the shell is not set.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty, as a variable of the shell that is not set")
    return text


def path(text: str) -> Path:
    """The type of a flag that names a file or a folder: to `Path` nothing is the current folder.

    Raises:
        argparse.ArgumentTypeError: it is empty.
    """
    return Path(filled(text))


def split_overrides(argv: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Separates `--config.a.b=value` (or `--config.a.b value`) from the other arguments.

    Args:
        argv: arguments without the program's name.

    Returns:
        The other arguments, and pairs of dotted field name and value.

    Raises:
        UserError: an override without a name or a value.
    """
    rest, overrides = [], []
    arguments = iter(argv)
    for argument in arguments:
        if not argument.startswith("--config."):
            rest.append(argument)
            continue
        name, equals, value = argument.removeprefix("--config.").partition("=")
        if not name:
            raise UserError(f"{argument} names no field: give --config.FIELD=VALUE.")
        if not equals:
            value = next(arguments, None)
            if value is None:
                raise UserError(f"--config.{name} needs a value: --config.{name}=VALUE.")
        overrides.append((name, value))
    return rest, overrides


def add_config_flag(parser: argparse.ArgumentParser, kind: str = "configuration") -> None:
    """Adds --config, which names a file of that kind."""
    parser.add_argument(
        "--config", required=True, type=filled, help=f"{kind} file, FILE.py[:variant]"
    )


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that choose a trained model."""
    parser.add_argument(
        "--model",
        required=True,
        type=path,
        help="the --workdir of a training, maybe under way, or a folder of export or convert",
    )
    parser.add_argument(
        "--network",
        choices=("teacher", "student"),
        default="",
        help="which of both (default: the teacher, once there is one)",
    )
    parser.add_argument(
        "--checkpoint",
        default="last",
        metavar="last|best|STEP",
        help="which checkpoint; best: by mean IoU on val (default: last)",
    )


def add_distributed_flag(parser: argparse.ArgumentParser) -> None:
    """Adds the flag by which a process learns that it is one of several."""
    parser.add_argument(
        "--distributed",
        action="store_true",
        help="this is one of several processes, each started by the same command, that share the "
        "work; they find each other on TPU VMs, Slurm, Open MPI and GKE, elsewhere by "
        "JAX_COORDINATOR_ADDRESS=HOST:PORT, JAX_NUM_PROCESSES and JAX_PROCESS_ID",
    )


def add_view_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say how often an image is looked at."""
    parser.add_argument(
        "--scales",
        type=filled,
        metavar="S,S,...",
        help="scales of the image, whose predictions are averaged (default: 1)",
    )
    parser.add_argument("--flip", action="store_true", help="average with the mirror image's")
    parser.add_argument(
        "--tta", action="store_true", help="test-time augmentation: --scales=0.75,1,1.25 --flip"
    )
    parser.add_argument(
        "--sliding",
        action="store_true",
        help="look through overlapping windows of the training's crop size",
    )


def read_views(
    flags: argparse.Namespace, crop_size: tuple[int, ...], protocol: str = "original"
) -> dict[str, Any]:
    """The flags of `add_view_flags` as the fields of `evaluation.maps.Views`.

    Raises:
        UserError: a scale is no number above 0, --tta says other ones, or windows would show no
            less than all.
    """
    if flags.sliding and protocol == "warp":
        raise UserError(
            "--sliding changes nothing where images are warped to the size of the windows: leave "
            "it out, or give --config.eval.protocol=original."
        )
    if flags.tta and flags.scales is not None:
        raise UserError(
            f"--tta sets the scales itself: give --flip with --scales={flags.scales} instead."
        )
    text = "0.75,1,1.25" if flags.tta else flags.scales or "1"
    try:
        scales = tuple(float(part) for part in text.split(","))
    except ValueError:
        scales = ()
    if not scales or not all(0.1 <= scale <= 10 for scale in scales):
        raise UserError(
            f"--scales={text}: give numbers from 0.1 to 10 with commas, as 0.75,1,1.25."
        )
    return {
        "scales": scales,
        "flip": flags.flip or flags.tta,
        "window": tuple(crop_size) if flags.sliding else None,
    }


def run(command: Callable[[Sequence[str]], int | None]) -> None:
    """Runs a door and exits.

    With what the command returns, 2 after one sentence for a user's mistake or a file that cannot
    be used, 3 if an output folder cannot be written to for now, as on a full disk, 130 after
    Ctrl-C. One of several processes that fails leaves at once, with 1 if it is because another has
    left.
    """
    keep_compiled_programs()
    try:
        sys.exit(command(sys.argv[1:]))
    except UserError as error:
        print(f"eln_jax: {error}", file=sys.stderr)
        code = 3 if isinstance(error, StorageError) else 2
    except OSError as error:
        full = is_full(error)
        advice = "; make room, and give the same command again" if full else ""
        print(f"eln_jax: {sentence_of(error)}{advice}.", file=sys.stderr)
        code = 3 if full else 2
    except KeyboardInterrupt:
        print("eln_jax: stopped by Ctrl-C.", file=sys.stderr)
        code = 130
    except Exception as error:
        if not _is_one_of_several():
            raise
        code = 1
        if isinstance(error, sys.modules["jax"].errors.JaxRuntimeError):
            # What this process waits for can fail in many words when another one is gone.
            reason = next(iter(str(error).splitlines()), "")[:200]
            print(
                f"eln_jax: the processes cannot go on together ({reason}): one has failed or was "
                "stopped, and says why if it could; start all of them again.",
                file=sys.stderr,
            )
        else:
            traceback.print_exc()
    if _is_one_of_several():
        # An orderly end waits for the other processes, which wait for this one.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def sentence_of(error: OSError) -> str:
    """Which file, and what the system says of it; without a full stop."""
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"


def _is_one_of_several() -> bool:
    return "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized()
