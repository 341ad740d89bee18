"""Judges a trained model: `python -m eln_jax.evaluate --model=runs/quickstart`."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eln_jax import command_line, configuration
from eln_jax.output import check_place, refuse_training, room_for

DESCRIPTION = """\
Predicts the images of a split that have a mask, at their original size, and says how good the
predictions are: IoU, recall and boundary F-score of each class, what the gate keeps of it, and how
well the ELN finds the wrong pixels beside maximum probability, entropy and margin on the same
predictions.

Into --output go
  report.html       all that follows on one page, with the best and the worst images
  metrics.json      all figures, confusion matrix and risk-coverage curves, and what was evaluated
  per_image.jsonl   a row an image, the worst first
  thumbnails.zip    the images' small pictures, for the report
"""
EXAMPLES = """\
examples:
  python -m eln_jax.evaluate --model=runs/camvid
  with several scales and the mirror image, in windows of the training's crop size
    python -m eln_jax.evaluate --model=runs/camvid --tta --sliding
  on other images, warped to the crop size as the authors' code evaluates VOC
    python -m eln_jax.evaluate --model=runs/voc --config.data.root=VOC --config.eval.protocol=warp

Fields of the training's configuration can be overridden, those of data and eval with effect.
"""
_SPLITS = ("val", "labeled", "unlabeled")


def main(argv: Sequence[str]) -> int:
    """Parses the flags, evaluates and writes the figures.

    Args:
        argv: arguments without the program's name.

    Returns:
        Exit code: 0.

    Raises:
        UserError: the model or the data cannot be used.
    """
    rest, overrides = command_line.split_overrides(argv)
    parser = command_line.make_parser("evaluate", DESCRIPTION, EXAMPLES)
    command_line.add_model_flags(parser)
    command_line.add_view_flags(parser)
    parser.add_argument(
        "--split",
        choices=_SPLITS,
        default="val",
        help="validation, labelled or (where they have masks) unlabelled images (default: val)",
    )
    parser.add_argument(
        "--output", type=command_line.path, help="folder (default: MODEL/evaluation/SPLIT)"
    )
    command_line.add_distributed_flag(parser)
    flags = parser.parse_args(rest)
    path = flags.model / "config.json"
    config: Any = configuration.read_json(path, overrides, needs_data=True)
    views = command_line.read_views(flags, config.crop_size, config.eval.protocol)

    # Imports jax: after the flags have been understood.
    from eln_jax.training import processes

    if flags.distributed:
        processes.join()
    with processes.only_the_first_speaks():
        _evaluate(flags, config, views)
    return 0


def _evaluate(flags: argparse.Namespace, config: Any, views: dict[str, Any]) -> None:
    from eln_jax.config_checks import asks_eln
    from eln_jax.data.pipeline import read_examples
    from eln_jax.data.progress import Progress
    from eln_jax.evaluation import findings
    from eln_jax.evaluation.assessment import assess, class_table, detection_table
    from eln_jax.evaluation.kept_classes import advice
    from eln_jax.evaluation.maps import Views
    from eln_jax.training import processes
    from eln_jax.training.gate_fitting import evaluation_gate
    from eln_jax.training.images import refuse_learned
    from eln_jax.training.logging import duration, print_table
    from eln_jax.training.opening import with_masks
    from eln_jax.training.reporting import REPORT, report_or_reason, write_evaluation_report
    from eln_jax.training.trained_model import open_model

    output = flags.output or flags.model / "evaluation" / flags.split
    processes.by_the_first(lambda: check_place("--output", output))
    processes.by_the_first(lambda: refuse_training(output))
    model = open_model(flags.model, config, flags.network, flags.checkpoint)
    source, indices = with_masks(config.data, flags.split)
    if flags.split == "val":
        refuse_learned(flags.model, config.data, source, indices)
        indices = indices[: config.eval.max_images or None]
    if processes.is_first():
        output.mkdir(parents=True, exist_ok=True)
    share = processes.share_of(indices)
    predictor = model.predictor(
        config.eval.batch_size,
        views=Views(**views),
        warp=config.eval.protocol == "warp",
        with_gate=True,
    )
    gate = evaluation_gate(config.method, model.gate)
    if gate is None:
        print(
            f"What method.gate={config.method.gate} keeps is not shown: it is fitted in the third "
            "phase, to the teacher, and this model is another."
        )
    elif not model.has_eln and (model.name == "student" or asks_eln(config.method)):
        gate = None
    print(f"Evaluating the {model.description}, on {len(indices)} images ({flags.split}).")
    if len(share) < len(indices):
        print(f"This is one of several processes, with {len(share)} of the images.")
    started = time.monotonic()
    with Progress(duration) as progress:
        progress.start("Evaluation", len(share), "images")
        assessment = assess(
            predictor,
            read_examples(source, share),
            model.class_names,
            config.data.ignore_label,
            gate,
            progress=progress.update,
            gather=processes.gather,
        )
    if not processes.is_first():
        return
    print_table(class_table(assessment))
    print_table(detection_table(assessment))
    if words := advice(assessment.figures, config.method):
        print(words)
    head = {"model": str(flags.model)} | findings.header(
        predictor,
        network=model.name,
        step=model.step,
        split=flags.split,
        images=len(indices),
        class_names=model.class_names,
    )
    with room_for(output):
        assessment.collector.write(output, head, assessment.figures, assessment.result)
    print(f"Results: {output / findings.METRICS}, {output / findings.PER_IMAGE}")
    seconds = time.monotonic() - started

    def write_report() -> Path:
        with room_for(output / REPORT):
            return write_evaluation_report(
                output, flags.model, model, seconds, configuration.to_json(config)
            )

    print(f"Report: {report_or_reason(write_report)}")


if __name__ == "__main__":
    command_line.run(main)
