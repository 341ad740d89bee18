"""Measures speed: `python -m eln_jax.benchmark --what=data --config=configs/quickstart.py`."""

import json
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from eln_jax import command_line, configuration

DESCRIPTION = """\
Measures how fast a configuration runs on this machine and prints the figures as JSON.

  --what=data   the input pipeline: milliseconds an image for each of its parts on one thread (read,
                decode, augment, batch, transfer), and images a second of each stream as training
                drives it; with --train_steps also the share of a training step that waits for data
"""
EXAMPLES = """\
Every figure is given as the least and the median of several; compare figures of one run only, for
other programs on the machine take their share.

examples:
  python -m eln_jax.benchmark --what=data --config=configs/quickstart.py --train_steps=5
  python -m eln_jax.benchmark --what=data --config=configs/voc.py --config.data.root=VOC \\
      --config.data.workers=2 --json=data.json

"""


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
        "--seconds", type=float, default=10.0, help="how long a stream is timed (default 10)"
    )
    parser.add_argument(
        "--train_steps",
        type=int,
        default=0,
        help="also train so many steps of the third phase and time their waiting (default 0)",
    )
    parser.add_argument("--json", type=Path, help="file to write the figures to as well")
    flags = parser.parse_args(rest)
    config = configuration.load(flags.config, overrides)
    configuration.complete(config)
    print(f"Measuring {flags.config}: about {2 * flags.seconds + 10:.0f} s ...", file=sys.stderr)
    figures = json.dumps(_measure(flags, config), indent=2)
    print(figures)
    if flags.json:
        flags.json.write_text(figures + "\n")
        print(f"Figures: {flags.json}", file=sys.stderr)
    return 0


def _measure(flags: Any, config: Any) -> dict[str, Any]:
    import jax

    from eln_jax.benchmarks import data, waiting
    from eln_jax.training import assembly, inputs

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
    report |= data.measure_data(inputs.make_inputs(config), config, flags.seconds)
    if flags.train_steps:
        report["training"] = waiting.measure_waiting(assembly.build(config), flags.train_steps)
    return report


if __name__ == "__main__":
    command_line.run(main)
