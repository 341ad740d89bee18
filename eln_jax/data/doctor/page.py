"""The report of an examination as one page that needs nothing beside itself."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eln_jax.data.doctor.checks import parts_of
from eln_jax.data.doctor.faults import PART_NAMES, PARTS, SEVERITIES, Fault, by_kind, shorten
from eln_jax.data.doctor.images import quiet_pillow
from eln_jax.data.doctor.pictures import VOID_COLOR, thumbnail
from eln_jax.data.doctor.report import Report
from eln_jax.data.labels import color_text
from eln_jax.data.partitions import Partition
from eln_jax.data.sources import FileSource, Source
from eln_jax.html_page import escape, figure, make_document, swatch, table

# Pictures of each kind of fault, and of each part; further faults are lines of text.
_PICTURES = 12
_SAMPLES = 6
# Lists up to this long are shown without a click.
_OPEN = 12


def make_page(
    report: Report,
    train: Source,
    val: Source,
    partition: Partition,
    *,
    palette: np.ndarray,
    title: str,
    root: str = "",
) -> str:
    """Writes the page; reads the images that it shows once more.

    Args:
      report: What was found.
      train: Source of the training images.
      val: Source of the validation images.
      partition: Which images play which part.
      palette: uint8 `[num_classes, 3]`, the classes' colours.
      title: What was examined.
      root: Folder that paths are shown below, to keep them short.

    Returns:
      HTML, without a link to anything.
    """
    work = parts_of(train, val, partition)
    # Images of a validation split that lack a mask play no part, but may be shown as faults.
    shown = work + [("val", val, index) for index in range(len(val) if val is not train else 0)]
    with quiet_pillow():
        sections = [
            _head(report, title, root),
            _parts(report),
            _faults(report.faults, _Pictures(shown, palette), root),
            _classes(report.classes, train.class_names, palette),
            _samples(work, palette, root),
        ]
    return make_document(title, sections)


class _Pictures:
    """Finds the image that a file belongs to, and draws it."""

    def __init__(self, work: Sequence[tuple[str, Source, int]], palette: np.ndarray):
        self._palette = palette
        self._of: dict[str, tuple[str, Source, int]] = {}
        for part, source, index in reversed(work):  # the labelled ones have the last word
            self._of[source.location(index)] = part, source, index
            mask = source.examples[index].mask if isinstance(source, FileSource) else None
            if mask is not None and part != "unlabeled":
                self._of[str(mask)] = part, source, index

    def draw(self, file: str) -> str | None:
        if file not in self._of:
            return None
        part, source, index = self._of[file]
        with_mask = part != "unlabeled" and source.has_label(index)
        return thumbnail(source, index, with_mask=with_mask, palette=self._palette)


def _file(file: str, root: str) -> str:
    return f'<span title="{escape(file)}">{escape(shorten(file, root))}</span>'


def _head(report: Report, title: str, root: str) -> str:
    tones = [s for s in SEVERITIES if report.counts[f"{s}s"]]
    words = report.count_words(tones) or "nothing wrong"
    return (
        f'<h1>{escape(title)}</h1><p class="verdict tone {tones[0] if tones else "good"}">'
        f'{words}</p><p class="faint">{escape(root)}</p>'
    )


def _parts(report: Report) -> str:
    rows = [[escape(cell) for cell in row] for row in report.part_rows()]
    words = '<p class="faint">Width and height in pixels: smallest/median/largest.</p>'
    return f"<h2>Images</h2>{words}{table(('part', 'images', 'width', 'height'), rows)}"


def _faults(faults: Sequence[Fault], pictures: _Pictures, root: str) -> str:
    articles = []
    for kind, group in by_kind(faults):
        severity = group[0].severity
        figures, lines = [], []
        for number, fault in enumerate(group):
            drawn = pictures.draw(fault.file) if number < _PICTURES else None
            detail = escape(shorten(fault.detail, root))
            words = f"{_file(fault.file, root)}<br>{detail}"
            if drawn:
                figures.append(figure(drawn, words))
            else:
                lines.append(f"<li>{words}</li>")
        grid = f'<div class="grid">{"".join(figures)}</div>' if figures else ""
        rest = f"<ul>{''.join(lines)}</ul>" if lines else ""
        if len(lines) > _OPEN:
            rest = f"<details><summary>{len(lines)} more</summary>{rest}</details>"
        articles.append(
            f'<article class="{severity}"><h3><span class="tone">{severity}</span>: {escape(kind)} '
            f"({len(group)})</h3><p>What to do: {escape(group[0].remedy)}.</p>{grid}{rest}"
            "</article>"
        )
    return "<h2>What was found</h2>" + ("".join(articles) or "<p>Nothing wrong.</p>")


def _classes(classes: Mapping[str, Any], names: Sequence[str], palette: np.ndarray) -> str:
    heads = ("class", "labelled", "masks", "validation", "masks")
    largest = max([*classes["labeled"].values(), *classes["val"].values(), 1e-9])
    rows = []
    for name, color in [*zip(names, palette, strict=False), ("void", VOID_COLOR)]:
        tone = color_text(color)
        row = [f"{swatch(tone)}{escape(name)}"]
        for part in ("labeled", "val"):
            share, times = classes[part][name], classes["images"][part][name]
            bar = f'<i style="width:{100 * share / largest:.1f}%;background:{tone}"></i>'
            row += [f"{100 * share:.2f} %{bar}", str(times)] if times else ["–", "–"]
        rows.append(row)
    absent = ", ".join(classes["never_labeled"])
    told = f"<p>Never in a labelled mask: {escape(absent)}.</p>" if absent else ""
    words = '<p class="faint">Share of the pixels, and the number of masks with the class.</p>'
    return f"<h2>Classes</h2>{words}{told}{table(heads, rows)}"


def _samples(work: Sequence[tuple[str, Source, int]], palette: np.ndarray, root: str) -> str:
    """Shows some images of each part, from all over it."""
    sections = []
    for part in PARTS:
        tasks = [task for task in work if task[0] == part]
        places = np.linspace(0, len(tasks) - 1, min(_SAMPLES, len(tasks))).round().astype(int)
        figures = []
        for _, source, index in (tasks[place] for place in places):
            with_mask = part != "unlabeled" and source.has_label(index)
            drawn = thumbnail(source, index, with_mask=with_mask, palette=palette)
            if drawn:
                figures.append(figure(drawn, _file(source.location(index), root)))
        if figures:
            grid = f'<div class="grid">{"".join(figures)}</div>'
            sections.append(f"<h2>Some {PART_NAMES[part]} images</h2>{grid}")
    return "".join(sections)
