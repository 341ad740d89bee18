"""Where examples come from: the protocol of a source, and examples that lie in files."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from eln_jax.data.decoding import decode_image, decode_mask, image_geometry, match_orientation
from eln_jax.data.labels import LabelCode
from eln_jax.errors import UserError


class Source(Protocol):
    """Examples by index: pictures, and maps of class ids for those that have one.

    A source is a plain picklable object: worker processes get a copy.
    """

    ids: Sequence[str]
    num_classes: int
    class_names: tuple[str, ...]
    ignore_label: int

    def __len__(self) -> int:
        """Returns the number of examples."""
        ...

    def read_image(self, index: int) -> np.ndarray:
        """Returns the picture, uint8 RGB `[height, width, 3]`."""
        ...

    def read_label(self, index: int) -> np.ndarray:
        """Returns the class ids, uint8 `[height, width]`, void as `ignore_label`."""
        ...

    def has_label(self, index: int) -> bool:
        """Tells whether there is a label to read, without opening it."""
        ...

    def location(self, index: int) -> str:
        """Returns where the picture lies; two splits that share a picture give the same."""
        ...

    def describe(self) -> dict[str, Any]:
        """Returns what beside the ids decides what is read, as plain values for JSON."""
        ...


class ExampleFiles(NamedTuple):
    """The files of an example; without a mask it is unlabelled."""

    id: str
    image: Path
    mask: Path | None


class FileSource:
    """Examples that lie in files, an image and a mask each."""

    def __init__(
        self,
        examples: Iterable[ExampleFiles],
        code: LabelCode,
        *,
        class_names: Sequence[str] = (),
        description: Mapping[str, Any],
        stray_masks: Sequence[Path] = (),
    ):
        """Opens no file.

        Args:
          examples: In any order; the source has them sorted by id.
          code: What the masks' pixels mean.
          class_names: One a class; "class 0", "class 1", ... if empty.
          description: What beside ids and code decides what is read, as plain values.
          stray_masks: Masks that no image has; they are not read.

        Raises:
          UserError: There is another number of names than of classes.
        """
        self.examples = sorted(examples)
        self.code = code
        self.ids: Sequence[str] = [example.id for example in self.examples]
        self.num_classes, self.ignore_label = code.num_classes, code.ignore_label
        self.class_names = check_names(code.num_classes, class_names)
        self.stray_masks = tuple(stray_masks)
        self._description = dict(description)

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.ids)

    def has_label(self, index: int) -> bool:
        """Tells whether the image has a mask, without opening it."""
        return self.examples[index].mask is not None

    def location(self, index: int) -> str:
        """Returns the path of an image."""
        return str(self.examples[index].image)

    def describe(self) -> dict[str, Any]:
        """Returns plain values, without the files' places: a data set may move."""
        return self._description | self.code.describe()

    def mask_path(self, index: int) -> Path:
        """Returns the path of an image's mask.

        Raises:
          UserError: The image has no mask.
        """
        example = self.examples[index]
        if example.mask is None:
            raise UserError(
                f"image {example.image} has no mask: add the mask of the same name to the folder "
                "of masks, or leave the image out of the labelled and validation images."
            )
        return example.mask

    def read_image(self, index: int) -> np.ndarray:
        """Reads an image.

        Returns:
          uint8 RGB `[height, width, 3]`, upright.

        Raises:
          UserError: The file cannot be read.
        """
        return decode_image(self.examples[index].image)

    def read_label(self, index: int) -> np.ndarray:
        """Reads the mask of an image and checks it against the image's size and the classes.

        Returns:
          uint8 `[height, width]`: class ids below `num_classes`, or `ignore_label`.

        Raises:
          UserError: There is no mask, it cannot be read, its size is not the image's, or it holds
            an id or a colour that is neither a class nor void.
        """
        path = self.mask_path(index)
        mask = decode_mask(path)
        size, orientation = image_geometry(self.examples[index].image)
        stored = match_orientation(mask.pixels, size, orientation, mask.turned, str(path))
        return self.code.decode(stored, str(path), mask.palette)


def check_names(num_classes: int, class_names: Sequence[str]) -> tuple[str, ...]:
    """Returns one name a class, "class 0", "class 1", ... where none are given.

    Raises:
      UserError: There are too few or too many.
    """
    if class_names and len(class_names) != num_classes:
        raise UserError(
            f"there are {len(class_names)} class_names for {num_classes} classes: give one name a "
            "class, in the order of the ids, or none."
        )
    return tuple(class_names) or tuple(f"class {index}" for index in range(num_classes))
