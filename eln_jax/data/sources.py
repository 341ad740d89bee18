"""Where examples come from: the protocol of a source, and a folder of images and masks."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from eln_jax.data.decoding import (
    IMAGE_SUFFIXES,
    decode_image,
    decode_mask,
    image_geometry,
    match_orientation,
)
from eln_jax.errors import UserError, did_you_mean

_MAX_CLASSES = 255


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

    def describe(self) -> dict[str, Any]:
        """Returns what beside the ids decides what is read, as plain values for JSON."""
        ...


def check_classes(
    num_classes: int, class_names: Sequence[str], ignore_label: int
) -> tuple[str, ...]:
    """Checks the numbers of a labelling and returns one name a class.

    Raises:
      UserError: Too few or too many classes or names, or void that is also a class.
    """
    if not 2 <= num_classes <= _MAX_CLASSES:
        raise UserError(
            f"num_classes is {num_classes}: give a number of classes from 2 to {_MAX_CLASSES}."
        )
    if num_classes > ignore_label or ignore_label > 255:
        raise UserError(
            f"ignore_label is {ignore_label}: choose a value from num_classes ({num_classes}) to "
            "255, so that void is no class; a mask's other void values belong in void_labels."
        )
    if class_names and len(class_names) != num_classes:
        raise UserError(
            f"there are {len(class_names)} class_names for {num_classes} classes: give one name a "
            "class, in the order of the ids, or none."
        )
    return tuple(class_names) or tuple(f"class {index}" for index in range(num_classes))


class FolderSource:
    """Images below `root/images/[split]`, masks of the same relative stem below `root/masks`.

    Subfolders are searched. An image's id is its path below the (split's) folder without the
    suffix. A mask is a PNG that stores one class id a pixel, as palette index or 8-bit grey. Images
    without a mask are unlabelled.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        num_classes: int,
        images: str = "images",
        masks: str = "masks",
        split: str | None = None,
        ignore_label: int = 255,
        void_labels: Sequence[int] = (),
        class_names: Sequence[str] = (),
    ):
        """Lists the files; opens none.

        Args:
          root: Folder that holds the data set.
          num_classes: Number of classes without void; ids run from 0.
          images: Folder of the images below `root`.
          masks: Folder of the masks below `root`; it need not exist if nothing is labelled.
          split: Subfolder of both; none if empty.
          ignore_label: Id of void pixels, in the files and in what `read_label` returns.
          void_labels: Further ids in the files that `read_label` returns as `ignore_label`.
          class_names: One a class; "class 0", "class 1", ... if empty.

        Raises:
          UserError: A folder is missing or has no images, two images share an id, or the numbers
            contradict each other.
        """
        self.num_classes = num_classes
        self.ignore_label = ignore_label
        self.class_names = check_classes(num_classes, class_names, ignore_label)
        image_folder = _existing_folder(Path(root), images, split)
        mask_folder = Path(root) / masks / (split or "")
        self._image_paths = _image_files(image_folder)
        self.ids: Sequence[str] = list(self._image_paths)
        masks_by_id = _files_by_id(mask_folder, (".png",), "masks")
        self._mask_paths = {key: masks_by_id[key] for key in self.ids if key in masks_by_id}
        self._ids_to_labels, self._valid = _label_tables(num_classes, ignore_label, void_labels)
        self._description = {
            "kind": "folder",
            "folders": [images, masks, split or ""],
            "num_classes": num_classes,
            "ignore_label": ignore_label,
            "void_labels": sorted(void_labels),
        }

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.ids)

    def has_label(self, index: int) -> bool:
        """Tells whether the image has a mask, without opening it."""
        return self.ids[index] in self._mask_paths

    def describe(self) -> dict[str, Any]:
        """Returns the settings as plain values, without the root: a data set may move."""
        return dict(self._description)

    def image_path(self, index: int) -> Path:
        """Returns the path of an image."""
        return self._image_paths[self.ids[index]]

    def mask_path(self, index: int) -> Path:
        """Returns the path of an image's mask.

        Raises:
          UserError: The image has no mask.
        """
        if not self.has_label(index):
            raise UserError(
                f"image {self.image_path(index)} has no mask: add the PNG of the same name to the "
                "folder of masks, or leave the image out of the labelled and validation images."
            )
        return self._mask_paths[self.ids[index]]

    def read_image(self, index: int) -> np.ndarray:
        """Reads an image.

        Returns:
          uint8 RGB `[height, width, 3]`, upright.

        Raises:
          UserError: The file cannot be read.
        """
        return decode_image(self.image_path(index))

    def read_label(self, index: int) -> np.ndarray:
        """Reads the mask of an image and checks it against the image's size and the classes.

        Returns:
          uint8 `[height, width]`: class ids below `num_classes`, or `ignore_label`.

        Raises:
          UserError: There is no mask, it cannot be read, its size is not the image's, or it holds
            an id that is neither a class nor void.
        """
        path = self.mask_path(index)
        stored, turned = decode_mask(path)
        size, orientation = image_geometry(self.image_path(index))
        stored = match_orientation(stored, size, orientation, turned, str(path))
        valid = self._valid.take(stored)
        if not valid.all():
            self._refuse(stored, valid, path)
        return self._ids_to_labels.take(stored)

    def _refuse(self, stored: np.ndarray, valid: np.ndarray, path: Path) -> None:
        row, column = np.argwhere(~valid)[0]
        value = stored[row, column]
        raise UserError(
            f"mask {path} holds the label {value} (first at row {row}, column {column}), but the "
            f"classes are 0 to {self.num_classes - 1} and void is {self.ignore_label}: correct the "
            f"mask or num_classes, or add {value} to void_labels if it means void."
        )


def subset(source: Source, wanted: Sequence[str], origin: str = "the list of ids") -> list[int]:
    """Looks up the indices of ids in a source, in the order given.

    Args:
      source: The source that holds them.
      wanted: Exact ids.
      origin: Where the ids come from, for the error.

    Raises:
      UserError: An id is unknown; the error names the nearest one that exists.
    """
    index_of = {key: index for index, key in enumerate(source.ids)}
    for key in wanted:
        if key not in index_of:
            raise UserError(
                f"{origin} names the image {key!r}, which the data set does not have."
                + did_you_mean(key, source.ids)
            )
    return [index_of[key] for key in wanted]


def _existing_folder(root: Path, images: str, split: str | None) -> Path:
    """Returns the folder of the images, or says at which step the path ends."""
    if not root.is_dir():
        raise UserError(f"there is no folder {root}: give the data set's folder as root.")
    folder = root / images
    if not folder.is_dir():
        found = sorted(path.name for path in root.iterdir() if path.is_dir())
        raise UserError(
            f"there is no folder {folder}: put the images there, or name the folder of the images "
            f"below {root} (it has {', '.join(found) or 'no folders'})."
        )
    if split and not (folder / split).is_dir():
        found = sorted(path.name for path in folder.iterdir() if path.is_dir())
        raise UserError(
            f"there is no split {split!r} in {folder}: choose one of its folders "
            f"({', '.join(found) or 'there are none'})."
        )
    return folder / split if split else folder


def _image_files(folder: Path) -> dict[str, Path]:
    """Returns the images below a folder by id; at least one."""
    files = _files_by_id(folder, IMAGE_SUFFIXES, "images")
    if not files:
        kinds = ", ".join(suffix[1:] for suffix in IMAGE_SUFFIXES)
        raise UserError(f"there are no images below {folder}: put some there ({kinds}).")
    return files


def _files_by_id(folder: Path, suffixes: Sequence[str], kind: str) -> dict[str, Path]:
    """Returns the files below a folder by id, sorted by id; hidden files are passed over."""
    files: dict[str, Path] = {}
    for path in _walk(folder):
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        key = path.relative_to(folder).with_suffix("").as_posix()
        if key in files:
            raise UserError(
                f"two {kind} share the name {key!r}: {files[key]} and {path}; rename or remove one."
            )
        files[key] = path
    return dict(sorted(files.items()))


def _walk(folder: Path) -> list[Path]:
    """Lists the files below a folder, through links to folders, each real folder once."""
    found: list[Path] = []
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        found.extend(Path(parent, name) for name in sorted(names))
        folders.sort()
    return found


def _label_tables(
    num_classes: int, ignore_label: int, void_labels: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns two tables over stored ids: the label each becomes, and whether it may occur."""
    labels = np.arange(256, dtype=np.uint8)
    valid = labels < num_classes
    for value in (ignore_label, *void_labels):
        if not 0 <= value <= 255:
            raise UserError(f"void_labels holds {value}: masks store ids from 0 to 255.")
        labels[value] = ignore_label
        valid[value] = True
    return labels, valid
