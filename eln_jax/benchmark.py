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
from eln_jax.output import check_place, room_for

DESCRIPTION = """\
Measures how fast a configuration runs on this machine and prints the figures as JSON.

  --what=step     seconds a training step in each phase, images a second, arithmetic and how much
                  of what the device can do it is, memory of device and host; on images of noise,
                  so no data set is needed
  --what=compile  seconds that the steps take to compile, anew and from the cache; with
                  --topology whether they fit on a TPU slice, which need not be there
  --what=eval     images a second of evaluation, without and with the ELN
  --what=data     the input pipeline: milliseconds an image for each of its parts on one thread
                  (read, decode, augment, batch, transfer); images a second of each stream as
                  training drives it; memory; and which share of a training step's time goes by
                  waiting for data
  --what=all      all of these
"""
EXAMPLES = """\
Every time and rate is given as the least and the median of several. Other programs on the machine
take their share: compare figures of one run, or images_per_cpu_second, which is by the time that
processors really worked for the pipeline, and so what one core makes. XLA counts the arithmetic of
a loop's body once, so flops_per_step is a little low.

examples:
  python -m eln_jax.benchmark --what=step --config=configs/quickstart.py
  python -m eln_jax.benchmark --what=step --phase=semi_supervised --config=configs/voc.py \\
      --config.dtype=bfloat16 --profile=profile --json=step.json
  python -m eln_jax.benchmark --what=compile --topology=v5e:2x2 --phase=semi_supervised \\
      --config=configs/voc.py --config.batch_size_labeled=8 --config.batch_size_unlabeled=8
  python -m eln_jax.benchmark --what=data --config=configs/quickstart.py --train_steps=5
  python -m eln_jax.benchmark --what=data --config=configs/voc.py --config.data.root=VOC \\
      --config.data.workers=2 --json=data.json

"""
SUBJECTS = ("step", "compile", "eval", "data")
PHASES = ("supervised", "eln", "semi_supervised")
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
    command_line.add_config_flag(parser)
    parser.add_argument("--what", choices=(*SUBJECTS, "all"), default="step", help="default: step")
    parser.add_argument(
        "--phase", choices=PHASES, help="phase whose step is measured (default: all three)"
    )
    parser.add_argument("--steps", type=int, help=f"steps of each phase to time (default {STEPS})")
    parser.add_argument(
        "--profile",
        type=command_line.path,
        metavar="FOLDER",
        help="folder for a trace of two more steps of each phase, to be seen in XProf or Perfetto",
    )
    parser.add_argument("--seconds", type=float, help="how long each stream is timed (default 10)")
    parser.add_argument(
        "--train_steps",
        type=int,
        help="steps of the third phase that --what=data times with data and without; "
        f"0: none (default {STEPS}, but 0 where there is only a CPU, which may take minutes)",
    )
    parser.add_argument(
        "--topology",
        type=command_line.filled,
        metavar="NAME",
        help="compile for this TPU slice, as v5e:2x2 or v4:2x2x1, instead of this machine; "
        "needs the extra tpu, but no TPU",
    )
    parser.add_argument(
        "--json", type=command_line.path, help="file to write the figures to as well"
    )
    flags = parser.parse_args(rest)
    _check(flags)
    needs_data = flags.what in ("data", "all")
    config: Any = configuration.load(flags.config, overrides, needs_data=needs_data)
    if not needs_data and not config.data.root and not config.data.num_classes:
        raise UserError("How many classes? Say it with --config.data.num_classes=N.")
    configuration.complete(config)
    figures = json.dumps(_measure(flags, config), indent=2)
    print(figures)
    if flags.json:
        with room_for(flags.json):
            flags.json.write_text(figures + "\n")
        _say(f"Figures: {flags.json}")
    return 0


_GOES_WITH = {
    "phase": ("step", "compile"),
    "steps": ("step",),
    "profile": ("step",),
    "seconds": ("data",),
    "train_steps": ("data",),
}


def _check(flags: argparse.Namespace) -> None:
    """Refuses what could not be measured or written, before time goes by; fills in defaults."""
    for name, subjects in _GOES_WITH.items():
        if getattr(flags, name) is not None and flags.what not in (*subjects, "all"):
            raise UserError(
                f"--{name} says nothing with --what={flags.what}; it goes with "
                f"--what={' or '.join(subjects)}."
            )
    flags.steps = STEPS if flags.steps is None else flags.steps
    flags.seconds = 10.0 if flags.seconds is None else flags.seconds
    if not 0 < flags.seconds <= 3600:
        raise UserError(f"--seconds={flags.seconds} must be more than 0, and 3600 at most.")
    if flags.train_steps is not None and flags.train_steps < 0:
        raise UserError(f"--train_steps={flags.train_steps} must be 0 or more.")
    if flags.topology and flags.what != "compile":
        raise UserError(f"--topology goes with --what=compile alone, not with {flags.what}.")
    if flags.steps < 1:
        raise UserError(f"--steps={flags.steps} must be 1 or more.")
    if flags.profile:
        check_place("--profile", flags.profile)
    if flags.json:
        folder = flags.json.absolute().parent
        if not folder.is_dir():
            raise UserError(
                f"--json={flags.json}: there is no folder {flags.json.parent}; make it."
            )
        if flags.json.is_dir():
            raise UserError(f"--json={flags.json} is a folder: name a file in it.")
        check_place("--json", folder)


def _measure(flags: argparse.Namespace, config: Any) -> dict[str, Any]:
    import jax

    from eln_jax.benchmarks import compilation, evaluation, step
    from eln_jax.training import assembly, sharding
    from eln_jax.training.networks import make_networks
    from eln_jax.training.programs import make_programs

    subjects = SUBJECTS if flags.what == "all" else (flags.what,)
    phases = (flags.phase,) if flags.phase else PHASES
    with config.unlocked():  # weights change no time, and need not be there
        config.model.pretrained = config.model.eln_pretrained = ""
    mesh = sharding.make_mesh()
    if not flags.topology:
        assembly.check_batches(config, mesh)
    report = {
        "what": flags.what,
        "config": flags.config,
        "devices": [device.device_kind for device in jax.devices()],
        "processor": _processor(),
        "dtype": config.dtype,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("jax", "flax", "grain", "pillow", "numpy")},
        "crop_size": list(config.crop_size),
        "batch_size": [config.batch_size_labeled, config.batch_size_unlabeled],
    }
    if flags.topology:
        from eln_jax.benchmarks import topology

        del report["processor"]
        report |= topology.compile_for(flags.topology, config, phases, _say)
        return report
    if "data" in subjects:
        report |= _measure_data(flags, config)
    if subjects == ("data",):
        return report
    # Classes weigh something whatever they weigh: equal ones take the same time.
    programs = make_programs(config, make_networks(config), mesh, (1.0,) * config.data.num_classes)
    if "step" in subjects:
        report["step"] = step.measure_steps(
            config, programs, phases, flags.steps, _say, flags.profile
        )
    if "compile" in subjects:
        report["compile"] = compilation.measure_compilation(config, programs, phases, _say)
    if "eval" in subjects:
        report["eval"] = evaluation.measure_evaluation(config, programs, _say)
    return report


def _measure_data(flags: argparse.Namespace, config: Any) -> dict[str, Any]:
    import jax

    from eln_jax.benchmarks import data, waiting
    from eln_jax.training import assembly, inputs

    steps = flags.train_steps
    if steps is None:
        steps = 0 if jax.default_backend() == "cpu" else STEPS
    _say(f"Timing the streams of {flags.config}, {flags.seconds:g} s each ...")
    report = {"workers": config.data.workers, "threads": config.data.threads}
    report |= data.measure_data(inputs.make_inputs(config), config, flags.seconds)
    if steps:
        _say(f"Compiling, and timing {2 * steps} training steps; --train_steps=0 leaves it out ...")
        report["training"] = waiting.measure_waiting(assembly.build(config), steps)
    return report


def _processor() -> str:
    """The CPU's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.processor()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    command_line.run(main)
