"""Pictures of predictions: image, label, prediction, errors and pseudo-labels side by side."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

# An image fits into this box of pixels; the smaller of its sides decides.
_CELL_WIDTH, _CELL_HEIGHT = 320, 320
_COLUMN_WIDTH = 290  # at least, for the headings of portrait images
_GAP, _MARGIN, _LINE = 8, 20, 26
_INK, _FAINT, _PAPER = (43, 45, 51), (124, 127, 136), (255, 255, 255)
VOID_COLOR = (224, 224, 224)
_FIRST_COLORS = (
    *((52, 58, 74), (67, 118, 200), (243, 146, 55), (70, 160, 80), (214, 69, 65), (138, 92, 190)),
    *((247, 211, 76), (56, 168, 170), (238, 130, 180), (143, 98, 65), (170, 204, 70)),
    *((125, 196, 240), (128, 30, 60), (30, 50, 130), (150, 225, 185), (120, 120, 40)),
    *((200, 50, 160), (250, 190, 150), (20, 90, 60), (190, 165, 235), (90, 130, 150)),
    *((255, 85, 115), (190, 140, 30), (40, 220, 200)),
)
_HEADINGS = {
    "image": "image",
    "label": "label",
    "prediction": "prediction",
    "wrong": "wrong pixels",
    "p_wrong": "ELN: P(wrong)",
    "kept": "kept pseudo-labels (rest pale)",
}


def make_palette(num_classes: int) -> np.ndarray:
    """A colour for each of up to 256 classes.

    The first 24 are easy to tell apart, from one another and from the greys that mean void and
    rejected; class 0, often a background, is dark. Further ones are those of PASCAL VOC: bit k of
    the class id goes, from the top bit of each channel down, to red (k = 0, 3, 6), green
    (k = 1, 4, 7) or blue (k = 2, 5).

    Returns:
        uint8 [num_classes, 3], RGB.
    """
    ids = np.arange(num_classes)[:, None]
    bits = (ids >> np.arange(9)) & 1
    palette = (bits * 2 ** (7 - np.arange(9) // 3)).reshape(num_classes, 3, 3).sum(1)
    palette[: len(_FIRST_COLORS)] = _FIRST_COLORS[:num_classes]
    return palette.astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class PanelRow:
    """The pictures of one image.

    Attributes:
        pictures: uint8 [height, width, 3] by column.
        classes: ids that occur in label or prediction.
        caption: shown under the row.
    """

    pictures: Mapping[str, np.ndarray]
    classes: frozenset[int]
    caption: str


def panel_row(
    image: np.ndarray,
    label: np.ndarray | None,
    prediction: np.ndarray,
    p_right: np.ndarray | None,
    kept: np.ndarray | None,
    palette: np.ndarray,
    caption: str = "",
) -> PanelRow:
    """Draws the pictures of one image; what is None has none.

    Args:
        image: uint8 [height, width, 3].
        label: integers [height, width]; an id without a colour in the palette is void.
        prediction: class ids [height, width].
        p_right: [height, width] in [0, 1], the ELN's probability that the prediction is right.
        kept: bool [height, width], the pseudo-labels that the gate keeps.
        palette: uint8 [num_classes, 3].
        caption: one line of text.
    """
    pictures = {"image": image}
    colors = colorize(prediction, palette)
    classes = set(np.unique(prediction).tolist())
    if label is not None:
        void = (label < 0) | (label >= len(palette))
        classes |= set(np.unique(label[~void]).tolist())
        pictures["label"] = colorize(label, palette)
    pictures["prediction"] = colors
    if label is not None:
        wrong = heat_map((label != prediction).astype(np.float32))
        pictures["wrong"] = np.where(void[..., None], np.array(VOID_COLOR, np.uint8), wrong)
    if p_right is not None:
        pictures["p_wrong"] = heat_map(1.0 - p_right)
    if kept is not None:
        gray = image.mean(-1, keepdims=True) * 0.3 + 165  # pale enough for no class to look like it
        pictures["kept"] = np.where(kept[..., None], colors, gray.astype(np.uint8))
    return PanelRow(pictures, frozenset(classes), caption)


def colorize(ids: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Colours class ids [height, width]; an id without a colour is void's: [height, width, 3]."""
    known = (ids >= 0) & (ids < len(palette))
    return np.where(
        known[..., None], palette[np.where(known, ids, 0)], np.array(VOID_COLOR, np.uint8)
    )


@cache
def _heat_table() -> np.ndarray:
    table = matplotlib.colormaps["inferno"](np.linspace(0, 1, 256))
    return np.round(255 * table[:, :3]).astype(np.uint8)


def heat_map(values: np.ndarray) -> np.ndarray:
    """Colours values in [0, 1], dark to bright, in equal steps to the eye."""
    return _heat_table()[np.round(np.clip(values, 0, 1) * 255).astype(np.uint8)]


def draw_panels(
    rows: Sequence[PanelRow], palette: np.ndarray, class_names: Sequence[str]
) -> np.ndarray:
    """Stacks rows under common headings, over one legend of the classes that occur.

    Args:
        rows: at least one; a column that no row has is left out.
        palette: uint8 [num_classes, 3].
        class_names: one name a class.

    Returns:
        uint8 [height, width, 3].
    """
    columns = [name for name in _HEADINGS if any(name in row.pictures for row in rows)]
    cells = [_fit(row) for row in rows]
    widths = {
        name: max(_COLUMN_WIDTH, *(row[name].width for row in cells if name in row))
        for name in columns
    }
    width = 2 * _MARGIN + sum(widths.values()) + _GAP * (len(columns) - 1)
    legend = _legend_lines(_legend_items(rows, palette, class_names), width)
    heights = [next(iter(row.values())).height + _LINE for row in cells]
    top = _MARGIN + _LINE // 2 + _GAP
    height = top + sum(heights) + _GAP * len(rows) + _LINE * len(legend) + _MARGIN // 2
    canvas = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(canvas)

    lefts, x = {}, _MARGIN
    for name in columns:
        lefts[name] = x
        draw.text(
            (x, _MARGIN + _LINE // 2), _HEADINGS[name], _INK, _font(16, bold=True), anchor="ls"
        )
        x += widths[name] + _GAP
    y = top
    for row, pictures, row_height in zip(rows, cells, heights, strict=True):
        for name, picture in pictures.items():
            canvas.paste(picture, (lefts[name], y))
        draw.text((_MARGIN, y + row_height - 8), row.caption, _FAINT, _font(13), anchor="ls")
        y += row_height + _GAP
    if "p_wrong" in lefts:
        _draw_scale(canvas, lefts["p_wrong"] + widths["p_wrong"], _MARGIN + _LINE // 2)
    _draw_legend(draw, legend, y + _LINE // 2)
    return np.asarray(canvas)


def _fit(row: PanelRow) -> dict[str, Image.Image]:
    """Scales a row's pictures alike; ids and masks keep their hard edges."""
    height, width = row.pictures["image"].shape[:2]
    scale = min(_CELL_WIDTH / width, _CELL_HEIGHT / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    smooth, hard = Image.Resampling.LANCZOS, Image.Resampling.NEAREST
    return {
        name: Image.fromarray(picture).resize(size, smooth if name == "image" else hard)
        for name, picture in row.pictures.items()
    }


@cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib and has letters of most alphabets."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", name)), size)


def _legend_items(
    rows: Sequence[PanelRow], palette: np.ndarray, class_names: Sequence[str]
) -> list[tuple[tuple[int, ...], str]]:
    ids = sorted(set().union(*(row.classes for row in rows)))
    items = [(tuple(palette[i].tolist()), class_names[i]) for i in ids]
    if any("label" in row.pictures for row in rows):
        items.append((VOID_COLOR, "void"))
    return items


def _legend_lines(
    items: Sequence[tuple[tuple[int, ...], str]], width: int
) -> list[list[tuple[int, tuple[int, ...], str]]]:
    """Places the entries from left to right, on as many lines as they need."""
    lines, x = [[]], _MARGIN
    for color, name in items:
        length = 22 + round(_font(14).getlength(name)) + 20
        if x + length > width - _MARGIN and lines[-1]:
            lines.append([])
            x = _MARGIN
        lines[-1].append((x, color, name))
        x += length
    return lines


def _draw_legend(draw: ImageDraw.ImageDraw, lines: Sequence[Sequence], y: int) -> None:
    for line in lines:
        for x, color, name in line:
            draw.rounded_rectangle((x, y - 7, x + 14, y + 7), radius=3, fill=color, outline=_FAINT)
            draw.text((x + 22, y), name, _INK, _font(14), anchor="lm")
        y += _LINE


def _draw_scale(canvas: Image.Image, right: int, baseline: int) -> None:
    """A small colour bar from 0 to 1, its right end at `right`."""
    draw = ImageDraw.Draw(canvas)
    bar = np.broadcast_to(_heat_table()[np.linspace(0, 255, 80).astype(int)], (11, 80, 3))
    draw.text((right, baseline), "1", _FAINT, _font(13), anchor="rs")
    canvas.paste(Image.fromarray(np.ascontiguousarray(bar)), (right - 94, baseline - 11))
    draw.text((right - 99, baseline), "0", _FAINT, _font(13), anchor="rs")
