"""What the doors share: flags with `--config.field=value` overrides, and errors as one sentence."""

import argparse
import sys
from collections.abc import Callable, Sequence

from eln_jax.errors import UserError

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


def split_overrides(argv: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Separates `--config.a.b=value` (or `--config.a.b value`) from the other arguments.

    Args:
        argv: arguments without the program's name.

    Returns:
        The other arguments, and pairs of dotted field name and value.

    Raises:
        UserError: an override without a value.
    """
    rest, overrides = [], []
    arguments = iter(argv)
    for argument in arguments:
        if not argument.startswith("--config."):
            rest.append(argument)
            continue
        name, equals, value = argument.removeprefix("--config.").partition("=")
        if not equals:
            value = next(arguments, None)
            if value is None:
                raise UserError(f"--config.{name} needs a value: --config.{name}=VALUE.")
        overrides.append((name, value))
    return rest, overrides


def run(command: Callable[[Sequence[str]], int | None]) -> None:
    """Runs a door and exits.

    With what the command returns, 2 after one sentence for a user's mistake or a file that cannot
    be used, 130 after Ctrl-C.
    """
    try:
        code = command(sys.argv[1:])
    except UserError as error:
        print(f"eln_jax: {error}", file=sys.stderr)
        code = 2
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"eln_jax: {where}{error.strerror or error}.", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("eln_jax: stopped by Ctrl-C.", file=sys.stderr)
        code = 130
    sys.exit(code)
