"""What a gate keeps of the pseudo-labels of each class, and which classes it loses.

A threshold can keep nine tenths of a background and nothing of classes that are often wrong
(docs/results.md); the mean over all pixels does not show it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from eln_jax.html_page import escape, table

LOST_BELOW = 0.1  # of the pixels predicted as a class
_KEPT, _RIGHT = "pseudo_label/kept", "pseudo_label/accuracy"
_LISTED = 6


def lost_classes(figures: Mapping[str, Any]) -> list[str]:
    """Names of the classes of whose pseudo-labels less than a tenth is kept.

    Args:
        figures: with `pseudo_label/kept/CLASS`; nan or None where no pixel is predicted as CLASS.
    """
    start = f"{_KEPT}/"
    return [
        key.removeprefix(start)
        for key, kept in figures.items()
        if key.startswith(start) and kept is not None and kept < LOST_BELOW
    ]


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are: "pole, sign and 3 more"."""
    if len(names) > _LISTED + 1:
        return f"{', '.join(names[:_LISTED])} and {len(names) - _LISTED} more"
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def advice(figures: Mapping[str, Any]) -> str:
    """Says which classes are lost, and what helps; "" if none is."""
    lost = lost_classes(figures)
    if not lost:
        return ""
    return (
        f"The gate keeps less than {100 * LOST_BELOW:g} % of the pixels predicted as "
        f"{listed(lost)}: unlabelled images teach next to nothing of them. "
        "method.gate_mode=class_quantile keeps a share of each class."
    )


def section(figures: Mapping[str, Any], class_names: Sequence[str]) -> str:
    """The same as a section of a page; "" where no gate rejects anything."""
    if figures.get(_KEPT) in (None, 1.0):
        return ""
    cells = [
        [escape(name), *(_percent(figures.get(f"{key}/{name}")) for key in (_KEPT, _RIGHT))]
        for name in class_names
    ]
    cells.append(["all", _percent(figures[_KEPT]), _percent(figures.get(_RIGHT))])
    words = escape(advice(figures))
    warning = f'<article class="warning">{words}</article>' if words else ""
    return (
        "<h2>Pseudo-labels of each class</h2>"
        '<p class="faint">What the gate would keep of the pixels predicted as a class, on images '
        f"with a label, and how many of those are right, in %.</p>{warning}"
        f"{table(('predicted class', 'kept', 'right of those'), cells)}"
    )


def _percent(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{100 * value:.1f}"
