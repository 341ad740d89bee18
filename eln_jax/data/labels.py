"""What the pixels of a stored mask mean: class ids by a table of ids or by a map of colours."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eln_jax.errors import UserError

Color = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class LabelCode:
    """How a mask's pixels become labels.

    A mask of one id a pixel goes through `ids`, a mask of RGB colours through `colors`.

    Attributes:
      ids: Stored id -> label.
      colors: Stored colour -> label; empty if colours mean nothing.
      num_classes: Number of classes; a label is below it or `ignore_label`.
      ignore_label: Label of void.
    """

    ids: Mapping[int, int]
    colors: Mapping[Color, int]
    num_classes: int
    ignore_label: int
    # Look-up tables made from the above: labels and validity by id, labels by sorted colour key.
    _labels: np.ndarray = dataclasses.field(init=False, repr=False, compare=False)
    _valid: np.ndarray = dataclasses.field(init=False, repr=False, compare=False)
    _keys: np.ndarray = dataclasses.field(init=False, repr=False, compare=False)
    _values: np.ndarray = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self):
        """Prepares the look-up tables, once."""
        labels, valid = np.zeros(256, np.uint8), np.zeros(256, bool)
        for stored, label in self.ids.items():
            labels[stored], valid[stored] = label, True
        by_key = sorted(
            (int(color_keys(np.array(color))), label) for color, label in self.colors.items()
        )
        tables = {
            "_labels": labels,
            "_valid": valid,
            "_keys": np.array([key for key, _ in by_key], np.int32),
            "_values": np.array([label for _, label in by_key], np.uint8),
        }
        for name, table in tables.items():
            object.__setattr__(self, name, table)  # as a frozen dataclass has it

    def decode(
        self, stored: np.ndarray, where: str, palette: np.ndarray | None = None
    ) -> np.ndarray:
        """Turns stored pixels into labels.

        Args:
          stored: uint8 ids `[height, width]`, or RGB colours `[height, width, 3]`.
          where: What to call the mask in an error.
          palette: uint8 `[n, 3]`, the colours that the file has for the first n ids, or None.

        Returns:
          uint8 `[height, width]`: class ids, or `ignore_label`.

        Raises:
          UserError: A pixel is neither a class nor void, or by its id another than by its colour.
        """
        if contradiction := self.contradiction(stored, palette):
            raise UserError(
                f"mask {where} stores {contradiction}: save it as RGB, or with the ids of the list."
            )
        labels, valid = self.decode_known(stored, where)
        if not valid.all():
            self._refuse(stored, valid, where)
        return labels

    def decode_known(self, stored: np.ndarray, where: str) -> tuple[np.ndarray, np.ndarray]:
        """As `decode`, but returns beside the labels, bool `[height, width]`, where they are known.

        Raises:
          UserError: The mask holds colours, and no colour has a meaning.
        """
        if stored.ndim == 2:
            return self._labels.take(stored), self._valid.take(stored)
        if not self.colors:
            raise UserError(
                f"mask {where} holds colours, not one class id a pixel: say which colour is which "
                "class in a classes.txt beside the images (a line a class, as '1 cat #800000')."
            )
        keys = color_keys(stored)
        place = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return self._values.take(place), self._keys.take(place) == keys

    def contradiction(self, stored: np.ndarray, palette: np.ndarray | None) -> str:
        """Says where ids mean other classes than the colours they have, "" if nowhere.

        Programs that save a drawing in colours as a palette or in greys number the colours anew.
        Greys are taken for colours only where they are no id of a class.

        Args:
          stored: As for `decode`.
          palette: As for `decode`.
        """
        if stored.ndim == 3 or not self.colors:
            return ""
        if palette is None:
            colors: dict[int, Color] = {
                value: (value, value, value)
                for value in used_ids(stored)
                if self.ids.get(value, self.ignore_label) == self.ignore_label
            }
        else:
            colors = used_colors(stored, palette)
        for value, color in colors.items():
            if color in self.colors and self.colors[color] != self.ids.get(value):
                text = color_text(color)
                return f"the id {value} as {text}, the colour of another class in the list"
        return ""

    def _refuse(self, stored: np.ndarray, valid: np.ndarray, where: str) -> None:
        row, column = np.argwhere(~valid)[0]
        value = stored[row, column]
        if stored.ndim == 3:
            raise UserError(
                f"mask {where} holds the colour {color_text(value)} (first at row {row}, column "
                f"{column}), which is no class: add it to the list of colours, or correct the mask."
            )
        raise UserError(
            f"mask {where} holds the label {value} (first at row {row}, column {column}), but the "
            f"classes are {_ranges(self.ids, self.ignore_label)}: correct the mask or num_classes, "
            f"or add {value} to void_labels if it means void."
        )

    def describe(self) -> dict[str, Any]:
        """Returns plain values for JSON that are equal for codes of one meaning."""
        return {
            "num_classes": self.num_classes,
            "ignore_label": self.ignore_label,
            "ids": [[stored, label] for stored, label in sorted(self.ids.items())],
            "colors": [[color_text(color), label] for color, label in sorted(self.colors.items())],
        }


def make_code(
    num_classes: int,
    ignore_label: int = 255,
    void_labels: Sequence[int] = (),
    class_ids: Sequence[int] = (),
    colors: Sequence[Color] = (),
    void_colors: Sequence[Color] = (),
) -> LabelCode:
    """Describes masks that store an id or a colour for each class.

    Args:
      num_classes: Number of classes; labels run from 0.
      ignore_label: Label of void; stored, it means void as well, unless it is in `class_ids`.
      void_labels: Further stored ids of void.
      class_ids: Stored id of each class; 0, 1, 2, ... if empty.
      colors: One a class, if masks may store colours.
      void_colors: Colours of void.

    Raises:
      UserError: The numbers contradict one another.
    """
    if not 2 <= num_classes <= 255:
        raise UserError(f"num_classes is {num_classes}: give a number of classes from 2 to 255.")
    if num_classes > ignore_label or ignore_label > 255:
        raise UserError(
            f"ignore_label is {ignore_label}: choose a value from num_classes ({num_classes}) to "
            "255, so that void is no class; a mask's other void values belong in void_labels."
        )
    for name, values in (("colours", colors), ("class_ids", class_ids)):
        if values and len(values) != num_classes:
            raise UserError(
                f"there are {len(values)} {name} for {num_classes} classes: give one a class."
            )
    stored = tuple(class_ids) or tuple(range(num_classes))
    for value in (*void_labels, *stored):
        if not 0 <= value <= 255:
            raise UserError(
                f"void_labels or class_ids holds {value}: masks store ids from 0 to 255."
            )
    if len(set(stored)) != num_classes or set(stored) & set(void_labels):
        raise UserError(
            f"class_ids {stored} and void_labels {tuple(void_labels)} must all be different."
        )
    ids = dict.fromkeys((ignore_label, *void_labels), ignore_label)
    ids |= {value: label for label, value in enumerate(stored)}
    by_color: dict[Color, int] = dict.fromkeys(void_colors, ignore_label)
    by_color |= {color: label for label, color in enumerate(colors)}
    if len(by_color) != len(colors) + len(void_colors):
        raise UserError("two classes have the same colour: give each its own.")
    return LabelCode(ids, by_color if colors else {}, num_classes, ignore_label)


def parse_color(text: str) -> Color:
    """Reads "#rrggbb".

    Raises:
      UserError: It is written otherwise.
    """
    digits = text.removeprefix("#")
    try:
        if len(digits) != 6 or not text.startswith("#"):
            raise ValueError
        return (int(digits[:2], 16), int(digits[2:4], 16), int(digits[4:], 16))
    except ValueError:
        raise UserError(
            f"the colour {text!r} must be written as #rrggbb, such as #800000."
        ) from None


def color_text(color: Any) -> str:
    """Writes a colour of three numbers from 0 to 255 as "#rrggbb"."""
    return "#" + "".join(f"{int(part):02x}" for part in color)


def color_keys(colors: np.ndarray) -> Any:
    """Returns one integer for each colour `[..., 3]`: sorting rows takes seconds for a picture."""
    wide = colors.astype(np.int32)
    return (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]


def used_ids(stored: np.ndarray) -> list[int]:
    """Returns the ids that occur in uint8 `[height, width]`, rising."""
    return np.flatnonzero(np.bincount(stored.ravel(), minlength=256)).tolist()


def used_colors(stored: np.ndarray, palette: np.ndarray | None) -> dict[int, Color]:
    """Returns the colours of the ids that occur; none where the palette has one for several."""
    if palette is None:
        return {}
    ids = [value for value in used_ids(stored) if value < len(palette)]
    colors: list[Color] = [tuple(palette[value].tolist()) for value in ids]
    return dict(zip(ids, colors, strict=True)) if len(set(colors)) == len(ids) else {}


def key_color(key: int) -> Color:
    """Returns the colour that has a key."""
    return (key >> 16, key >> 8 & 255, key & 255)


def _ranges(ids: Mapping[int, int], ignore_label: int) -> str:
    """Says which stored ids are classes and which void, as "0 to 10, and void is 11, 255"."""
    classes = sorted(stored for stored, label in ids.items() if label != ignore_label)
    void = sorted(stored for stored, label in ids.items() if label == ignore_label)
    spans: list[list[int]] = []
    for value in classes:
        if spans and value == spans[-1][1] + 1:
            spans[-1][1] = value
        else:
            spans.append([value, value])
    words = ", ".join(f"{a} to {b}" if a < b else str(a) for a, b in spans)
    return f"{words}, and void is {', '.join(map(str, void))}"
