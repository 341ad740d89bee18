"""Finds wrong labels: `python -m eln_jax.review_labels --model=runs/mine --output=review`."""

import math
from collections.abc import Sequence
from typing import Any

from eln_jax import command_line, configuration
from eln_jax.errors import UserError
from eln_jax.output import check_place, refuse_training, room_for

DESCRIPTION = """\
Looks through the masks of a data set with a trained model and ranks the regions that are probably
mislabelled: where the model sees another class, is sure of it, and does not often see it where the
masks have that label. Thin seams along outlines are left out, and void is never doubted. No file of
the data set is changed. Into --output go
  review.html   the regions, the worst first: image, mask and suggestion side by side; a single file
  review.json   the same for programs: files, boxes, classes, scores; and a score for each image
A score is the number of pixels that are probably mislabelled, good for ranking only: most of what a
weak model doubts is its own fault. --plant says how far the list is worth reading.
"""
EXAMPLES = """\
examples:
  the masks of the validation images, which the model has never seen
    python -m eln_jax.review_labels --model=runs/mine --output=review
  how many of the first ten would be real? Errors are planted in a quarter of the masks, in memory:
  a component's class swapped, an object dropped, outlines shifted
    python -m eln_jax.review_labels --model=runs/mine --output=trial --plant=0.25
  the labelled images of the training. The model has learned from these masks, wrong ones too, and
  may repeat their errors; those of the images that it used without their masks it has not
    python -m eln_jax.review_labels --model=runs/mine --output=review --split=train
    python -m eln_jax.review_labels --model=runs/mine --output=review --split=unlabeled

On images that the model was trained with their masks, --plant finds more than is there to be found:
the planted errors came after the training.
Fields of the training's configuration can be overridden, those of data and eval with effect, as
with --config.data.root=OTHER.
"""
_PARTS = {"train": "labeled", "unlabeled": "unlabeled", "val": "val"}
_SHOWN = 10


def main(argv: Sequence[str]) -> int:
    """Parses the flags, reviews and writes what was found.

    Args:
        argv: arguments without the program's name.

    Returns:
        Exit code: 0, whatever was found.

    Raises:
        UserError: the model or the data cannot be used.
    """
    rest, overrides = command_line.split_overrides(argv)
    parser = command_line.make_parser("review_labels", DESCRIPTION, EXAMPLES)
    command_line.add_model_flags(parser)
    command_line.add_view_flags(parser)
    parser.add_argument(
        "--output", required=True, type=command_line.path, help="folder, made if absent"
    )
    parser.add_argument(
        "--split",
        choices=tuple(_PARTS),
        default="val",
        help="labelled images of the training, its unlabelled ones (where they have masks after "
        "all), or validation images (default: val)",
    )
    parser.add_argument("--top", type=int, default=50, metavar="N", help="regions (default: 50)")
    parser.add_argument(
        "--plant", type=float, metavar="FRACTION", help="plant errors in that share of the images"
    )
    parser.add_argument("--seed", type=int, default=0, help="of --plant (default: 0)")
    flags = parser.parse_args(rest)
    if flags.top < 1:
        raise UserError(f"--top={flags.top} must be 1 or more.")
    if flags.plant is not None and not 0 < flags.plant < 1:
        raise UserError(f"--plant={flags.plant} must be more than 0 and less than 1.")
    if flags.seed < 0:
        raise UserError(f"--seed={flags.seed} must be 0 or more.")
    check_place("--output", flags.output)
    refuse_training(flags.output)
    path = flags.model / "config.json"
    config: Any = configuration.read_json(path, overrides, needs_data=True)
    views = command_line.read_views(flags, config.crop_size, config.eval.protocol)

    # Imports jax: after the flags have been understood.
    from eln_jax.data.progress import Progress
    from eln_jax.evaluation import review_files
    from eln_jax.evaluation.label_review import review
    from eln_jax.evaluation.maps import Views
    from eln_jax.evaluation.planted_errors import Planting, planted_figures
    from eln_jax.training.images import refuse_learned
    from eln_jax.training.logging import duration, print_table
    from eln_jax.training.opening import with_masks
    from eln_jax.training.trained_model import classes_json, open_model

    model = open_model(flags.model, config, flags.network, flags.checkpoint)
    source, indices = with_masks(config.data, _PARTS[flags.split])
    if flags.split == "val":
        refuse_learned(flags.model, config.data, source, indices)
    flags.output.mkdir(parents=True, exist_ok=True)
    planting = None
    if flags.plant is not None:
        planting = Planting([source.ids[i] for i in indices], flags.plant, flags.seed)
    reader = review_files.Reader(source, indices, planting)
    predictor = model.predictor(config.eval.batch_size, views=Views(**views), doubt_labels=True)
    print(f"Reviewing the masks of {len(indices)} images ({flags.split}): {model.description}.")
    with Progress(duration) as progress:
        progress.start("Review", len(indices), "images")
        found = review(
            predictor,
            reader.read(),
            source.num_classes,
            source.ignore_label,
            progress=progress.update,
        )
    rows = [reader.row(region) for region in found.regions[: flags.top]]
    print_table(review_files.regions_table(rows[:_SHOWN], len(found.regions)))
    figures = planted_figures(found) if planting else {}
    words = review_files.sentences(found, len(rows), figures)
    for sentence in words:
        print(sentence)
    header = {
        "model": str(flags.model),
        "network": model.name,
        "step": model.step,
        "split": flags.split,
        "classes": classes_json(model),
        "planted": {k: None if math.isnan(v) else v for k, v in figures.items()} or None,
    }
    pictures = review_files.draw(found.regions[: flags.top], reader, model.palette)
    with room_for(flags.output):
        paths = review_files.write(
            flags.output, header, rows, found, words, pictures, model.palette
        )
    print(f"Results: {', '.join(map(str, paths))}")
    return 0


if __name__ == "__main__":
    command_line.run(main)
