"""What a review of labels reads and leaves: examples, rows, a table, a page."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.markup import escape
from rich.table import Table

from eln_jax.data.pipeline import read_examples
from eln_jax.data.sources import FileSource, Source
from eln_jax.evaluation.label_review import Region, Review
from eln_jax.evaluation.planted_errors import FIRST, HIT, Planting
from eln_jax.evaluation.review_page import draw_region, make_page


class Reader:
    """The reviewed images of a source, as often as they are needed."""

    def __init__(self, source: Source, indices: Sequence[int], planting: Planting | None):
        """Reads nothing yet.

        Args:
            source: holds images and masks.
            indices: which of them are reviewed.
            planting: plants errors in the masks that are read, if any.
        """
        self.source = source
        self._indices, self._planting = indices, planting

    def read(self, numbers: Sequence[int] | None = None) -> Iterator[Mapping[str, Any]]:
        """Reads examples by their place among the reviewed ones; all of them if None."""
        wanted = self._indices if numbers is None else [self._indices[n] for n in numbers]
        examples = read_examples(self.source, wanted)
        if self._planting is None:
            return examples
        return self._planting.plant(examples, self.source.num_classes, self.source.ignore_label)

    def row(self, region: Region) -> dict[str, Any]:
        """A region as plain values; `box` is left, top, right, bottom, the last two outside."""
        index = self._indices[region.image]
        mask = self.source.mask_path(index) if isinstance(self.source, FileSource) else ""
        rows, columns = region.box
        row = {
            "id": region.id,
            "image": self.source.location(index),
            "mask": str(mask),
            "box": [columns.start, rows.start, columns.stop, rows.stop],
            "labelled": self.source.class_names[region.labelled],
            "suggested": self.source.class_names[region.suggested],
            "score": region.score,
            "pixels": region.pixels,
        }
        if region.planted_overlap is not None:
            row["planted"] = region.planted_overlap >= HIT
        return row


def draw(regions: Sequence[Region], reader: Reader, palette: np.ndarray) -> list[str]:
    """Reads the regions' images once more and draws each region, in the order given."""
    numbers = sorted({region.image for region in regions})
    drawn = {}
    for number, example in zip(numbers, reader.read(numbers), strict=True):
        for place, region in enumerate(regions):
            if region.image == number:
                drawn[place] = draw_region(example["image"], example["label"], region, palette)
    return [drawn[place] for place in range(len(regions))]


def regions_table(rows: Sequence[Mapping[str, Any]], total: int) -> Table:
    """The first regions for the screen, of so many in all."""
    title = f"Probably mislabelled, the first {len(rows)} of {total} regions"
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    planted = any("planted" in row for row in rows)
    heads = ["", "image", "left, top, right, bottom", "mask says", "model sees", "pixels", "score"]
    for head in [*heads, *(["planted"] if planted else [])]:
        number = head in ("", "left, top, right, bottom", "pixels", "score")
        table.add_column(head, justify="right" if number else "left")
    for place, row in enumerate(rows, start=1):
        table.add_row(
            str(place),
            escape(row["id"]),
            ", ".join(map(str, row["box"])),
            escape(row["labelled"]),
            escape(row["suggested"]),
            str(row["pixels"]),
            f"{row['score']:.0f}",
            *([("yes" if row["planted"] else "no")] if planted else []),
        )
    return table


def sentences(review: Review, shown: int, figures: Mapping[str, float]) -> list[str]:
    """What was found, in words; with what was found of planted errors, where there are figures."""
    images = len({region.image for region in review.regions})
    told = [
        f"{len(review.regions)} regions in {images} of {len(review.ids)} images are doubted; the "
        f"page shows the first {shown}."
    ]
    if figures:
        first = min(FIRST, len(review.regions))
        precision, auroc = (
            "-" if math.isnan(figures[key]) else f"{100 * figures[key]:.0f} %"
            for key in ("precision_at_10", "image_auroc")
        )
        told.append(
            f"Errors were planted in {figures['planted_images']} of the masks: {precision} of the "
            f"first {first} regions are one of them (an IoU of {HIT:g} or more), and the AUROC of "
            f"the images' scores is {auroc}. The masks' own errors count against both."
        )
    return told


def write(
    output: Path,
    header: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    review: Review,
    words: Sequence[str],
    pictures: Sequence[str],
    palette: np.ndarray,
) -> list[Path]:
    """Writes the page and the same for programs.

    Args:
        output: folder, made if absent.
        header: what was reviewed.
        rows: the first regions, from `Reader.row`.
        review: all that was found.
        words: from `sentences`.
        pictures: of the first regions, from `draw`.
        palette: uint8 [num_classes, 3].

    Returns:
        The files.
    """
    output.mkdir(parents=True, exist_ok=True)
    order = np.argsort(-review.image_scores, kind="stable")
    images = [{"id": review.ids[i], "score": float(review.image_scores[i])} for i in order]
    names = [entry["name"] for entry in header["classes"]]
    title = f"Masks that are worth a look ({header['split']})"
    page = make_page(
        rows, pictures, dict(zip(names, palette.tolist(), strict=True)), title=title, words=words
    )
    written = {
        "review.html": page,
        "review.json": json.dumps({**header, "regions": [*rows], "images": images}, indent=2)
        + "\n",
    }
    for name, text in written.items():
        (output / name).write_text(text, encoding="utf-8")
    return [output / name for name in written]
