"""Which classes a folder's masks hold: read from a small file, or found by looking."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from eln_jax.data.decoding import decode_mask
from eln_jax.data.labels import Color, color_keys, color_text, key_color, parse_color
from eln_jax.errors import UserError

CLASSES_FILE = "classes.txt"

# More colours than this are a photograph or smoothed edges, not a drawing of classes.
MOST_COLORS = 64


@dataclasses.dataclass(frozen=True)
class ClassList:
    """The classes in the order of their labels, and what is void.

    Attributes:
      names: One a class.
      ids: Stored id of each class.
      colors: Stored colour of each class; empty if masks hold ids.
      void_ids: Stored ids of void.
      void_colors: Stored colours of void.
    """

    names: tuple[str, ...]
    ids: tuple[int, ...]
    colors: tuple[Color, ...] = ()
    void_ids: tuple[int, ...] = ()
    void_colors: tuple[Color, ...] = ()


def read_classes(path: Path) -> ClassList:
    """Reads a file of a line a class: the id in the masks, the name, and if it has one its colour.

    For example "2 traffic light #faaa1e". What is named "void" counts for nothing. Blank lines and
    lines that start with "# " are passed over. The labels follow the order of the lines.

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
        if not words or words[0] == "#":
            continue
        color = parse_color(words.pop()) if words[-1].startswith("#") else None
        if len(words) < 2 or not words[0].isdecimal() or int(words[0]) > 255:
            raise UserError(
                f"{path}, line {number}: {line.strip()!r} must be an id from 0 to 255, a name, and "
                "perhaps a colour, such as '2 traffic light #faaa1e'."
            )
        stored, name = int(words[0]), " ".join(words[1:])
        void = name.lower() == "void"
        (void_ids if void else ids).append(stored)
        if not void:
            names.append(name)
        if color is not None:
            (void_colors if void else colors).append(color)
    if len(names) < 2:
        raise UserError(f"{path} lists {len(names)} class(es); give two or more, a line each.")
    if colors and len(colors) != len(names):
        raise UserError(
            f"{path} gives a colour to {len(colors)} of {len(names)} classes: give one to each, or "
            "to none."
        )
    listed = (tuple(part) for part in (names, ids, colors, void_ids, void_colors))
    return ClassList(*listed)


def scan_classes(masks: Iterable[Path], void_ids: tuple[int, ...]) -> ClassList:
    """Finds the classes that occur in masks.

    Ids run from 0 to the largest that occurs. Colours are sorted, so black comes first; white and
    (224, 224, 192), the usual border colours, stay classes: only a list can say that they are void.

    Args:
      masks: Files of masks.
      void_ids: Ids that are no class.

    Raises:
      UserError: A mask cannot be read, some hold ids and some colours, there are too many colours,
        or fewer than two classes.
    """
    ids: set[int] = set()
    colors: set[int] = set()
    some_mask: dict[str, Path] = {}
    for path in masks:
        kind, found = stored_values(path)
        some_mask[kind] = path
        if kind == "ids":
            ids |= found
            continue
        colors |= found
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
    classes = ids - set(void_ids)
    count = max(classes, default=-1) + 1
    names = tuple(f"class {label}" for label in range(count))
    return _at_least_two(ClassList(names, tuple(range(count))), some_mask)


def stored_values(mask: Path) -> tuple[str, set[int]]:
    """Looks which values a mask holds.

    Returns:
      "ids" or "colours", and the ids, or the colours' keys (`labels.color_keys`).

    Raises:
      UserError: The mask cannot be read.
    """
    stored, _ = decode_mask(mask)
    if stored.ndim == 2:
        return "ids", set(np.flatnonzero(np.bincount(stored.ravel(), minlength=256)).tolist())
    return "colours", set(np.unique(color_keys(stored)).tolist())


def _at_least_two(found: ClassList, masks: dict[str, Path]) -> ClassList:
    if len(found.names) < 2:
        where = f"such as {next(iter(masks.values()))}, " if masks else ""
        raise UserError(
            f"the masks, {where}hold fewer than two classes beside void: list what the ids mean in "
            f"{CLASSES_FILE} beside the images, a line each, such as '0 background' and "
            "'255 object'."
        )
    return found
