"""Curves of a run, drawn from the rows of its `metrics.jsonl`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from eln_jax.errors import UserError

Row = Mapping[str, Any]

INK, FAINT, GRID = "#2b2d33", "#7c7f88", "#e7e8ec"
# Okabe and Ito's colours: told apart by colour-blind readers too.
BLUE, ORANGE, GREEN, PINK, SKY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9"
PHASE_SHADES = {"supervised": "#f6f7f9", "eln": "#eef4fb", "semi_supervised": "#fdf4ea"}
PHASE_NAMES = {"supervised": "supervised", "eln": "ELN", "semi_supervised": "semi-supervised"}

LOSSES = {
    "supervised_loss": ("supervised", BLUE),
    "aux_loss": ("auxiliary", SKY),
    "eln_loss": ("ELN", ORANGE),
    "opinion_loss": ("second opinion", FAINT),
    "pseudo_label_loss": ("pseudo-labels", GREEN),
    "contrastive_loss": ("contrast", PINK),
}
IOUS = {"student/mean_iou": ("student", BLUE), "teacher/mean_iou": ("teacher", ORANGE)}
DETECTORS = {"eln/auroc": ("ELN", ORANGE), "max_prob/auroc": ("max. probability", BLUE)}
PSEUDO_LABELS = {
    "pseudo_label/kept": ("kept by the gate", BLUE),
    "pseudo_label/accuracy": ("right, of those kept", GREEN),
}


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Reads the rows of a `metrics.jsonl`.

    A last line that a killed run left unfinished is left out.

    Raises:
        UserError: another line is no row.
    """
    rows = []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, start=1):
        row = _parsed(line)
        if row is not None:
            rows.append(row)
        elif number < len(lines):
            raise UserError(
                f"Line {number} of {path} is not a row of metrics: move the file away or give "
                "another workdir."
            )
    return rows


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None
    is_row = isinstance(row, dict) and row.keys() >= {"step", "phase", "split"}
    return row if is_row else None


def write_curves(path: Path, rows: Sequence[Row]) -> None:
    """Draws losses, mean IoU, error detection and pseudo-labels over the steps into a PNG.

    The phases are shaded. A figure that no row holds is left out; a plot without any says so.

    Args:
        path: the PNG to write.
        rows: rows of `metrics.jsonl`, with `step`, `phase`, `split` ("train" or "val") and figures.
    """
    layout = ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.15, wspace=0.03, hspace=0.03)
    figure = Figure(figsize=(11.5, 7.6), dpi=120, facecolor="white", layout=layout)
    FigureCanvasAgg(figure)
    (losses, ious), (detectors, pseudo_labels) = figure.subplots(2, 2)
    train = [row for row in rows if row["split"] == "train"]
    val = [row for row in rows if row["split"] == "val"]
    _plot(losses, "Losses", train, LOSSES, rows)
    _plot(ious, "Mean IoU, %", val, IOUS, rows, percent=True)
    _plot(detectors, "Finding errors: AUROC, %", val, DETECTORS, rows, percent=True)
    _plot(pseudo_labels, "Pseudo-labels, % of pixels", val, PSEUDO_LABELS, rows, percent=True)
    figure.savefig(path, format="png")


def _plot(
    axes: Axes,
    title: str,
    rows: Sequence[Row],
    lines: Mapping[str, tuple[str, str]],
    all_rows: Sequence[Row],
    *,
    percent: bool = False,
) -> None:
    _style(axes, title)
    _shade_phases(axes, all_rows)
    drawn = [
        _line(axes, *points, label=label, color=color, percent=percent)
        for key, (label, color) in lines.items()
        if (points := series(rows, key))[0].size
    ]
    if not drawn:
        axes.text(
            0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=FAINT, size=10
        )
        axes.set_yticks([])
        return
    if not percent:
        _log_scale_if_wide(axes, np.concatenate(drawn))
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(-0.01, -0.14),
        ncols=len(drawn),
        fontsize=9,
        labelcolor=INK,
        frameon=False,
        handlelength=1.0,
        columnspacing=1.1,
        borderaxespad=0,
    )


def series(rows: Sequence[Row], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns steps and values, float64 [points], of the rows in which a figure is defined."""
    points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
    steps, values = np.array(points, np.float64).reshape(-1, 2).T
    return steps, values


def _line(
    axes: Axes, steps: np.ndarray, values: np.ndarray, *, label: str, color: str, percent: bool
) -> np.ndarray:
    values = 100 * values if percent else values
    if len(values) > 60:  # the raw values pale, their running mean on top
        axes.plot(steps, values, color=color, alpha=0.22, linewidth=0.8)
        axes.plot(steps, running_mean(values), color=color, linewidth=1.8, label=label)
    else:
        marker = "o" if len(values) <= 30 else ""
        axes.plot(
            steps, values, color=color, linewidth=1.8, marker=marker, markersize=4, label=label
        )
    return values


def running_mean(values: np.ndarray) -> np.ndarray:
    """Centred mean over about a thirtieth of the points, over fewer near the ends."""
    half = max(1, len(values) // 60)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    first, last = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return (sums[last] - sums[first]) / (last - first)


def _log_scale_if_wide(axes: Axes, values: np.ndarray) -> None:
    if values.min() > 0 and values.max() / values.min() > 20:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())


def _style(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=12, color=INK, fontweight="bold", pad=20)
    axes.set_xlabel("step", color=FAINT, fontsize=9)
    axes.tick_params(colors=FAINT, labelsize=9, length=0)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#c9cbd1")


def _shade_phases(axes: Axes, rows: Sequence[Row]) -> None:
    """Shades each phase from the end of the one before to its own last row.

    A phase too short for its name has none.
    """
    spans = phase_spans(rows)
    total = spans[-1][2] if spans else 0
    for phase, start, end in spans:
        axes.axvspan(start, end, color=PHASE_SHADES[phase], linewidth=0, zorder=0)
        name = PHASE_NAMES[phase]
        if end - start > 0.013 * len(name) * total:
            axes.text(
                (start + end) / 2,
                1.015,
                name,
                transform=axes.get_xaxis_transform(),
                ha="center",
                va="bottom",
                color=FAINT,
                size=8.5,
            )
    if total > 0:
        axes.set_xlim(0, total * 1.01)


def phase_spans(rows: Sequence[Row]) -> list[tuple[str, int, int]]:
    """Returns (phase, start, end) in steps: from the end of the one before to its own last row."""
    ends: dict[str, int] = {}
    for row in rows:
        ends[row["phase"]] = max(row["step"], ends.get(row["phase"], 0))
    spans, start = [], 0
    for phase, end in sorted(ends.items(), key=lambda item: item[1]):
        spans.append((phase, start, end))
        start = end
    return spans
