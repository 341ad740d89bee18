"""Doubted regions as one page: image, mask and what the model suggests, side by side."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from eln_jax.data.doctor.pictures import fit_picture, side_by_side
from eln_jax.data.labels import color_text
from eln_jax.data.simulated_errors.maps import widen
from eln_jax.evaluation.label_review import Region
from eln_jax.evaluation.panels import VOID_COLOR, colorize
from eln_jax.html_page import escape, figure, make_document, swatch

_OUTLINE = (255, 0, 255)
# How much of its surroundings is shown with a region, as a share of its longer side, and at least,
# as a share of the image's shorter side.
_MARGIN, _LEAST_MARGIN = 0.5, 0.1


def draw_region(image: np.ndarray, label: np.ndarray, region: Region, palette: np.ndarray) -> str:
    """Draws what is around a region.

    Args:
        image: uint8 [height, width, 3], the whole of it.
        label: uint8 [height, width], the mask.
        region: of that image.
        palette: uint8 [num_classes, 3].

    Returns:
        The image with the region's outline, the mask, and the mask with the suggested class in the
        region, as "data:image/jpeg;base64,...".
    """
    area = np.zeros(label.shape, bool)
    area[region.box] = region.inside
    longest = max(side.stop - side.start for side in region.box)
    margin = max(_MARGIN * longest, _LEAST_MARGIN * min(label.shape))
    window = widen(region.box, math.ceil(margin))
    suggestion = np.where(area, region.suggested, label)
    picture = np.asarray(fit_picture(image[window], Image.Resampling.BOX))
    inside = np.asarray(fit_picture(area[window].view(np.uint8), Image.Resampling.NEAREST)) > 0
    outline = np.asarray(ndimage.binary_dilation(inside, np.ones((5, 5)))) > inside
    outlined = np.where(outline[..., None], np.array(_OUTLINE, np.uint8), picture)
    colored = [
        fit_picture(colorize(ids[window], palette), Image.Resampling.NEAREST)
        for ids in (label, suggestion)
    ]
    return side_by_side([Image.fromarray(outlined), *colored])


def make_page(
    rows: Sequence[Mapping[str, Any]],
    pictures: Sequence[str],
    classes: Mapping[str, Sequence[int]],
    *,
    title: str,
    words: Sequence[str],
) -> str:
    """Writes the page.

    Args:
        rows: the regions as in `review.json`, the most doubted first.
        pictures: of each, from `draw_region`.
        classes: name -> RGB.
        title: what was reviewed.
        words: sentences to begin with.

    Returns:
        HTML, without a link to anything.
    """
    shown = {**classes, "void": VOID_COLOR}
    legend = " ".join(f"{_swatch(name, shown)}&ensp;" for name in shown)
    articles = [
        f"<article{_tone(row)}><h3>{place}. {_swatch(row['labelled'], classes)} &rarr; "
        f"{_swatch(row['suggested'], classes)}</h3>{figure(picture, _caption(row))}</article>"
        for place, (row, picture) in enumerate(zip(rows, pictures, strict=True), start=1)
    ]
    told = "".join(f"<p>{escape(sentence)}</p>" for sentence in words)
    explained = (
        '<p class="faint">Each row: the image with the region outlined, its mask, and the mask as '
        "the model would have it. The class that the mask has &rarr; the class that the model "
        "sees.</p>"
    )
    body = "".join(articles) or "<p>Nothing is doubted.</p>"
    head = f"<h1>{escape(title)}</h1>{told}{explained}<p>{legend}</p>"
    return make_document(title, [head, body])


def _swatch(name: str, classes: Mapping[str, Sequence[int]]) -> str:
    return swatch(color_text(tuple(int(value) for value in classes[name]))) + escape(name)


def _tone(row: Mapping[str, Any]) -> str:
    """A green edge where a planted error was found; without planting none has a colour."""
    return ' class="good"' if row.get("planted") else ' class="note"'


def _caption(row: Mapping[str, Any]) -> str:
    left, top, right, bottom = row["box"]
    planted = {True: "; a planted error", False: "; nothing was planted here", None: ""}
    file = row["mask"] or row["image"]
    place = f'<br><span class="faint">{escape(file)}</span>' if file != row["id"] else ""
    return (
        f"{escape(row['id'])}: {row['score']:.0f} of {row['pixels']} pixels probably mislabelled, "
        f"columns {left} to {right - 1}, rows {top} to {bottom - 1}{planted[row.get('planted')]}"
        f"{place}"
    )
