"""Line charts as SVG inside a page, in the colours of the page's style."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator

from eln_jax.evaluation.curves import running_mean
from eln_jax.html_page import escape, swatch

# Units of the drawing, which is as wide as its column: about pixels of a phone.
_WIDTH, _HEIGHT = 340, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 36, 6, 20, 32
_MANY = 60  # more points than this are shown pale, under their running mean
_LOG_RATIO = 20  # of the largest to the smallest value, from which on the scale is logarithmic


class Line(NamedTuple):
    """One line: its name, the style's name of its colour, and its points, float [points]."""

    name: str
    color: str
    x: np.ndarray
    y: np.ndarray


class Span(NamedTuple):
    """A named stretch of the x axis, such as a phase."""

    name: str
    start: float
    end: float


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    x_name: str,
    spans: Sequence[Span] = (),
    log_if_wide: bool = False,
) -> str:
    """Draws lines over a common x axis.

    Args:
        title: with the unit of y.
        lines: at least one; each with at least one point.
        x_name: with its unit.
        spans: marked and named above the plot, the first from 0.
        log_if_wide: a logarithmic scale where the values are positive and far apart.

    Returns:
        HTML of the title, the drawing and the legend.
    """
    x = np.concatenate([line.x for line in lines] + [[span.end] for span in spans])
    y = np.concatenate([line.y for line in lines])
    wide = log_if_wide and y.min() > 0 and y.max() / y.min() > _LOG_RATIO
    scale = np.log10 if wide else np.asarray
    y_ticks = _log_ticks(y) if wide else _ticks(y.min(), y.max())
    low, high = scale(y_ticks[0]), scale(y_ticks[-1])
    x_low = 0.0 if spans else float(x.min())
    x_high = max(float(x.max()), x_low + 1e-9)

    def across(value):
        return _LEFT + (value - x_low) / (x_high - x_low) * (_WIDTH - _LEFT - _RIGHT)

    def down(value):
        part = (scale(value) - low) / max(high - low, 1e-12)
        return _HEIGHT - _BOTTOM - part * (_HEIGHT - _TOP - _BOTTOM)

    drawn = [_span(span, across, shade) for shade, span in enumerate(spans)]
    for tick in y_ticks:
        drawn.append(
            f'<path d="M{_LEFT} {down(tick):.1f}H{_WIDTH - _RIGHT}" stroke="var(--line)"/>'
            f'<text x="{_LEFT - 5}" y="{down(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>'
        )
    for tick in _ticks(x_low, x_high, whole=True):
        if x_low <= tick <= x_high:
            drawn.append(
                f'<text x="{across(tick):.1f}" y="{_HEIGHT - _BOTTOM + 14}" '
                f'text-anchor="middle">{tick:g}</text>'
            )
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    drawn.append(
        f'<text x="{middle}" y="{_HEIGHT - 4}" text-anchor="middle">{escape(x_name)}</text>'
    )
    for line in lines:
        drawn += _paths(line, across, down)
    legend = color_legend([(line.name, line.color) for line in lines])
    return (
        f'<div class="chart"><h3>{escape(title)}</h3><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'role="img" aria-label="{escape(title)}">{"".join(drawn)}</svg>{legend}</div>'
    )


def color_legend(entries: Sequence[tuple[str, str]]) -> str:
    """A line of names, each with its colour of the style."""
    items = "".join(
        f"<span>{swatch(f'var(--{color})')}{escape(name)}</span>" for name, color in entries
    )
    return f'<div class="legend">{items}</div>'


def _span(span: Span, across, number: int) -> str:
    left, right = across(span.start), across(span.end)
    height = _HEIGHT - _TOP - _BOTTOM
    shade = f'fill="var(--card)" opacity="{0.9 if number % 2 else 0}"'
    drawn = (
        f'<rect x="{left:.1f}" y="{_TOP}" width="{right - left:.1f}" height="{height}" {shade}/>'
    )
    if span.start > 0:
        drawn += f'<path d="M{left:.1f} {_TOP - 14}V{_HEIGHT - _BOTTOM}" stroke="var(--line)"/>'
    if right - left > 5.5 * len(span.name):  # where the name has room
        middle = (left + right) / 2
        name = escape(span.name)
        drawn += f'<text x="{middle:.1f}" y="{_TOP - 6}" text-anchor="middle">{name}</text>'
    return drawn


def _paths(line: Line, across, down) -> list[str]:
    many = len(line.x) > _MANY
    drawn = [_path(line, across, down, line.y, 'stroke-width="1" opacity=".3"')] if many else []
    shown = running_mean(line.y) if many else line.y
    drawn.append(_path(line, across, down, shown, 'stroke-width="2"'))
    if len(line.x) <= _MANY // 2:
        drawn += [
            f'<circle cx="{across(x):.1f}" cy="{down(y):.1f}" r="2.6" fill="var(--{line.color})"/>'
            for x, y in zip(line.x, line.y, strict=True)
        ]
    return drawn


def _path(line: Line, across, down, values: np.ndarray, look: str) -> str:
    points = "L".join(f"{across(x):.1f} {down(y):.1f}" for x, y in zip(line.x, values, strict=True))
    return (
        f'<path d="M{points}" fill="none" stroke="var(--{line.color})" stroke-linejoin="round" '
        f"{look}/>"
    )


def _ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    locator = MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10], integer=whole)
    return [round(float(tick), 10) for tick in locator.tick_values(low, high)]


def _log_ticks(values: np.ndarray) -> list[float]:
    """1, 2 and 5 of each decade, from the one below the smallest to the one above the largest."""
    low, high = float(values.min()), float(values.max())
    subs = (1.0, 2.0, 5.0) if math.log10(high / low) < 2.5 else (1.0,)
    ticks = [float(tick) for tick in LogLocator(subs=subs).tick_values(low, high)]
    first = max([i for i, tick in enumerate(ticks) if tick <= low], default=0)
    last = min([i for i, tick in enumerate(ticks) if tick >= high], default=len(ticks) - 1)
    return ticks[first : last + 1]
