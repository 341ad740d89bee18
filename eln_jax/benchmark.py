"""Measures speed: `python -m eln_jax.benchmark --what=data --config=configs/quickstart.py`."""

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from eln_jax import command_line, configuration
from eln_jax.errors import UserError

DESCRIPTION = """\
Measures how fast a configuration runs on this machine and prints the figures as JSON.

  --what=data   the input pipeline: milliseconds an image for each of its parts on one thread (read,
                decode, augment, batch, transfer); images a second of each stream as training drives
                it; memory; and which share of a training step's time goes by waiting for data
"""
EXAMPLES = """\
Every time and rate is given as the least and the median of several. Other programs on the machine
take their share: compare figures of one run, or images_per_cpu_second, which is by the time that
processors really worked for the pipeline, and so what one core makes.

examples:
  python -m eln_jax.benchmark --what=data --config=configs/quickstart.py --train_steps=5
  python -m eln_jax.benchmark --what=data --config=configs/voc.py --config.data.root=VOC \\
      --config.data.workers=2 --json=data.json

"""
STEPS = 5


def main(argv: Sequence[str]) -> int:
    """Parses the flags and measures.

    Args:
        argv: arguments without the program's name.

    Returns:
        Exit code 0.
    """
    rest, overrides = command_line.split_overrides(argv)
    parser = command_line.make_parser("benchmark", DESCRIPTION, EXAMPLES + command_line.CONFIG_HELP)
    parser.add_argument("--config", required=True, help="configuration file, FILE.py[:variant]")
    parser.add_argument("--what", choices=("data",), required=True, help="what to measure")
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="how long each stream is timed (default 10)"
    )
    parser.add_argument(
        "--train_steps",
        type=int,
        help="steps of the third phase that are timed with data and without, from random weights; "
        f"0: none (default {STEPS}, but 0 where there is only a CPU, which may take minutes)",
    )
    parser.add_argument("--json", type=Path, help="file to write the figures to as well")
    flags = parser.parse_args(rest)
    _check(flags)
    config = configuration.load(flags.config, overrides)
    configuration.complete(config)
    figures = json.dumps(_measure(flags, config), indent=2)
    print(figures)
    if flags.json:
        flags.json.write_text(figures + "\n")
        print(f"Figures: {flags.json}", file=sys.stderr)
    return 0


def _check(flags: argparse.Namespace) -> None:
    """Refuses what could not be measured or written, before time goes by."""
    if not 0 < flags.seconds <= 3600:
        raise UserError(f"--seconds={flags.seconds} must be more than 0, and 3600 at most.")
    if flags.train_steps is not None and flags.train_steps < 0:
        raise UserError(f"--train_steps={flags.train_steps} must be 0 or more.")
    if flags.json and not flags.json.absolute().parent.is_dir():
        raise UserError(f"--json={flags.json}: there is no folder {flags.json.parent}; make it.")


def _measure(flags: argparse.Namespace, config: Any) -> dict[str, Any]:
    import jax

    from eln_jax.benchmarks import data, waiting
    from eln_jax.training import assembly, inputs

    steps = flags.train_steps
    if steps is None:
        steps = 0 if jax.default_backend() == "cpu" else STEPS
    report = {
        "what": flags.what,
        "config": flags.config,
        "devices": [device.device_kind for device in jax.devices()],
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("jax", "grain", "pillow", "numpy")},
        "crop_size": list(config.crop_size),
        "workers": config.data.workers,
        "threads": config.data.threads,
    }
    _say(f"Timing the streams of {flags.config}, {flags.seconds:g} s each ...")
    report |= data.measure_data(inputs.make_inputs(config), config, flags.seconds)
    if steps:
        _say(f"Compiling, and timing {2 * steps} training steps; --train_steps=0 leaves it out ...")
        with config.unlocked():  # weights change no time, and need not be there
            config.model.pretrained = config.model.eln_pretrained = ""
        report["training"] = waiting.measure_waiting(assembly.build(config), steps)
    return report


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    command_line.run(main)
