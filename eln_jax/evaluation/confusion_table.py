"""Which classes are taken for which, as a section of a page."""

import math
from collections.abc import Sequence

import numpy as np

from eln_jax.html_page import escape, table

# From this share on a cell is too dark for dark letters.
_DARK_CELL = 0.75
_LEAST_SHARE = 0.005  # below it a cell has a dot
# More classes than this make no readable matrix; so many of the largest confusions are listed.
_MOST_CLASSES, _LISTED = 40, 30


def confusion_table(confusion: np.ndarray, class_names: Sequence[str]) -> str:
    """Shows the share of each true class's pixels that is predicted as each class.

    Args:
        confusion: [num_classes, num_classes], pixels by true and by predicted class.
        class_names: one a class.

    Returns:
        HTML: the matrix, without the classes that have no pixel; of many classes the largest
        confusions only.
    """
    totals = confusion.sum(1, keepdims=True)
    shares = np.divide(confusion, totals, out=np.zeros(confusion.shape), where=totals > 0)
    if len(class_names) > _MOST_CLASSES:
        return _largest(shares, class_names)
    head = "<th></th>" + "".join(f"<th>{escape(name)}</th>" for name in class_names)
    lines = []
    for true in np.flatnonzero(totals).tolist():
        cells = "".join(_cell(share, i == true) for i, share in enumerate(shares[true]))
        lines.append(f"<tr><th>{escape(class_names[true])}</th>{cells}</tr>")
    return (
        '<p class="faint">Of the pixels of a row\'s class, the share in % that is predicted as the '
        f"column's; below {100 * _LEAST_SHARE:g} % a dot.</p>"
        f'<div class="scroll"><table class="matrix"><tr>{head}</tr>{"".join(lines)}</table></div>'
    )


def _cell(share: float, right: bool) -> str:
    # The root lets small errors be seen.
    rgb, strength = ("0 114 178", share) if right else ("213 94 0", math.sqrt(share))
    ink = ";color:#fff" if right and share > _DARK_CELL else ""
    text = f"{100 * share:.0f}" if share >= _LEAST_SHARE else "·"
    return f'<td style="background:rgb({rgb}/{strength:.2f}){ink}">{text}</td>'


def _largest(shares: np.ndarray, class_names: Sequence[str]) -> str:
    wrong = shares * (1 - np.eye(len(shares)))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_LISTED]
    pairs = np.stack(np.unravel_index(order, wrong.shape), 1)
    rows = [
        [escape(class_names[true]), escape(class_names[taken]), f"{100 * wrong[true, taken]:.1f}"]
        for true, taken in pairs
        if wrong[true, taken] >= _LEAST_SHARE
    ]
    words = "<p>No class is taken for another.</p>"
    if rows:
        words = f'<div class="wrap">{table(("class", "taken for", "of its pixels, %"), rows)}</div>'
    return f'<p class="faint">The largest confusions of two classes.</p>{words}'
