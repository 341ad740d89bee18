"""The most improved, the worst and the best images, as a section of a page."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from eln_jax.data.labels import color_text
from eln_jax.evaluation.assessment import percent, points
from eln_jax.evaluation.findings import Findings
from eln_jax.evaluation.panels import VOID_COLOR, panel_row
from eln_jax.html_page import data_url, escape, figure, swatch

_SHOWN = 3  # images of each kind
_PICTURES = {
    "image": "image",
    "label": "truth",
    "prediction": "prediction",
    "before": "supervised only",
    "wrong": "wrong pixels",
    "p_wrong": "ELN: P(wrong)",
}


def gallery(
    findings: Findings, alone: Findings | None, class_names: Sequence[str], palette: np.ndarray
) -> str:
    """Shows images with truth, prediction and errors.

    Args:
        findings: of the network that was judged.
        alone: of the supervised-only run on the same images; without it there is no improvement.
        class_names: one a class.
        palette: uint8 [num_classes, 3].

    Returns:
        HTML; empty if no image has a pixel that counts.
    """
    rows = [row for row in findings.images if row["mean_iou"] is not None]  # the worst first
    gains = _gains(rows, alone)
    improved = sorted((r for r in rows if gains.get(r["id"], 0) > 0), key=lambda r: -gains[r["id"]])
    groups = {
        "Most improved against supervised only": improved[:_SHOWN],
        "Worst": rows[:_SHOWN],
        "Best": rows[_SHOWN:][::-1][:_SHOWN],
    }
    parts, classes = [], set()
    for heading, members in groups.items():
        strips = []
        for row in members:
            image_id = row["id"]
            before = alone.thumbnails.get(image_id) if alone else None
            drawn, found = _strip(findings.thumbnails[image_id], before, palette)
            classes |= found
            words = f"{escape(image_id)}: mean IoU {percent(row['mean_iou'])} %"
            if image_id in gains:
                words += f", {points(gains[image_id])}"
            strips.append(f"<article><p>{words}</p>{drawn}</article>")
        if strips:
            parts.append(f"<h3>{heading}</h3>{''.join(strips)}")
    if not parts:
        return ""
    shown = [(color_text(palette[i]), class_names[i]) for i in sorted(classes)]
    shown.append((color_text(np.array(VOID_COLOR)), "void"))
    legend = "".join(f"<span>{swatch(color)}{escape(name)}</span>" for color, name in shown)
    words = '<p class="faint">Mean IoU over the classes in truth or prediction of the image.</p>'
    return f'{words}<div class="legend">{legend}</div>{"".join(parts)}'


def _gains(rows: Sequence[Mapping[str, Any]], alone: Findings | None) -> dict[str, float]:
    """Image id -> how much higher its mean IoU is than that of the supervised-only run."""
    before = {row["id"]: row["mean_iou"] for row in alone.images} if alone else {}
    return {
        row["id"]: row["mean_iou"] - before[row["id"]]
        for row in rows
        if before.get(row["id"]) is not None
    }


def _strip(
    thumbnails: Mapping[str, np.ndarray],
    before: Mapping[str, np.ndarray] | None,
    palette: np.ndarray,
) -> tuple[str, frozenset[int]]:
    """Draws an image's pictures; returns HTML and the classes that occur."""
    p_wrong = thumbnails.get("p_wrong")
    row = panel_row(
        thumbnails["image"],
        thumbnails["label"],
        thumbnails["prediction"],
        None if p_wrong is None else 1.0 - p_wrong / np.float32(255),
        None,
        palette,
    )
    pictures, classes = dict(row.pictures), row.classes
    if before is not None:
        earlier = panel_row(thumbnails["image"], None, before["prediction"], None, None, palette)
        pictures["before"] = earlier.pictures["prediction"]
        classes |= earlier.classes
    figures = [
        figure(data_url(Image.fromarray(pictures[name])), caption)
        for name, caption in _PICTURES.items()
        if name in pictures
    ]
    return f'<div class="strip">{"".join(figures)}</div>', classes
