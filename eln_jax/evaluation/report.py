"""The report of a run or of an evaluation as one page that needs nothing beside itself.

What was not measured has no section.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from eln_jax.evaluation import curves
from eln_jax.evaluation.assessment import DETECTORS, points
from eln_jax.evaluation.confusion_table import confusion_table
from eln_jax.evaluation.findings import Findings
from eln_jax.evaluation.gallery import gallery
from eln_jax.evaluation.kept_classes import KEPT, RIGHT, rejects
from eln_jax.evaluation.line_charts import Line, Span, color_legend, line_chart
from eln_jax.html_page import escape, make_document, table

_COLORS = {
    curves.BLUE: "blue",
    curves.ORANGE: "orange",
    curves.GREEN: "green",
    curves.PINK: "pink",
    curves.SKY: "sky",
    curves.FAINT: "faint",
}
_DETECTOR_COLORS = {"eln": "orange", "max_prob": "blue", "entropy": "green", "margin": "pink"}
_DETECTOR_FIGURES = ("auroc", "aupr", "risk_coverage_area")
_CURVES = (
    ("Losses", "train", curves.LOSSES, 1),
    ("Mean IoU, %", "val", curves.IOUS, 100),
    ("Finding errors: AUROC, %", "val", curves.DETECTORS, 100),
    ("Pseudo-labels, % of validation pixels", "val", curves.PSEUDO_LABELS, 100),
)


class Subject(NamedTuple):
    """What was judged.

    Attributes:
        figures: with the keys of `metrics.jsonl`: NETWORK/mean_iou, NETWORK/iou/CLASS, eln/auroc.
        findings: of the network that the ELN judges, its confusion matrix and images; None if they
            were not kept.
        rows: of the run's `metrics.jsonl`; may be empty.
    """

    figures: Mapping[str, Any]
    findings: Findings | None
    rows: Sequence[curves.Row]

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
    advice: str,
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
        advice: of `kept_classes`; "" if the gate loses no class.
        facts: name and value of what else is to be known: device, versions, ...
        changes: (field, default, value) where the configuration is not the default.
        config_json: the configuration as JSON.

    Returns:
        HTML, without a link to anything.
    """
    sections = [
        f'<h1>{escape(title)}</h1><p class="faint">{escape(words)}</p>',
        _tiles(subject, alone, time),
        _curves(subject, alone),
        _class_ious(subject, alone, class_names),
        _kept(subject.figures, class_names, advice),
        _confusion(subject, class_names),
        _risk_coverage(subject),
        _images(subject, alone, class_names, palette),
        _phases(subject.rows),
        "<h2>Time, device, versions</h2>" + _facts(facts),
        _config(changes, config_json),
    ]
    return make_document(title, filter(None, sections))


def _tiles(subject: Subject, alone: Subject | None, time: str) -> str:
    before = _mean_iou(alone, alone.networks[-1]) if alone else None
    tiles = []
    for network in subject.networks:
        value = _mean_iou(subject, network)
        words = ""
        if value is not None and before is not None:
            words = f"{points(value - before)} against supervised only"
        tiles.append(_tile(f"mean IoU, {network}", _percent(value), "%", words))
    if alone:
        tiles.append(_tile("mean IoU, supervised only", _percent(before), "%", ""))
    eln, other = (subject.figures.get(f"{name}/auroc") for name in ("eln", "max_prob"))
    if eln is not None:
        words = f"maximum probability: {_percent(other)}\N{NO-BREAK SPACE}%"
        tiles.append(_tile("AUROC of errors, ELN", _percent(eln), "%", words))
    if time:
        tiles.append(_tile("wall time", time, "", ""))
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _tile(name: str, number: str, unit: str, words: str) -> str:
    """The number first: numbers side by side stand on one line however long their names are."""
    below = f'<span class="faint">{escape(words)}</span>' if words else ""
    return (
        f'<div class="tile"><b>{escape(number)} <small>{escape(unit)}</small></b>{escape(name)}'
        f"{below}</div>"
    )


def _mean_iou(subject: Subject, network: str) -> float | None:
    return subject.figures.get(f"{network}/mean_iou")


def _percent(value: float | None, decimals: int = 1) -> str:
    return "–" if value is None or math.isnan(value) else f"{100 * value:.{decimals}f}"


def _curves(subject: Subject, alone: Subject | None) -> str:
    rows = subject.rows
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
        if lines and keys is curves.IOUS and alone:
            steps, values = curves.series(alone.rows, "student/mean_iou")
            if steps.size:
                lines.append(Line("supervised only", "green", steps, scale * values))
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


def _kept(figures: Mapping[str, Any], class_names: Sequence[str], advice: str) -> str:
    if not rejects(figures):
        return ""
    rows = [*((name, f"/{name}") for name in class_names), ("all", "")]
    cells = [
        [escape(name), *(_percent(figures.get(f"{key}{end}")) for key in (KEPT, RIGHT))]
        for name, end in rows
    ]
    warning = f'<article class="warning">{escape(advice)}</article>' if advice else ""
    return (
        "<h2>Pseudo-labels of each class</h2>"
        '<p class="faint">What the gate keeps of the pixels predicted as a class in the images '
        f"judged here, and how many of those are right, in %.</p>{warning}"
        f"{table(('predicted class', 'kept', 'right of those'), cells)}"
    )


def _confusion(subject: Subject, class_names: Sequence[str]) -> str:
    counts = subject.findings and subject.findings.metrics.get("confusion_matrix")
    if not counts:
        return ""
    heading = f"<h2>Confusion matrix of the {subject.networks[-1]}</h2>"
    return heading + confusion_table(np.array(counts, np.float64), class_names)


def _risk_coverage(subject: Subject) -> str:
    points = subject.findings.metrics.get("risk_coverage", {}) if subject.findings else {}
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
    subject: Subject, alone: Subject | None, class_names: Sequence[str], palette: np.ndarray
) -> str:
    if subject.findings is None:
        return ""
    before = alone.findings if alone else None
    images = gallery(subject.findings, before, class_names, palette)
    return f"<h2>Images</h2>{images}" if images else ""


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
    heads = ("phase", "steps", "s/step", "images/s", "data wait")
    return f'<h2>Speed</h2><div class="wrap">{table(heads, cells)}</div>' if cells else ""


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    rows = [[escape(name), escape(value)] for name, value in facts]
    return f'<div class="wrap">{table(("", ""), rows)}</div>'


def _config(changes: Sequence[tuple[str, Any, Any]], config_json: str) -> str:
    cells = [[_breakable(name), _breakable(new), _breakable(old)] for name, old, new in changes]
    words = table(("field", "here", "default"), cells) if cells else "<p>All as the defaults.</p>"
    return (
        f'<h2>Configuration</h2><div class="wrap">{words}</div>'
        f"<details><summary>All fields</summary><pre>{escape(config_json)}</pre></details>"
    )


def _breakable(value: object) -> str:
    """The value with places at which a line may end, for narrow columns."""
    text = '""' if value == "" else value
    return re.sub(r"(?<=[._/\\])(?=[^\W\d])", "<wbr>", escape(text))
