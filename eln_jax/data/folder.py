"""A folder of images and masks as a source: files paired by their names."""

import os
from collections.abc import Sequence
from pathlib import Path

from eln_jax.data.decoding import IMAGE_SUFFIXES
from eln_jax.data.labels import LabelCode
from eln_jax.data.sources import ExampleFiles, FileSource
from eln_jax.errors import UserError

# Formats that keep a pixel's value as it is; JPEG does not.
MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".webp", ".gif")


def open_folder(
    root: str | os.PathLike[str],
    code: LabelCode,
    *,
    images: str = "images",
    masks: str = "masks",
    split: str = "",
    class_names: Sequence[str] = (),
) -> FileSource:
    """Lists images below `root/images/[split]` and masks of the same relative stem; opens none.

    Subfolders are searched. An image's id is its path below the (split's) folder without the
    suffix. Images without a mask are unlabelled.

    Args:
      root: Folder that holds the data set.
      code: What the masks' pixels mean.
      images: Folder of the images below `root`.
      masks: Folder of the masks below `root`; it need not exist if nothing is labelled.
      split: Subfolder of both; none if empty.
      class_names: One a class; "class 0", "class 1", ... if empty.

    Raises:
      UserError: A folder is missing or has no images, two images share an id, a mask is a JPEG, or
        the numbers contradict each other.
    """
    image_folder = _existing_folder(Path(root), images, split)
    image_files = _image_files(image_folder)
    mask_folder = Path(root) / masks / split
    mask_files = files_by_id(mask_folder, MASK_SUFFIXES, "masks")
    _refuse_jpeg(mask_folder, image_files.keys() - mask_files.keys())
    return FileSource(
        (ExampleFiles(key, path, mask_files.get(key)) for key, path in image_files.items()),
        code,
        class_names=class_names,
        description={"kind": "folder", "folders": [images, masks, split]},
    )


def has_split(root: str | os.PathLike[str], images: str, split: str) -> bool:
    """Tells whether the images have a folder of that split."""
    return bool(split) and (Path(root) / images / split).is_dir()


def _refuse_jpeg(folder: Path, without_mask: set[str]) -> None:
    for key in sorted(without_mask):
        for suffix in (".jpg", ".jpeg", ".JPG", ".JPEG"):
            path = folder / f"{key}{suffix}"
            if path.is_file():
                raise UserError(
                    f"mask {path} is a JPEG, which changes the values of its pixels: save masks "
                    "as PNG."
                )


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


def _image_files(folder: Path) -> dict[str, Path]:
    """Returns the images below a folder by id; at least one."""
    files = files_by_id(folder, IMAGE_SUFFIXES, "images")
    if not files:
        kinds = ", ".join(suffix[1:] for suffix in IMAGE_SUFFIXES)
        raise UserError(f"there are no images below {folder}: put some there ({kinds}).")
    return files


def files_by_id(folder: Path, suffixes: Sequence[str], kind: str) -> dict[str, Path]:
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
