"""Lists a data set's files without stopping at the first that is wrong: each becomes a fault."""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from eln_jax.data.builders import camvid, cityscapes, voc
from eln_jax.data.classes import MOST_COLORS, ClassList, scan_classes, stored_values
from eln_jax.data.doctor.faults import Fault, make_fault
from eln_jax.data.folder import UNSAFE_SUFFIXES, list_files, pair_files
from eln_jax.data.labels import LabelCode
from eln_jax.data.partitions import list_entries, nearest_id
from eln_jax.data.sources import FileSource, Source
from eln_jax.errors import UserError


def list_folder(
    root: str | Path,
    code: LabelCode,
    *,
    images: str,
    masks: str,
    split: str,
    class_names: Sequence[str] = (),
) -> tuple[FileSource, list[Fault]]:
    """As `open_folder`, but goes on where two files share a name or a mask has an unsafe format.

    Returns:
      The source, of files that share a name the first, with unsafe files as masks; and the faults.

    Raises:
      UserError: A folder is missing or has no images, or the numbers contradict each other.
    """
    files = list_files(root, images, masks, split)
    faults = []
    for by_id in (files.images, files.masks):
        for first, *others in by_id.values():
            detail = f"the same name as {first}"
            faults += (make_fault("duplicate name", path, detail) for path in others)
    for path in itertools.chain(*files.unsafe.values()):
        faults.append(make_fault("mask format", path, f"stored as {path.suffix[1:].upper()}"))
    return pair_files(files, code, [images, masks, split], class_names), faults


def list_voc(root: str | Path, split: str, ignore_label: int) -> tuple[FileSource, list[Fault]]:
    """As `voc.open_split`, but goes on where a listed image is missing.

    Raises:
      UserError: The layout is another one, or all images are missing.
    """
    examples = voc.list_examples(Path(root), split)
    present = [example for example in examples if example.image.is_file()]
    if not present:
        return voc.open_split(root, split, ignore_label), []
    detail = f"named by the list of the split {split!r}"
    missing = sorted(set(examples) - set(present))
    faults = [make_fault("missing image", example.image, detail) for example in missing]
    return voc.make_source(present, split, ignore_label), faults


def masks_without_image(source: FileSource) -> Iterator[Fault]:
    """Yields a fault for each mask in the source's layout that no image has; opens none."""
    yield from stray_masks_listed(source)
    known = {example.mask for example in source.examples}
    pairs = _PAIRS.get(source.describe().get("kind", ""))
    if pairs is None or not source.examples:
        return
    for mask, image in pairs(source):
        if mask not in known and not image.is_file():
            yield make_fault("mask without image", mask, f"no image {image}")


def stray_masks_listed(source: FileSource) -> Iterator[Fault]:
    """Those of `masks_without_image` that were met when the source was listed."""
    for mask in source.stray_masks:
        yield make_fault("mask without image", mask, "no image has its name")


Pairs = Iterator[tuple[Path, Path]]  # masks, and the images that would be theirs


def _camvid_pairs(source: FileSource) -> Pairs:
    folder = source.examples[0].image.parent
    for mask in folder.with_name(f"{folder.name}annot").glob("*.png"):
        yield mask, folder / mask.name


def _cityscapes_pairs(source: FileSource) -> Pairs:
    images = source.examples[0].image.parents[1]
    fine = images.parents[1] / "gtFine" / images.name
    for mask in fine.glob(f"*/*{cityscapes.MASK_ENDING}"):
        name = mask.name.removesuffix(cityscapes.MASK_ENDING) + cityscapes.IMAGE_ENDING
        yield mask, images / mask.parent.name / name


def _voc_pairs(source: FileSource) -> Pairs:
    devkit = source.examples[0].image.parents[1]
    for folder in voc.MASK_FOLDERS:
        for mask in (devkit / folder).glob("*.png"):
            yield mask, voc.image_path(devkit, mask.stem)


_PAIRS = {
    camvid.NAME: _camvid_pairs,
    cityscapes.NAME: _cityscapes_pairs,
    voc.NAME: _voc_pairs,
}


_MOST_HINTS = 10


def read_entries(path: str | Path, source: Source) -> tuple[list[int], list[Fault]]:
    """As `partitions.read_list`, but each line that names no image is a fault.

    Raises:
      UserError: The file cannot be read.
    """
    indices, faults = [], []
    for number, entry, index in list_entries(path, source):
        if index is None:
            # A list of another data set has thousands, and to look for each takes its time.
            near = nearest_id(entry, source) if len(faults) < _MOST_HINTS else ""
            detail = f"line {number}, {entry!r}.{near}"
            faults.append(make_fault("unknown id", path, detail))
        else:
            indices.append(index)
    return list(dict.fromkeys(indices)), faults


def find_classes_among(masks: Sequence[Path], void_ids: tuple[int, ...]) -> ClassList:
    """As `scan_classes`, but passes over masks that no training could read.

    Where some masks hold ids and some colours, those of which there are fewer are passed over.

    Raises:
      UserError: Fewer than two classes are left.
    """
    masks = [path for path in masks if path.suffix.lower() not in UNSAFE_SUFFIXES]
    with contextlib.suppress(UserError):
        return scan_classes(masks, void_ids)
    kinds: dict[str, list[Path]] = {"ids": [], "colours": []}
    for path in masks:
        try:
            kind, values, _ = stored_values(path)
        except UserError:
            continue
        if kind == "ids" or len(values) <= MOST_COLORS:
            kinds[kind].append(path)
    return scan_classes(max(kinds.values(), key=len), void_ids)
