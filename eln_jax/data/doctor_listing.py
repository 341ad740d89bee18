"""Lists a data set's files without stopping at the first that is wrong: each becomes a fault."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eln_jax.data.builders import camvid, cityscapes, voc
from eln_jax.data.classes import ClassList, scan_classes
from eln_jax.data.decoding import IMAGE_SUFFIXES, decode_mask
from eln_jax.data.doctor_files import JPEG_DETAIL
from eln_jax.data.faults import Fault, make_fault

# The walk that ends in loops of links, and the many ways to write an id, are those of training.
from eln_jax.data.folder import MASK_SUFFIXES, _walk, open_folder
from eln_jax.data.labels import LabelCode, make_code
from eln_jax.data.partitions import _find, read_list
from eln_jax.data.sources import ExampleFiles, FileSource, Source
from eln_jax.errors import UserError, did_you_mean

_JPEG_SUFFIXES = (".jpg", ".jpeg")
# As in scan_classes: a mask of more colours is a photograph, or smoothed.
_MOST_COLORS = 64
_VOC_MASKS = ("SegmentationClass", "SegmentationClassAug")


def list_folder(
    root: Path,
    code: LabelCode,
    *,
    images: str,
    masks: str,
    split: str,
    class_names: Sequence[str] = (),
) -> tuple[FileSource, list[Fault]]:
    """As `open_folder`, but goes on where two files share a name or a mask is a JPEG.

    Returns:
      The source, of files that share a name the first, with the JPEGs as masks; and the faults.

    Raises:
      UserError: A folder is missing or has no images, or the numbers contradict each other.
    """
    names = {"images": images, "masks": masks, "split": split, "class_names": class_names}
    try:
        return open_folder(root, code, **names), []
    except UserError:
        image_files, faults = _by_id(root / images / split, IMAGE_SUFFIXES)
        if not image_files:
            raise
        mask_folder = root / masks / split
        mask_files, doubled = _by_id(mask_folder, MASK_SUFFIXES)
        jpegs = {
            key: path
            for key, path in _by_id(mask_folder, _JPEG_SUFFIXES)[0].items()
            if key in image_files and key not in mask_files
        }
        faults += doubled
        faults += (make_fault("JPEG mask", path, JPEG_DETAIL) for path in jpegs.values())
        if not faults:
            raise
    mask_files |= jpegs
    source = FileSource(
        (ExampleFiles(key, path, mask_files.get(key)) for key, path in image_files.items()),
        code,
        class_names=class_names,
        description={"kind": "folder", "folders": [images, masks, split]},
    )
    return source, faults


def _by_id(folder: Path, suffixes: Sequence[str]) -> tuple[dict[str, Path], list[Fault]]:
    """Returns the files by id, and a fault for each file whose id another has."""
    files: dict[str, Path] = {}
    faults = []
    for path in _walk(folder):
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        key = path.relative_to(folder).with_suffix("").as_posix()
        if files.setdefault(key, path) is not path:
            faults.append(make_fault("duplicate name", path, f"the same name as {files[key]}"))
    return files, faults


def list_voc(root: Path, split: str, ignore_label: int) -> tuple[FileSource, list[Fault]]:
    """As `voc.open_split`, but goes on where a listed image is missing.

    Raises:
      UserError: The layout is another one, or all images are missing.
    """
    try:
        return voc.open_split(root, split, ignore_label), []
    except UserError:
        devkit = voc.find_devkit(root)
        keys = voc.split_ids(devkit, split)
        images = {key: devkit / "JPEGImages" / f"{key}.jpg" for key in keys}
        missing = [path for path in images.values() if not path.is_file()]
        if not missing or len(missing) == len(images):
            raise
    examples = []
    for key, image in images.items():
        places = (devkit / folder / f"{key}.png" for folder in _VOC_MASKS)
        mask = next((path for path in places if path.is_file()), None)
        examples += [] if image in missing else [ExampleFiles(key, image, mask)]
    source = FileSource(
        examples,
        make_code(len(voc.CLASS_NAMES), ignore_label),
        class_names=voc.CLASS_NAMES,
        description={"kind": voc.NAME, "split": split},
    )
    detail = f"named by the list of the split {split!r}"
    return source, [make_fault("missing image", path, detail) for path in missing]


def masks_without_image(source: FileSource) -> Iterator[Fault]:
    """Yields a fault for each mask in the source's layout that no image has; opens none."""
    known = {example.mask for example in source.examples}
    description = source.describe()
    pairs = _PAIRS.get(description.get("kind", ""))
    if pairs is None or not source.examples:
        return
    for mask, image in pairs(source, description):
        if mask not in known and not image.is_file():
            yield make_fault("mask without image", mask, f"no image {image}")


Pairs = Iterator[tuple[Path, Path]]  # masks, and the images that would be theirs


def _folder_pairs(source: FileSource, description: Mapping[str, Any]) -> Pairs:
    images, masks, split = description["folders"]
    first = source.examples[0]
    root = first.image.parents[len((Path(images) / split / first.id).parts) - 1]
    if Path(images) == Path(masks):
        return
    ids = set(source.ids)
    for key, mask in _by_id(root / masks / split, MASK_SUFFIXES)[0].items():
        if key not in ids:
            yield mask, root / images / split / key


def _camvid_pairs(source: FileSource, _: Mapping[str, Any]) -> Pairs:
    folder = source.examples[0].image.parent
    for mask in folder.with_name(f"{folder.name}annot").glob("*.png"):
        yield mask, folder / mask.name


def _cityscapes_pairs(source: FileSource, _: Mapping[str, Any]) -> Pairs:
    images = source.examples[0].image.parents[1]
    fine = images.parents[1] / "gtFine" / images.name
    for mask in fine.glob("*/*_gtFine_labelIds.png"):
        name = mask.name.replace("_gtFine_labelIds", "_leftImg8bit")
        yield mask, images / mask.parent.name / name


def _voc_pairs(source: FileSource, _: Mapping[str, Any]) -> Pairs:
    devkit = source.examples[0].image.parents[1]
    for folder in _VOC_MASKS:
        for mask in (devkit / folder).glob("*.png"):
            yield mask, devkit / "JPEGImages" / f"{mask.stem}.jpg"


_PAIRS = {
    "folder": _folder_pairs,
    camvid.NAME: _camvid_pairs,
    cityscapes.NAME: _cityscapes_pairs,
    voc.NAME: _voc_pairs,
}


def read_entries(path: str | Path, source: Source) -> tuple[list[int], list[Fault]]:
    """As `partitions.read_list`, but each line that names no image is a fault.

    Raises:
      UserError: The file cannot be read.
    """
    try:
        return read_list(path, source), []
    except UserError:
        try:
            lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError):
            lines = []
        if not lines:
            raise
    index_of = {key: index for index, key in enumerate(source.ids)}
    indices, faults = [], []
    for number, entry in enumerate(map(str.strip, lines), 1):
        if not entry or entry.startswith("#"):
            continue
        index = _find(entry, index_of)
        if index is None:
            hint = did_you_mean(entry, source.ids)
            faults.append(make_fault("unknown id", path, f"line {number}, {entry!r}.{hint}"))
        else:
            indices.append(index)
    return list(dict.fromkeys(indices)), faults


def find_classes_among(masks: Sequence[Path], void_ids: tuple[int, ...]) -> ClassList:
    """As `scan_classes`, but passes over masks that no training could read.

    Where some masks hold ids and some colours, those of which there are fewer are passed over.

    Raises:
      UserError: Fewer than two classes are left.
    """
    masks = [path for path in masks if path.suffix.lower() not in _JPEG_SUFFIXES]
    try:
        return scan_classes(masks, void_ids)
    except UserError:
        kinds: dict[int, list[Path]] = {2: [], 3: []}
        for path in masks:
            try:
                stored, _ = decode_mask(path)
            except UserError:
                continue
            packed = stored.astype(int) @ [1 << 16, 1 << 8, 1] if stored.ndim == 3 else stored
            if stored.ndim == 2 or len(np.unique(packed)) <= _MOST_COLORS:
                kinds[stored.ndim].append(path)
        return scan_classes(max(kinds.values(), key=len), void_ids)
