"""A folder of images and masks as a source: files paired by their names."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from eln_jax.data.decoding import IMAGE_SUFFIXES
from eln_jax.data.labels import LabelCode
from eln_jax.data.sources import ExampleFiles, FileSource
from eln_jax.errors import UserError

MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")
# Those of `decoding.UNSAFE_FOR_MASKS`.
UNSAFE_SUFFIXES = (".jpg", ".jpeg", ".webp", ".gif")


class FolderFiles(NamedTuple):
    """The files of a folder by id: each should have one.

    Attributes:
      images: Of each id its images; there is an id at least.
      masks: Of each id its masks, whether it has an image or not.
      unsafe: Of images without a mask the files in its place of a format that no mask should have.
    """

    images: dict[str, list[Path]]
    masks: dict[str, list[Path]]
    unsafe: dict[str, list[Path]]


def list_files(
    root: str | os.PathLike[str], images: str, masks: str, split: str = ""
) -> FolderFiles:
    """Lists images below `root/images/[split]` and masks below `root/masks/[split]`; opens none.

    An id is a path below these folders without the suffix. Subfolders are searched; what is hidden
    is passed over.

    Raises:
      UserError: A folder is missing, cannot be read or has no images, or one of the two lies in the
        other.
    """
    image_folder = _existing_folder(Path(root), images, split)
    mask_folder = Path(root) / masks / split
    real = [Path(os.path.realpath(folder)) for folder in (image_folder, mask_folder)]
    if real[0].is_relative_to(real[1]) or real[1].is_relative_to(real[0]):
        raise UserError(
            f"the images would be those below {image_folder} and the masks those below "
            f"{mask_folder}, one within the other: give each a folder of its own, with data.images "
            "and data.masks."
        )
    image_files = _by_id(image_folder, _walk(image_folder), IMAGE_SUFFIXES)
    if not image_files:
        kinds = ", ".join(suffix[1:] for suffix in IMAGE_SUFFIXES)
        raise UserError(f"there are no images below {image_folder}: put some there ({kinds}).")
    found = _walk(mask_folder)
    mask_files = _by_id(mask_folder, found, MASK_SUFFIXES)
    without_mask = image_files.keys() - mask_files.keys()
    unsafe = _by_id(mask_folder, found, UNSAFE_SUFFIXES)
    unsafe = {key: paths for key, paths in unsafe.items() if key in without_mask}
    return FolderFiles(image_files, mask_files, unsafe)


def open_folder(
    root: str | os.PathLike[str],
    code: LabelCode,
    *,
    images: str = "images",
    masks: str = "masks",
    split: str = "",
    class_names: Sequence[str] = (),
) -> FileSource:
    """Pairs images with the masks of the same id; opens none. Images without one are unlabelled.

    Args:
      root: Folder that holds the data set.
      code: What the masks' pixels mean.
      images: Folder of the images below `root`.
      masks: Folder of the masks below `root`; it need not exist if nothing is labelled.
      split: Subfolder of both; none if empty.
      class_names: One a class; "class 0", "class 1", ... if empty.

    Raises:
      UserError: As for `list_files`, and: two files share an id, a mask is a JPEG, WebP or GIF, or
        there are more or fewer names than classes.
    """
    files = list_files(root, images, masks, split)
    for kind, by_id in (("images", files.images), ("masks", files.masks)):
        for key, paths in by_id.items():
            if len(paths) > 1:
                raise UserError(
                    f"two {kind} share the name {key!r}: {paths[0]} and {paths[1]}; rename or "
                    "remove one."
                )
    for paths in files.unsafe.values():
        raise UserError(
            f"mask {paths[0]} is of a format whose writing changes the values of pixels: export "
            "masks anew as PNG from where they were drawn."
        )
    return pair_files(files, code, [images, masks, split], class_names)


def pair_files(
    files: FolderFiles, code: LabelCode, folders: Sequence[str], class_names: Sequence[str]
) -> FileSource:
    """Makes a source of listed files, of each id with the first of its images and of its masks.

    Args:
      files: As listed; the unsafe ones count as masks.
      code: What the masks' pixels mean.
      folders: The names of images, masks and split.
      class_names: One a class, or none.
    """
    masks = files.unsafe | files.masks
    return FileSource(
        (
            ExampleFiles(key, paths[0], masks[key][0] if key in masks else None)
            for key, paths in files.images.items()
        ),
        code,
        class_names=class_names,
        description={"kind": "folder", "folders": list(folders)},
        stray_masks=[
            path for key, paths in files.masks.items() if key not in files.images for path in paths
        ],
    )


def has_split(root: str | os.PathLike[str], images: str, split: str) -> bool:
    """Tells whether the images have a folder of that split."""
    return bool(split) and (Path(root) / images / split).is_dir()


def _existing_folder(root: Path, images: str, split: str) -> Path:
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
            f"({', '.join(found) or 'there are none'}), or keep a share of all the images for "
            "validation with data.val_fraction=0.2."
        )
    return folder / split if split else folder


def _by_id(folder: Path, paths: Sequence[Path], suffixes: Sequence[str]) -> dict[str, list[Path]]:
    """Groups the files of some kinds by id, sorted by id."""
    files: dict[str, list[Path]] = {}
    for path in paths:
        if path.suffix.lower() in suffixes and not path.name.startswith("."):
            key = path.relative_to(folder).with_suffix("").as_posix()
            files.setdefault(key, []).append(path)
    return dict(sorted(files.items()))


def _walk(folder: Path) -> list[Path]:
    """Lists the files below a folder, if there is one, through links, each real folder once."""
    found: list[Path] = []
    seen: set[str] = set()

    def refuse(error: OSError) -> None:
        if isinstance(error, FileNotFoundError) and error.filename == str(folder):
            return
        raise UserError(
            f"the folder {error.filename} cannot be read ({error.strerror}): give the right to "
            "read it, or take it out."
        ) from error

    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        found.extend(Path(parent, name) for name in sorted(names))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
    return found
