"""Predictions as a page to look through, the probably worst first; it shows the files beside it."""

import os
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from eln_jax.html_page import escape, figure, make_document, swatch

PAGE = "predictions.html"
_CLASSES_SHOWN = 5  # of an image, those with the largest shares


def make_page(
    rows: Sequence[Mapping[str, Any]],
    classes: Sequence[Mapping[str, Any]],
    *,
    title: str,
    words: str,
    by: str,
) -> str:
    """Writes the page.

    Args:
        rows: of the images, as `prediction_files.Writer` returns them.
        classes: id, name and colour of each, as `predictions.json` has them.
        title: of the page.
        words: a sentence under it.
        by: what "predicted_wrong" is the mean of.

    Returns:
        HTML that refers to pictures by their paths below the page's own folder.
    """
    known = {str(entry["id"]): entry for entry in classes}
    legend = "".join(f"<span>{_class(entry)}</span>" for entry in classes)
    worst = sorted(rows, key=lambda row: -row["predicted_wrong"])
    articles = [_article(place, row, known) for place, row in enumerate(worst, start=1)]
    head = (
        f'<h1>{escape(title)}</h1><p>{escape(words)}</p><p class="faint">The probably worst first, '
        f'by the mean of {escape(by)}: those to label next.</p><div class="legend">{legend}</div>'
    )
    return make_document(title, [head, *articles])


def _article(place: int, row: Mapping[str, Any], classes: Mapping[str, Mapping[str, Any]]) -> str:
    largest = sorted(row["classes"].items(), key=lambda item: -item[1])[:_CLASSES_SHOWN]
    shares = ", ".join(f"{_class(classes[id_])} {100 * share:.0f}&nbsp;%" for id_, share in largest)
    pictures = [figure(_link(row["overlay"]), shares)]
    if "error" in row:
        pictures.append(figure(_link(row["error"]), "bright: probably wrong"))
    return (
        f'<article class="note"><h3>{place}. {escape(row["id"])}</h3>'
        f"<p>{100 * row['predicted_wrong']:.1f} % probably wrong, confidence "
        f'{100 * row["confidence"]:.1f} %; <a href="{_link(row["mask"])}">mask</a></p>'
        f'<div class="grid">{"".join(pictures)}</div></article>'
    )


def _link(path: str) -> str:
    return quote(os.fsencode(path))  # names need not be UTF-8


def _class(entry: Mapping[str, Any]) -> str:
    return swatch(entry["color"]) + escape(entry["name"])
