"""Trains: `python -m eln_jax.main --config=configs/quickstart.py --workdir=runs/quickstart`."""

from collections.abc import Sequence

from eln_jax import command_line, configuration
from eln_jax.errors import StorageError, UserError, is_full
from eln_jax.output import check_place

DESCRIPTION = """\
Trains a segmentation network from few labelled and many unlabelled images, in three phases:
supervised, with the Error Localization Network, and semi-supervised on its trusted pseudo-labels.
Started again on the same --workdir it goes on exactly where it stopped.
"""
EXAMPLES = """\
exit codes: 0 finished, 2 a mistake told in one sentence, 3 the run's folder cannot be written to
(the same command goes on), 130 or 143 stopped and saved; 1 another of several processes has left

examples:
  python -m eln_jax.main --config=configs/quickstart.py --workdir=runs/quickstart
  python -m eln_jax.main --config=configs/folder.py --workdir=runs/mine \\
      --config.data.root=my_images --config.data.val_fraction=0.2

"""


def main(argv: Sequence[str]) -> int:
    """Parses the flags and trains.

    Args:
        argv: arguments without the program's name.

    Returns:
        Exit code: 0, or 128 + the signal's number if it was asked to stop, and saved.
    """
    rest, overrides = command_line.split_overrides(argv)
    parser = command_line.make_parser("main", DESCRIPTION, EXAMPLES + command_line.CONFIG_HELP)
    command_line.add_config_flag(parser)
    parser.add_argument(
        "--workdir",
        required=True,
        type=command_line.path,
        help="folder for checkpoints, metrics.jsonl, pictures and report.html; made if absent; of "
        "several processes all must see it",
    )
    parser.add_argument(
        "--previous_if_damaged",
        action="store_true",
        help="if the latest checkpoint is damaged, set it aside (in checkpoints_damaged) and go on "
        "from the newest whole one, instead of saying so and stopping",
    )
    parser.add_argument(
        "--force_config",
        action="store_true",
        help="go on although fields have changed that change results; config.json keeps the new "
        "ones, config.json.before_step_N the old ones",
    )
    command_line.add_distributed_flag(parser)
    flags = parser.parse_args(rest)
    config = configuration.load(flags.config, overrides)

    # Imports jax: after the flags have been understood.
    from eln_jax.training import processes

    if flags.distributed:
        processes.join()
    with processes.only_the_first_speaks():
        processes.by_the_first(lambda: check_place("--workdir", flags.workdir))
        if found := configuration.complete(config):
            print(found)

        from eln_jax.training import comparison
        from eln_jax.training.workdir import Resume

        resume = Resume(flags.previous_if_damaged, flags.force_config)
        try:
            return comparison.train_all(
                config, configuration.to_json(config), flags.workdir, resume
            )
        except OSError as error:  # a disk that is full, or a mount that has gone
            kind = StorageError if is_full(error) else UserError
            raise kind(
                f"{command_line.sentence_of(error)}; once that can be used, the same command goes "
                "on from the last checkpoint."
            ) from error


if __name__ == "__main__":
    command_line.run(main)
