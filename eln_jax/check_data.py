"""Checks a data set: `python -m eln_jax.check_data --config=configs/folder.py --output=report`."""

import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from eln_jax import command_line, configuration
from eln_jax.output import check_place, room_for

DESCRIPTION = """\
Reads everything that a training with this configuration would read, every image and the masks of
labelled and validation images (never those of unlabelled ones), and says what is wrong with it and
what to do: files that cannot be read, masks that do not fit their image, labels that are no class,
missing and doubled files, pictures that are both trained and scored on, classes without a label.

Nothing of the data set is changed. Into --output go
  data_report.html  the findings with pictures; a single file, opens in any browser
  data_report.json  the same for programs: counts, sizes, classes, and a row a fault
"""
EXAMPLES = """\
exit codes:
  0  no errors; there may be warnings, which are worth a look
  1  errors: what a training would stop at, leave out, or be flattered by
  2  a mistake in the command or the configuration, told in one sentence
  3  no room for the report

examples:
  your own images, before the first training
    python -m eln_jax.check_data --config=configs/folder.py --config.data.root=my_images \\
        --config.data.val_fraction=0.2 --output=report
  a public data set with a partition
    python -m eln_jax.check_data --config=configs/voc.py --config.data.root=VOC \\
        --config.data.partition=ssl_eln/voc/8_labeled_0
  in a script: train only on data without errors
    python -m eln_jax.check_data --config=my.py && python -m eln_jax.main --config=my.py ...

"""


def main(argv: Sequence[str]) -> int:
    """Parses the flags, examines the data and writes the report.

    Args:
        argv: arguments without the program's name.

    Returns:
        Exit code: 0, or 1 if there are errors.

    Raises:
        UserError: nothing can be examined.
    """
    rest, overrides = command_line.split_overrides(argv)
    parser = command_line.make_parser(
        "check_data", DESCRIPTION, EXAMPLES + command_line.CONFIG_HELP
    )
    command_line.add_config_flag(parser)
    parser.add_argument(
        "--output",
        type=command_line.path,
        default=Path("data_report"),
        help="folder for the report, made if absent (default: data_report)",
    )
    flags = parser.parse_args(rest)
    check_place("--output", flags.output)
    config: Any = configuration.load(flags.config, overrides)

    # Some of these take seconds to import: after the flags have been understood.
    from eln_jax.data.doctor.examination import examine
    from eln_jax.data.doctor.faults import Fault
    from eln_jax.data.doctor.page import make_page
    from eln_jax.data.doctor.report import classes_table, parts_table, print_faults
    from eln_jax.data.progress import Progress
    from eln_jax.evaluation.panels import make_palette
    from eln_jax.training import checkup, opening
    from eln_jax.training.logging import duration, print_table

    console = Console(highlight=False)
    start = time.monotonic()
    odd: list[Fault] = []
    find = functools.partial(checkup.find_classes, faults=odd)
    if found := configuration.complete(config, find):
        console.print(found, markup=False, soft_wrap=True)
    train, val, partition, faults = checkup.open_all(config.data)
    with room_for(flags.output):
        flags.output.mkdir(parents=True, exist_ok=True)
    images = sum(map(len, partition))
    with Progress(duration, console) as progress:
        progress.start("Reading", images, "images")
        report = examine(
            train,
            val,
            partition,
            opening.cut_size(config),
            found=[*odd, *faults],
            progress=progress.update,
        )
    page = make_page(
        report,
        train,
        val,
        partition,
        palette=make_palette(train.num_classes),
        title=f"Data of {flags.config}",
        root=config.data.root,
    )
    written = {"data_report.html": page, "data_report.json": report.to_json()}
    with room_for(flags.output):
        for name, text in written.items():
            (flags.output / name).write_text(text, encoding="utf-8")

    print_table(parts_table(report), console)
    print_table(classes_table(report), console)
    print_faults(report, console, config.data.root)
    console.print(
        f"{images} images in {duration(time.monotonic() - start)}: "
        f"{report.count_words(('error', 'warning'))}. "
        f"Report: {' and '.join(str(flags.output / name) for name in written)}",
        markup=False,
        soft_wrap=True,
    )
    return report.exit_code


if __name__ == "__main__":
    command_line.run(main)
