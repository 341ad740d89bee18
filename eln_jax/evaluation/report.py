"""The report of a run or of an evaluation as one page that needs nothing beside itself.

What was not measured has no section.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from eln_jax.data.labels import color_text
from eln_jax.evaluation import curves
from eln_jax.evaluation.assessment import DETECTORS
from eln_jax.evaluation.findings import Findings
from eln_jax.evaluation.line_charts import Line, Span, color_legend, line_chart
from eln_jax.evaluation.panels import VOID_COLOR, panel_row
from eln_jax.html_page import data_url, escape, figure, make_document, swatch, table

_SHOWN = 3  # images of each kind: best, worst, most improved
_COLORS = {
    curves.BLUE: "blue",
    curves.ORANGE: "orange",
    curves.GREEN: "green",
    curves.PINK: "pink",
    curves.SKY: "sky",
}
_DETECTOR_COLORS = {"eln": "orange", "max_prob": "blue", "entropy": "green", "margin": "pink"}
_DETECTOR_FIGURES = ("auroc", "aupr", "risk_coverage_area")
_CURVES = (
    ("Losses", "train", curves.LOSSES, 1),
    ("Mean IoU, %", "val", curves.IOUS, 100),
    ("Finding errors: AUROC, %", "val", curves.DETECTORS, 100),
    ("Pseudo-labels, % of validation pixels", "val", curves.PSEUDO_LABELS, 100),
)
_PICTURES = {
    "image": "image",
    "label": "truth",
    "prediction": "prediction",
    "before": "supervised only",
    "wrong": "wrong pixels",
    "p_wrong": "ELN: P(wrong)",
}
# From this share on the cell of a confusion matrix is too dark for dark letters.
_DARK_CELL = 0.75


class Subject(NamedTuple):
    """What was judged.

    Attributes:
        figures: with the keys of `metrics.jsonl`: NETWORK/mean_iou, NETWORK/iou/CLASS, eln/auroc.
        findings: of the network that the ELN judges, its confusion matrix and images; None if they
            were not kept.
    """

    figures: Mapping[str, Any]
    findings: Findings | None

    @property
    def networks(self) -> list[str]:
        """The networks that have figures, the judged one last."""
        return [name for name in ("student", "teacher") if f"{name}/mean_iou" in self.figures]


def make_report(
    title: str,
    subject: Subject,
    alone: Subject | None,
    *,
    words: str,
    time: str,
    class_names: Sequence[str],
    palette: np.ndarray,
    rows: Sequence[curves.Row],
    facts: Sequence[tuple[str, str]],
    changes: Sequence[tuple[str, Any, Any]],
    config_json: str,
) -> str:
    """Writes the page.

    Args:
        title: of the page.
        subject: what is reported on.
        alone: its twin that saw the labelled images alone, judged on the same images.
        words: one line under the title, such as on which data.
        time: how long it took, in words; "" leaves it out.
        class_names: one a class.
        palette: uint8 [num_classes, 3], the classes' colours.
        rows: of `metrics.jsonl`, for the curves; may be empty.
        facts: name and value of what else is to be known: device, versions, ...
        changes: (field, default, value) where the configuration is not the default.
        config_json: the configuration as JSON.

    Returns:
        HTML, without a link to anything.
    """
    findings = alone.findings if alone else None
    sections = [
        f'<h1>{escape(title)}</h1><p class="faint">{escape(words)}</p>',
        _tiles(subject, alone, time),
        _curves(rows),
        _class_ious(subject, alone, class_names),
        _confusion(subject, class_names),
        _risk_coverage(subject),
        _images(subject.findings, findings, class_names, palette) if subject.findings else "",
        _phases(rows),
        "<h2>Time, device, versions</h2>" + _facts(facts),
        _config(changes, config_json),
    ]
    return make_document(title, filter(None, sections))


def _tiles(subject: Subject, alone: Subject | None, time: str) -> str:
    before = _mean_iou(alone, alone.networks[-1]) if alone else None
    tiles = []
    for network in subject.networks:
        value = _mean_iou(subject, network)
        more = None if value is None or before is None else 100 * (value - before)
        words = "" if more is None else f"{more:+.1f} points against supervised only"
        tiles.append(_tile(f"mean IoU, {network}", _percent(value), "%", words))
    if alone:
        tiles.append(_tile("mean IoU, supervised only", _percent(before), "%", ""))
    eln, other = (subject.figures.get(f"{name}/auroc") for name in ("eln", "max_prob"))
    if eln is not None:
        words = f"maximum probability {_percent(other)} %"
        tiles.append(_tile("AUROC of errors, ELN", _percent(eln), "%", words))
    if time:
        tiles.append(_tile("wall time", time, "", ""))
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _tile(name: str, number: str, unit: str, words: str) -> str:
    below = f'<span class="faint">{escape(words)}</span>' if words else ""
    return (
        f'<div class="tile">{escape(name)}<b>{escape(number)} <small>{escape(unit)}</small></b>'
        f"{below}</div>"
    )


def _mean_iou(subject: Subject, network: str) -> float | None:
    return subject.figures.get(f"{network}/mean_iou")


def _percent(value: float | None, decimals: int = 1) -> str:
    return "–" if value is None or math.isnan(value) else f"{100 * value:.{decimals}f}"


def _curves(rows: Sequence[curves.Row]) -> str:
    spans = [Span(curves.PHASE_NAMES[name], a, b) for name, a, b in curves.phase_spans(rows)]
    charts = []
    for title, split, keys, scale in _CURVES:
        part = [row for row in rows if row["split"] == split]
        lines = [
            Line(name, _COLORS[color], steps, scale * values)
            for key, (name, color) in keys.items()
            for steps, values in [curves.series(part, key)]
            if steps.size
        ]
        if lines:
            charts.append(
                line_chart(title, lines, x_name="step", spans=spans, log_if_wide=scale == 1)
            )
    return f'<h2>Training</h2><div class="charts">{"".join(charts)}</div>' if charts else ""


def _class_ious(subject: Subject, alone: Subject | None, class_names: Sequence[str]) -> str:
    """Bars of every class, one under the other; the judged network of each side."""
    sides = [("supervised only", "blue", alone)] if alone else []
    network = subject.networks[-1]
    sides.append((f"semi-supervised, {network}" if alone else network, "orange", subject))
    rows = []
    for name in class_names:
        bars = [
            _bar(color, side.figures.get(f"{side.networks[-1]}/iou/{name}"))
            for _, color, side in sides
        ]
        rows.append(f"<div>{escape(name)}</div><div>{''.join(bars)}</div>")
    legend = color_legend([(name, color) for name, color, _ in sides])
    return f'<h2>IoU of each class, %</h2>{legend}<div class="bars">{"".join(rows)}</div>'


def _bar(color: str, value: float | None) -> str:
    # 88 %: the number beside the longest bar has room.
    width = 0.0 if value is None else 88 * value
    look = f"width:{width:.2f}%;background:var(--{color})"
    return f'<div class="bar"><i style="{look}"></i>{_percent(value)}</div>'


def _confusion(subject: Subject, class_names: Sequence[str]) -> str:
    """The share of each true class's pixels that is predicted as each class."""
    if subject.findings is None:
        return ""
    counts = np.array(subject.findings.metrics["confusion_matrix"], np.float64)
    totals = counts.sum(1)
    head = "<th></th>" + "".join(f"<th>{escape(name)}</th>" for name in class_names)
    lines = []
    for true, name in enumerate(class_names):
        if totals[true]:
            shares = counts[true] / totals[true]
            cells = "".join(_cell(share, i == true) for i, share in enumerate(shares))
            lines.append(f"<tr><th>{escape(name)}</th>{cells}</tr>")
    return (
        f"<h2>Confusion matrix of the {subject.networks[-1]}</h2>"
        '<p class="faint">Of the pixels of a row\'s class, the share in % that is predicted as the '
        "column's; below 0.5 % a dot.</p>"
        f'<div class="scroll"><table class="matrix"><tr>{head}</tr>{"".join(lines)}</table></div>'
    )


def _cell(share: float, right: bool) -> str:
    # The root lets small errors be seen.
    rgb, strength = ("0 114 178", share) if right else ("213 94 0", math.sqrt(share))
    ink = ";color:#fff" if right and share > _DARK_CELL else ""
    text = f"{100 * share:.0f}" if share >= 0.005 else "·"
    return f'<td style="background:rgb({rgb}/{strength:.2f}){ink}">{text}</td>'


def _risk_coverage(subject: Subject) -> str:
    points = subject.findings.metrics["risk_coverage"] if subject.findings else {}
    lines = []
    for key, color in _DETECTOR_COLORS.items():
        kept, wrong = (100 * np.array(points.get(name, ())) for name in ("coverage", key))
        if wrong.any():  # a logarithmic scale has no place for coverages without an error
            lines.append(Line(DETECTORS[key], color, kept[wrong > 0], wrong[wrong > 0]))
    if not lines:
        return ""
    heads = ("", "AUROC", "AUPR", "area under curve")
    cells = [
        [name, *(_percent(subject.figures.get(f"{key}/{f}"), 2) for f in _DETECTOR_FIGURES)]
        for key, name in DETECTORS.items()
        if key in points
    ]
    chart = line_chart(
        "Wrong pixels among those kept, %",
        lines,
        x_name="pixels kept, % (the surest first)",
        log_if_wide=True,
    )
    return (
        "<h2>Finding wrong pixels</h2>"
        '<p class="faint">Lower is better: what each score would leave in if only its surest '
        f'pixels were kept.</p><div class="charts">{chart}<div class="wrap">{table(heads, cells)}'
        '<p class="faint">In %; AUROC and AUPR of the wrong pixels, higher is better.</p>'
        "</div></div>"
    )


def _images(
    findings: Findings,
    alone: Findings | None,
    class_names: Sequence[str],
    palette: np.ndarray,
) -> str:
    rows = [row for row in findings.images if row["mean_iou"] is not None]
    groups = [("Worst", rows[:_SHOWN])]
    gains: dict[str, float] = {}
    if alone:
        earlier = {row["id"]: row["mean_iou"] for row in alone.images}
        gains = {
            row["id"]: row["mean_iou"] - earlier[row["id"]]
            for row in rows
            if earlier.get(row["id"]) is not None
        }
        ranked = sorted(
            (r for r in rows if gains.get(r["id"], 0) > 0), key=lambda r: gains[r["id"]]
        )
        groups.insert(0, ("Most improved against supervised only", ranked[::-1][:_SHOWN]))
    if len(rows) > _SHOWN:
        groups.append(("Best", rows[_SHOWN:][::-1][:_SHOWN]))
    parts, classes = [], set()
    for heading, members in groups:
        strips = []
        for row in members:
            image_id = row["id"]
            before = None
            if alone is not None and image_id in alone.thumbnails:
                before = alone.thumbnails[image_id]["prediction"]
            drawn, found = _strip(findings.thumbnails[image_id], before, palette)
            classes |= found
            words = f"{escape(image_id)}: mean IoU {_percent(row['mean_iou'])} %"
            if image_id in gains:
                words += f", {100 * gains[image_id]:+.1f} points"
            strips.append(f"<article><p>{words}</p>{drawn}</article>")
        if strips:
            parts.append(f"<h3>{heading}</h3>{''.join(strips)}")
    shown = [(color_text(palette[i]), class_names[i]) for i in sorted(classes)]
    shown.append((color_text(np.array(VOID_COLOR)), "void"))
    legend = "".join(f"<span>{swatch(color)}{escape(name)}</span>" for color, name in shown)
    words = '<p class="faint">Mean IoU over the classes in truth or prediction of the image.</p>'
    return f'<h2>Images</h2>{words}<div class="legend">{legend}</div>{"".join(parts)}'


def _strip(
    thumbnails: Mapping[str, np.ndarray], before: np.ndarray | None, palette: np.ndarray
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
        earlier = panel_row(thumbnails["image"], None, before, None, None, palette)
        pictures["before"] = earlier.pictures["prediction"]
        classes |= earlier.classes
    figures = [
        figure(data_url(Image.fromarray(pictures[name])), caption)
        for name, caption in _PICTURES.items()
        if name in pictures
    ]
    return f'<div class="strip">{"".join(figures)}</div>', classes


def _phases(rows: Sequence[curves.Row]) -> str:
    """How fast each phase ran, in the middle of its logged rows."""
    cells = []
    for phase, start, end in curves.phase_spans(rows):
        part = [row for row in rows if row["split"] == "train" and row["phase"] == phase]
        values = [
            curves.series(part, key)[1]
            for key in ("seconds_per_step", "images_per_second", "data_wait_share")
        ]
        if all(value.size for value in values):
            step, images, waiting = (float(np.median(value)) for value in values)
            speed = (f"{step:.3g}", f"{images:.3g}", f"{100 * waiting:.0f} %")
            cells.append([curves.PHASE_NAMES[phase], str(end - start), *speed])
    heads = ("phase", "steps", "s/step", "images/s", "waiting for data")
    return f'<h2>Speed</h2><div class="wrap">{table(heads, cells)}</div>' if cells else ""


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    rows = [[escape(name), escape(value)] for name, value in facts]
    return f'<div class="wrap">{table(("", ""), rows)}</div>'


def _config(changes: Sequence[tuple[str, Any, Any]], config_json: str) -> str:
    cells = [[escape(name), escape(old), escape(new)] for name, old, new in changes]
    words = table(("field", "default", "here"), cells) if cells else "<p>All as the defaults.</p>"
    return (
        f'<h2>Configuration</h2><div class="wrap">{words}</div>'
        f"<details><summary>All fields</summary><pre>{escape(config_json)}</pre></details>"
    )
