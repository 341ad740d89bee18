"""Which score finds the wrong pixels: all detectors on the same prediction of the same network."""

import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eln_jax.data.pipeline import read_examples
from eln_jax.data.progress import Progress
from eln_jax.errors import UnreadableFileError
from eln_jax.evaluation import calibrated
from eln_jax.evaluation.detection import accuracy_at_coverage, expected_calibration_error
from eln_jax.evaluation.findings import risk_coverage_points
from eln_jax.evaluation.scoring import evaluate
from eln_jax.method.state import TrainState, student_variables
from eln_jax.output import write_whole
from eln_jax.training import assembly
from eln_jax.training.assembly import Parts
from eln_jax.training.checkpoint import Checkpoints
from eln_jax.training.logging import duration
from eln_jax.training.validation import make_predictor, validated

DETECTORS_FILE = "detectors.json"
COVERAGES = (90, 80, 70, 50)  # percent
_MOST_PIXELS = 20_000  # of the labelled images, to fit to
_PAD_MULTIPLE = 64
_NO_PROBABILITY = ("entropy", "margin")  # scores that are not meant as P(right)


def judge_detectors(config: Any, workdir: Path, step: int) -> None:
    """Compares detectors of the student's errors on val, and writes `detectors.json`.

    What is calibrated is fitted to the student's predictions on the labelled images: never on val.

    Args:
        config: of the run.
        workdir: of the run.
        step: of its checkpoint, at the end of the ELN's phase.
    """
    parts = assembly.build(config)
    checkpoints = Checkpoints(workdir)
    try:
        like = parts.programs.abstract_state()
        state, _ = checkpoints.restore(like, step)
    finally:
        checkpoints.close()
    with Progress(duration) as progress:
        labeled = parts.data.partition.labeled
        progress.start("Detectors are fitted to labelled images", len(labeled), "images")
        pixels = _gather(parts, state, progress)
        calibration = calibrated.fit(pixels)
        predictor = make_predictor(parts, state, "student", with_eln=True, calibration=calibration)
        progress.start("Detectors are compared on val", len(validated(parts)), "images")
        result = evaluate(
            predictor,
            read_examples(parts.data.val, validated(parts)),
            config.data.num_classes,
            config.data.ignore_label,
            progress=progress.update,
        )
    assert result is not None  # nothing asks it to stop
    figures = result.detection_figures()
    for name, histogram in result.histograms.items():
        kept = accuracy_at_coverage(histogram, [c / 100 for c in COVERAGES])
        figures |= {
            f"{name}/accuracy_at_{c}": float(v) for c, v in zip(COVERAGES, kept, strict=True)
        }
        if name not in _NO_PROBABILITY:
            figures[f"{name}/calibration_error"] = expected_calibration_error(histogram)
    found = {
        "step": step,
        "network": "student",
        "images": result.num_images,
        "fitted_to": {"images": len(np.unique(pixels.image)), "pixels": len(pixels.label)},
        "temperature": float(np.asarray(calibration.temperature)),
        "error_rate": 1.0
        - result.segmentation_figures(parts.data.train.class_names)["pixel_accuracy"],
        "figures": {k: None if math.isnan(v) else v for k, v in figures.items()},
        "risk_coverage": risk_coverage_points(result),
    }
    write_whole(workdir / DETECTORS_FILE, (json.dumps(found, indent=2) + "\n").encode())


def _gather(parts: Parts, state: TrainState, progress: Progress) -> calibrated.Pixels:
    """The student's and the ELN's outputs on labelled images, at cells drawn from all of them.

    Images that cannot be read are named and left out, as training has done.
    """
    variables = {
        "network": student_variables(state),
        "eln": {"params": state.params["eln"], "batch_stats": state.batch_stats["eln"]},
    }

    @jax.jit
    def look(image):
        return parts.evaluation.network_with_eln(variables, image)

    fill, void = parts.evaluation.padding_colour, parts.config.data.ignore_label
    offset = parts.config.crop_size[0] % 8
    labeled = parts.data.partition.labeled
    rng = np.random.default_rng(0)
    each = max(1, _MOST_PIXELS // len(labeled))
    found = []
    for number, index in enumerate(labeled):
        try:
            (example,) = read_examples(parts.data.train, [index], num_threads=0)
        except UnreadableFileError as error:
            progress.message(f"Left out: {error}")
            continue
        image, label = _padded(example["image"], example["label"], fill, void, offset)
        logits, eln_logits = look(image[None])
        judged = np.asarray(jax.nn.sigmoid(eln_logits.astype(jnp.float32)))[0]
        cells = logits.shape[1:3]
        truth = _at_cells(label, cells).ravel()
        valid = np.flatnonzero(truth != void)
        chosen = rng.choice(valid, min(each, len(valid)), replace=False)
        found.append(
            (
                np.asarray(logits, np.float32)[0].reshape(-1, logits.shape[-1])[chosen],
                _at_cells(judged, cells).ravel()[chosen],
                truth[chosen],
                np.full(len(chosen), number),
            )
        )
        progress.update(number + 1)
    return calibrated.Pixels(*map(np.concatenate, zip(*found, strict=True)))


def _at_cells(x: np.ndarray, cells: tuple[int, ...]) -> np.ndarray:
    """The values of a map [height, width] nearest to the cells of a grid with the same corners."""
    rows, columns = (
        np.round(np.linspace(0, side - 1, count)).astype(int)
        for side, count in zip(x.shape, cells, strict=True)
    )
    return x[rows][:, columns]


def _padded(
    image: np.ndarray, label: np.ndarray, fill: tuple[int, ...], void: int, offset: int
) -> tuple[np.ndarray, np.ndarray]:
    """Fills an image up at the right and bottom, so that few sizes have to be compiled."""
    more = [(0, -(side - offset) % _PAD_MULTIPLE) for side in label.shape]
    padded = np.empty([s + m for s, (_, m) in zip(label.shape, more, strict=True)] + [3], np.uint8)
    padded[:] = fill
    padded[: label.shape[0], : label.shape[1]] = image
    return padded, np.pad(label, more, constant_values=void)


def read_detectors(workdir: Path) -> dict[str, Any] | None:
    """What `judge_detectors` wrote; None before."""
    path = workdir / DETECTORS_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
