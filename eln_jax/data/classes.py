"""Which classes a folder's masks hold: read from a small file, or found by looking."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from eln_jax.data.decoding import decode_mask
from eln_jax.data.labels import (
    Color,
    color_keys,
    color_text,
    key_color,
    parse_color,
    used_colors,
    used_ids,
)
from eln_jax.data.threads import thread_pool
from eln_jax.errors import UserError

CLASSES_FILE = "classes.txt"

# More colours than this are a photograph or smoothed edges, not a drawing of classes.
MOST_COLORS = 64


class Gap(NamedTuple):
    """Ids below the largest found that occur in no mask: the largest may be a slip.

    Attributes:
      mask: A mask with the largest id.
      largest: That id.
      unused: The ids that occur nowhere, in rising order.
    """

    mask: Path
    largest: int
    unused: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class ClassList:
    """The classes in the order of their labels, and what is void.

    Attributes:
      names: One a class.
      ids: Stored id of each class.
      colors: Stored colour of each class; empty if masks hold ids.
      void_ids: Stored ids of void.
      void_colors: Stored colours of void.
      gap: What is odd about ids that were found by looking, if anything.
    """

    names: tuple[str, ...]
    ids: tuple[int, ...]
    colors: tuple[Color, ...] = ()
    void_ids: tuple[int, ...] = ()
    void_colors: tuple[Color, ...] = ()
    gap: Gap | None = None


def read_classes(path: Path) -> ClassList:
    """Reads a file of a line a class: the id in the masks, the name, and if it has one its colour.

    For example "2 traffic light #faaa1e". What is named "void" counts for nothing. Blank lines and
    lines that start with "#" are passed over. The labels follow the order of the lines.

    Raises:
      UserError: The file cannot be read, or a line is written otherwise.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the list of classes {path} cannot be read ({error}).") from error
    names, ids, colors, void_ids, void_colors = [], [], [], [], []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            color = parse_color(words.pop()) if words[-1].startswith("#") else None
        except UserError as error:
            raise UserError(f"{path}, line {number}: {error}") from None
        if len(words) < 2 or not words[0].isdecimal() or int(words[0]) > 255:
            raise UserError(
                f"{path}, line {number}: {line.strip()!r} must be an id from 0 to 255, a name, and "
                "perhaps a colour, such as '2 traffic light #faaa1e'."
            )
        stored, name = int(words[0]), " ".join(words[1:])
        void = name.lower() == "void"
        if stored in ids or stored in void_ids:
            raise UserError(f"{path}, line {number}, gives the id {stored} a second time.")
        if color in colors or (color in void_colors and not void):
            raise UserError(
                f"{path}, line {number}, gives the colour {color_text(color)} a second time."
            )
        (void_ids if void else ids).append(stored)
        if not void:
            names.append(name)
        if color is not None and color not in void_colors:
            (void_colors if void else colors).append(color)
    if len(names) < 2:
        raise UserError(f"{path} lists {len(names)} class(es); give two or more, a line each.")
    if colors and len(colors) != len(names):
        raise UserError(
            f"{path} gives a colour to {len(colors)} of {len(names)} classes: give one to each, or "
            "to none."
        )
    return ClassList(tuple(names), tuple(ids), tuple(colors), tuple(void_ids), tuple(void_colors))


def scan_classes(masks: Iterable[Path], void_ids: tuple[int, ...]) -> ClassList:
    """Finds the classes that occur in masks.

    Ids run from 0 to the largest that occurs; `gap` tells of those between that do not. Colours
    are sorted, so black comes first; white and (224, 224, 192), the usual border colours, stay
    classes: only a list can say that they are void.

    Args:
      masks: Files of masks.
      void_ids: Ids that are no class.

    Raises:
      UserError: A mask cannot be read, some hold ids and some colours, palettes give an id two
        colours, there are too many colours, or fewer than two classes.
    """
    masks = list(masks)
    some_with: dict[int, Path] = {}
    colors: set[int] = set()
    some_mask: dict[str, Path] = {}
    drawn: dict[int, tuple[Color, Path]] = {}
    with thread_pool() as pool:
        for path, found in zip(masks, pool.map(stored_values, masks), strict=True):
            some_mask[found.kind] = path
            if found.kind == "ids":
                some_with |= dict.fromkeys(found.values, path)
                _refuse_other_colors(path, found.palette, drawn)
                continue
            colors |= found.values
            if len(colors) > MOST_COLORS:
                raise UserError(
                    f"mask {path} brings the colours of the masks to more than {MOST_COLORS}: save "
                    f"masks without smoothing, or list the classes in {CLASSES_FILE}."
                )
    if len(some_mask) > 1:
        raise UserError(
            f"mask {some_mask['ids']} holds ids and {some_mask['colours']} colours: list the "
            f"classes with both in {CLASSES_FILE} (a line a class, as '1 cat #800000')."
        )
    if colors:
        listed = tuple(key_color(key) for key in sorted(colors))
        names = tuple(color_text(color) for color in listed)
        return _at_least_two(ClassList(names, tuple(range(len(listed))), listed), some_mask)
    classes = some_with.keys() - set(void_ids)
    count = max(classes, default=-1) + 1
    unused = tuple(sorted(set(range(count)) - classes - set(void_ids)))
    gap = Gap(some_with[count - 1], count - 1, unused) if unused else None
    names = tuple(f"class {label}" for label in range(count))
    return _at_least_two(ClassList(names, tuple(range(count)), gap=gap), some_mask)


def _refuse_other_colors(
    path: Path, palette: dict[int, Color], drawn: dict[int, tuple[Color, Path]]
) -> None:
    """Programs that save colours with a palette number them anew in each file: no ids at all."""
    for value, color in palette.items():
        before, where = drawn.setdefault(value, (color, path))
        if before != color:
            raise UserError(
                f"mask {path} has the colour {color_text(color)} for the id {value}, and {where} "
                f"has {color_text(before)}: save the masks as RGB if their colours are the "
                f"classes; if the ids are, list them in {CLASSES_FILE}, without colours."
            )


class StoredValues(NamedTuple):
    """Which values a mask holds.

    Attributes:
      kind: "ids" or "colours".
      values: The ids, or the colours' keys (`labels.color_keys`).
      palette: The colours of the ids where the file gives each its own.
    """

    kind: str
    values: set[int]
    palette: dict[int, Color]


def stored_values(mask: Path) -> StoredValues:
    """Looks which values a mask holds.

    Raises:
      UserError: The mask cannot be read.
    """
    stored = decode_mask(mask)
    if stored.pixels.ndim == 3:
        return StoredValues("colours", set(np.unique(color_keys(stored.pixels)).tolist()), {})
    colors = used_colors(stored.pixels, stored.palette)
    return StoredValues("ids", set(used_ids(stored.pixels)), colors)


def _at_least_two(found: ClassList, masks: dict[str, Path]) -> ClassList:
    if len(found.names) < 2:
        where = f", such as {next(iter(masks.values()))}," if masks else ""
        raise UserError(
            f"the masks{where} hold fewer than two classes beside void: list what the ids mean in "
            f"{CLASSES_FILE} beside the images, a line each, such as '0 background' and "
            "'255 object'."
        )
    return found
