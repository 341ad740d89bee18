"""Compares arms over seeds: `python -m eln_jax.study --config=configs/study_camvid.py ...`."""

import dataclasses
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eln_jax import command_line
from eln_jax.errors import UserError
from eln_jax.output import check_place, room_for

DESCRIPTION = """\
Trains the same configuration in several arms (such as gates) and over several seeds, side by side.
The first two phases run once a seed; the third begins from that checkpoint in every arm, so that
arms differ in what they override alone. An arm that overrides what an earlier phase reads (such as
how the ELN is trained) gets that phase to itself. Stopped by Ctrl-C or a crash, the same command
goes on; what is finished is not done again. An arm that diverges is left out and named, and the
other arms go on. A run whose folder is deleted is trained anew.

Into --output go
  results.md        tables of all that is finished: mean IoU, pseudo-labels kept and right of each
                    class, detectors of wrong pixels; mean and deviation over seeds, differences
                    seed by seed
  results.json      the same figures and all others, as plain values
  *.png             mean IoU by arm, risk over coverage by detector, pseudo-labels by class
  seed_S/ARM        the training of each arm, a normal --workdir; seed_S/trunks: what they share
"""
EXAMPLES = """\
a study's file has a get_config() that returns a dictionary:
  config     the configuration to start from, beside the file
  overrides  {field: value} of all arms; in texts {seed} and {root} (data.root) are filled in
  arms       {name: {field: value}}
  seeds      (0, 1, 2)
  reference  the arm that the others are compared with

examples:
  python -m eln_jax.study --config=configs/study_synthetic.py --output=runs/study
  what would be trained, one seed alone, some of the arms
    python -m eln_jax.study --config=configs/study_camvid.py --output=runs/study_camvid \\
        --config.data.root=CAMVID --seeds=0 --arms=none,eln --plan
  which score finds the wrong pixels, with the ELN of the paper and with one of a second opinion
    python -m eln_jax.study --config=configs/study_camvid.py --output=runs/study_camvid \\
        --config.data.root=CAMVID --arms=eln,opinion --detectors_only

"""


def main(argv: Sequence[str]) -> int:
    """Parses the flags, trains what is missing and writes the results.

    Args:
        argv: arguments without the program's name.

    Returns:
        Exit code: 0, or 128 + the signal's number if it was asked to stop, and saved; 2 if an arm
        has diverged.

    Raises:
        UserError: the study, a field or the data cannot be used.
    """
    rest, overrides = command_line.split_overrides(argv)
    parser = command_line.make_parser("study", DESCRIPTION, EXAMPLES + command_line.CONFIG_HELP)
    command_line.add_config_flag(parser, "study")
    parser.add_argument(
        "--output", required=True, type=command_line.path, help="folder; made if absent"
    )
    parser.add_argument("--seeds", metavar="S,S,...", help="these instead of the file's")
    parser.add_argument("--arms", metavar="A,A,...", help="these arms alone")
    parser.add_argument(
        "--detectors_only",
        action="store_true",
        help="train what arms share alone, and compare how well each score finds wrong pixels",
    )
    parser.add_argument(
        "--previous_if_damaged",
        action="store_true",
        help="if the latest checkpoint of a training is damaged, set it aside and go on from the "
        "newest whole one, instead of saying so and stopping",
    )
    parser.add_argument("--plan", action="store_true", help="list the trainings, and do nothing")
    flags = parser.parse_args(rest)
    if not flags.plan:
        check_place("--output", flags.output)
    arms = None if flags.arms is None else flags.arms.split(",")

    from eln_jax.studies import (
        plan,
        study_file,
    )  # imports jax: after the flags have been understood

    study = study_file.load_study(flags.config)
    seeds = _seeds(flags.seeds) or study.seeds
    # The tables are of all that the folder holds, not of what this command trains alone.
    every_seed = dict.fromkeys((*study.seeds, *seeds, *_seeds_in(flags.output)))
    whole = dataclasses.replace(study, seeds=tuple(every_seed))
    all_runs = plan.make_runs(whole, overrides)
    runs = plan.choose(all_runs, seeds, arms or tuple(study.arms))
    if flags.detectors_only:
        runs = plan.without_arms(runs)
    if flags.plan:
        _show_plan(runs)
        return 0

    from eln_jax.studies import plots, results, running, tables

    with room_for(flags.output):
        flags.output.mkdir(parents=True, exist_ok=True)
        running.check_same(all_runs, runs, flags.output)
        outcome = running.train_runs(
            runs, flags.output, previous_if_damaged=flags.previous_if_damaged
        )
        found = results.collect(whole, all_runs, flags.output)
        drawn = plots.draw(found, flags.output)
        command = shlex.join(["python", "-m", "eln_jax.study", *argv])
        tables_path = tables.write(found, flags.output, command, drawn)
        results_path = results.write(found, flags.output)
    if outcome.exit_code:
        print(f"Stopped; the same command goes on. So far: {tables_path}")
        return outcome.exit_code
    print(tables_path.read_text(encoding="utf-8"))
    print(f"Results: {tables_path}, {results_path}")
    print(f"Plots: {', '.join(str(path) for path in drawn)}")
    if outcome.left_out:
        raise UserError(f"The tables lack what has diverged: {' '.join(outcome.left_out)}")
    return 0


def _seeds(text: str | None) -> list[int] | None:
    if text is None:
        return None
    if not all(part.isdecimal() for part in text.split(",")):
        raise UserError(f"--seeds={text}: give whole numbers with commas, as 0,1,2.")
    return [int(part) for part in text.split(",")]


def _seeds_in(output: Path) -> list[int]:
    """The seeds that an earlier command, maybe with other --seeds, has trained in a folder."""
    names = sorted(path.name for path in output.glob("seed_*"))
    return [int(name[5:]) for name in names if re.fullmatch(r"seed_(0|[1-9]\d*)", name)]


def _show_plan(runs: Sequence[Any]) -> None:
    total: dict[str, int] = {}
    for run in runs:
        steps = ", ".join(f"{count} {name}" for name, count in run.steps.items())
        origin = f", from {run.parent.folder}" if run.parent else ""
        print(f"{run.folder}: steps: {steps}{origin}")
        for name, count in run.steps.items():
            total[name] = total.get(name, 0) + count
    words = ", ".join(f"{count:,} {name}" for name, count in total.items())
    print(f"{len(runs)} trainings; steps in all: {words}.")


if __name__ == "__main__":
    command_line.run(main)
