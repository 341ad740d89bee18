"""Segments images: `python -m eln_jax.predict --model=runs/mine --input=photos --output=found`."""

import json
from collections.abc import Sequence
from typing import Any

from eln_jax import command_line, configuration
from eln_jax.errors import UserError
from eln_jax.output import check_place, refuse_training, room_for

DESCRIPTION = """\
Segments an image, or every image below a folder, at its original size. Into --output go
  masks/            a PNG an image with a class id a pixel, shown in the classes' colours
  overlays/         the image with the classes painted over it
  errors/           where the ELN thinks that the mask is wrong, from dark (right) to bright (wrong)
  predictions.html  the overlays and error maps on one page, the probably worst image first
  predictions.json  the classes, and a row an image: files, confidence, the share of its pixels that
                    is probably wrong, and how much of it is which class
An earlier prediction there is written over; masks that come from none are not.
An image that cannot be read is told and left out. Masks hold the ids that the training's masks had;
turned pictures (EXIF) are turned upright first.
"""
EXAMPLES = """\
exit codes:
  0  all images were segmented
  1  some could not be read
  2  a mistake in the command, told in one sentence
  3  no room for the results; what has been written so far stays

examples:
  python -m eln_jax.predict --model=runs/mine --input=photos --output=found
  which ten images to label next
    python -m eln_jax.predict --model=runs/mine --input=photos --output=found --rank=10
"""


def main(argv: Sequence[str]) -> int:
    """Parses the flags and predicts.

    Args:
        argv: arguments without the program's name.

    Returns:
        Exit code: 0, or 1 if an image could not be read.

    Raises:
        UserError: the model or the input cannot be used.
    """
    parser = command_line.make_parser("predict", DESCRIPTION, EXAMPLES)
    command_line.add_model_flags(parser)
    command_line.add_view_flags(parser)
    parser.add_argument(
        "--input", required=True, type=command_line.path, help="an image, or a folder of images"
    )
    parser.add_argument(
        "--output", required=True, type=command_line.path, help="folder, made if absent"
    )
    parser.add_argument("--batch_size", type=int, default=4, help="images at a time (default: 4)")
    parser.add_argument(
        "--rank",
        type=int,
        nargs="?",
        const=20,
        default=0,
        metavar="N",
        help="list the N images that are worst segmented, by what the model says (default: 20)",
    )
    flags = parser.parse_args(argv)
    if flags.batch_size < 1:
        raise UserError(f"--batch_size={flags.batch_size} must be 1 or more.")
    if flags.rank < 0:
        raise UserError(f"--rank={flags.rank} must not be negative.")
    check_place("--output", flags.output)
    refuse_training(flags.output)
    config: Any = configuration.read_json(flags.model / "config.json")
    views = command_line.read_views(flags, config.crop_size)

    # Imports jax: after the flags have been understood.
    from eln_jax.data.progress import Progress
    from eln_jax.evaluation import prediction_files
    from eln_jax.evaluation.maps import Views
    from eln_jax.evaluation.prediction_page import PAGE, make_page
    from eln_jax.training.logging import duration
    from eln_jax.training.trained_model import classes_json, open_model

    prediction_files.check_output(flags.output)
    files = prediction_files.list_images(flags.input, flags.output)
    model = open_model(flags.model, config, flags.network, flags.checkpoint)
    predictor = model.predictor(min(flags.batch_size, len(files)), views=Views(**views))
    print(f"Segmenting {len(files)} images with the {model.description}.")
    writer = prediction_files.Writer(flags.output, model.palette, config.data.class_ids)
    rows, faults = [], []
    with room_for(flags.output), Progress(duration) as progress:
        prediction_files.begin(flags.output)
        progress.start("Prediction", len(files), "images")
        for example, maps in predictor.stream(prediction_files.read_images(files, faults)):
            rows.append(writer.write(example["id"], example["image"], maps))
            progress.update(len(rows) + len(faults))
    summary = {
        "model": str(flags.model),
        "network": model.name,
        "step": model.step,
        "classes": classes_json(model),
        "predictions": rows,
        "faults": faults,
    }
    by = "P(wrong) of the ELN" if model.has_eln else "1 - maximum probability"
    words = f"{len(rows)} images, segmented by the {model.description}."
    title = f"Predictions: {flags.input.absolute().name}"
    html = make_page(rows, summary["classes"], title=title, words=words, by=by)
    path, page = flags.output / prediction_files.SUMMARY, flags.output / PAGE
    with room_for(flags.output):
        path.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        page.write_text(html, encoding="utf-8", errors="replace")
    for fault in faults:
        print(f"Left out: {fault}")
    if flags.rank:
        _print_rank(rows, flags.rank, by)
    folders = ["masks", "overlays", *(["errors"] if model.has_eln else [])]
    print(f"Results: {page}, {path}, and in {flags.output} the folders {', '.join(folders)}.")
    return 1 if faults else 0


def _print_rank(rows: Sequence[dict[str, Any]], count: int, by: str) -> None:
    """Lists the images with most pixels that are probably wrong, the worst first."""
    print(f"Probably worst segmented, by the mean of {by}, %; label these next:")
    worst = sorted(rows, key=lambda row: -row["predicted_wrong"])[:count]
    width = len(str(len(worst)))
    for place, row in enumerate(worst, start=1):
        name = row["id"].encode(errors="replace").decode()  # names need not be UTF-8
        print(f"  {place:>{width}}  {100 * row['predicted_wrong']:5.1f}  {name}")


if __name__ == "__main__":
    command_line.run(main)
