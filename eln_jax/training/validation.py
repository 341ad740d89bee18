"""Evaluation during training: student and teacher on the validation images, and what one sees."""

import functools
import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from eln_jax.data.pipeline import read_examples
from eln_jax.evaluation.calibrated import Calibration
from eln_jax.evaluation.findings import Collector, header
from eln_jax.evaluation.inference import Predictor
from eln_jax.evaluation.kept_classes import lost_words
from eln_jax.evaluation.panels import draw_panels, make_palette, panel_row
from eln_jax.evaluation.scoring import evaluate
from eln_jax.method.state import TrainState, student_variables
from eln_jax.training import processes
from eln_jax.training.assembly import Parts
from eln_jax.training.bookkeeping import eln_has_learned
from eln_jax.training.gate_fitting import evaluation_gate, gate_calibration
from eln_jax.training.interruption import StopRequest
from eln_jax.training.logging import MetricsLogger, NoLogger, Progress
from eln_jax.training.sharding import local_copy, local_mesh, round_up, split

LAST_EVALUATION = "last_evaluation"  # folder in the workdir, of the run's last evaluation


def validate(
    parts: Parts,
    state: TrainState,
    phase: str,
    workdir: Path,
    logger: MetricsLogger | NoLogger,
    stop: StopRequest,
    display: Progress,
) -> dict[str, Any] | None:
    """Scores the networks that the phase has trained.

    The ELN, once there is one, judges the teacher's predictions, or the student's before there is
    a teacher: `eln/auroc`, `max_prob/auroc`, `pseudo_label/kept` and their like speak of those.

    Args:
        parts: of the run.
        state: to be judged.
        phase: the phase that the state has reached.
        workdir: pictures go to its `panels` folder, the last evaluation to `last_evaluation`.
        logger: pictures go to TensorBoard as well.
        stop: polled; an evaluation that is stopped is given up.
        display: where progress is shown.

    Returns:
        Figures by metric key, None where one is undefined; None for all if stopped. The same in
        every process: each judges its share of the images.
    """
    config, data = parts.config, parts.data
    step = int(state.step)
    with_eln = phase != "supervised" and eln_has_learned(config, step)
    judged = "teacher" if phase == "semi_supervised" else "student"
    gate = None
    if phase != "supervised":
        gate = evaluation_gate(config.method, _fitted(state, judged))
    figures = {}
    # Of the run's last evaluation more is kept than figures, for the report.
    is_last = step == sum(config.steps.values())
    for name in ("student", "teacher") if judged == "teacher" else ("student",):
        predictor = make_predictor(parts, state, name, with_eln=with_eln and name == judged)
        collector = Collector(config.data.ignore_label) if is_last and name == judged else None
        result = evaluate(
            predictor,
            read_examples(data.val, processes.share_of(validated(parts))),
            config.data.num_classes,
            config.data.ignore_label,
            gate if name == judged else None,
            should_stop=lambda: stop.signal is not None,
            progress=lambda done, name=name: display.status(f"evaluating the {name}: {done}"),
            on_image=None if collector is None else collector.add,
        )
        found = processes.gather((result, collector, stop.signal))
        results, collectors, signals = zip(*found, strict=True)
        if None in results:
            stop.agree_on(signals)
            return None
        result = functools.reduce(operator.add, results)
        segmentation = result.segmentation_figures(data.train.class_names)
        figures |= {f"{name}/{key}": value for key, value in segmentation.items()}
        if name == judged:
            names = data.train.class_names
            figures |= result.detection_figures() | result.pseudo_label_figures(names)
        if collector is not None and processes.is_first():
            collector = Collector.merged(collectors)
            head = header(
                predictor,
                network=name,
                step=step,
                split="val",
                images=result.num_images,
                class_names=names,
            )
            try:
                collector.write(workdir / LAST_EVALUATION, head, result.figures(names), result)
            except OSError as error:  # a full disk must not cost the figures
                display.message(f"The images' results are not kept for the report: {error}.")
    if processes.is_first():
        _draw(parts, state, judged, predictor, gate, workdir, logger)
    return {k: None if np.isnan(v) else v for k, v in figures.items()}


def headline(figures: dict[str, Any]) -> str:
    """The figures that one wants to see go by."""
    words = {
        "student/mean_iou": "mean IoU of the student",
        "teacher/mean_iou": "of the teacher",
        "max_prob/auroc": "AUROC of max. probability",
        "eln/auroc": "of the ELN",
        "pseudo_label/kept": "pseudo-labels kept",
        "pseudo_label/accuracy": "right of those",
    }
    shown = [f"{w} {100 * figures[k]:.1f}" for k, w in words.items() if figures.get(k) is not None]
    return "; ".join(filter(None, (", ".join(shown) + " (%)", lost_words(figures))))


def make_predictor(
    parts: Parts,
    state: TrainState,
    name: str,
    *,
    with_eln: bool,
    calibration: Calibration | None = None,
) -> Predictor:
    """The student or the teacher as evaluation uses it, with the ELN's judgement if asked.

    And with what the gate was fitted to, if no other calibration is given.
    """
    config = parts.config
    mesh = parts.programs.mesh
    variables = {"network": student_variables(state) if name == "student" else state.teacher}
    fitted = local_copy(_fitted(state, name), mesh)
    calibration = calibration or gate_calibration(config.method, fitted)
    if with_eln:
        variables["eln"] = {"params": state.params["eln"], "batch_stats": state.batch_stats["eln"]}
    return Predictor(
        calibration=calibration,
        network=parts.evaluation.network_with_eln if with_eln else parts.evaluation.network,
        variables=local_copy(variables, mesh),
        batch_size=round_up(config.eval.batch_size, local_mesh(mesh)),
        pad_offset=config.crop_size[0] % 8,  # 0 or 1, as the network's maps were in training
        fill=parts.evaluation.padding_colour,
        warp_size=tuple(config.crop_size) if config.eval.protocol == "warp" else None,
        sharding=split(local_mesh(mesh)),
    )


def validated(parts: Parts) -> Sequence[int]:
    """Indices of the validation images, as many as the config allows."""
    return parts.data.partition.val[: parts.config.eval.max_images or None]


def _fitted(state: TrainState, network: str) -> Mapping[str, Any]:
    """What a gate was fitted to: predictions of the teacher, once there is one."""
    return state.gate if network == "teacher" else {}


def _draw(parts, state, judged, predictor, gate, workdir, logger) -> None:
    """Draws the first validation images with prediction, error map and kept pseudo-labels."""
    config = parts.config
    if not config.log.panel_images:
        return
    step = int(state.step)
    palette, rows = make_palette(config.data.num_classes), []
    shown = parts.data.partition.val[: config.log.panel_images]
    for example, maps in predictor.stream(read_examples(parts.data.val, shown)):
        image = predictor.warp_image(example["image"])
        label = predictor.warp_label(example["label"])
        kept = None
        if gate is not None:
            kept = gate(maps, label) > 0.5
        rows.append(
            panel_row(image, label, maps.prediction, maps.p_right, kept, palette, example["id"])
        )
    picture = draw_panels(rows, palette, parts.data.train.class_names)
    path = workdir / "panels" / f"{judged}_{step:06d}.png"
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(picture).save(path, optimize=True)
    logger.images(step, {f"panels/{judged}": picture})
