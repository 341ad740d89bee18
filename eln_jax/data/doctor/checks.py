"""What is wrong with a data set as a whole, and its figures: from what its images told by one."""

import itertools
import statistics
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from eln_jax.data.classes import ClassList
from eln_jax.data.doctor.faults import PART_NAMES, PARTS, Fault, make_fault
from eln_jax.data.doctor.images import ImageFacts, Size, size_text, too_small
from eln_jax.data.doctor.listing import masks_without_image
from eln_jax.data.doctor.masks import MaskFacts
from eln_jax.data.partitions import Partition
from eln_jax.data.sources import FileSource, Source

# An image that is this many times wider or taller than the data set's median is unusual.
_UNUSUAL = 3.0


class Example(NamedTuple):
    """One image in the part that it plays, and what was found out about it."""

    part: str
    file: str
    image: ImageFacts
    mask: MaskFacts | None


def parts_of(train: Source, val: Source, partition: Partition) -> list[tuple[str, Source, int]]:
    """Lists the images that a training reads: part, source and index."""
    sources = {"labeled": train, "unlabeled": train, "val": val}
    return [(part, sources[part], i) for part in PARTS for i in getattr(partition, part)]


def empty_parts(partition: Partition, found: Sequence[Fault]) -> Iterator[Fault]:
    """Yields the parts that need images and have none, unless it was found before and why."""
    told = [fault.file for fault in found if fault.fault == "empty split"]
    for part in ("labeled", "val"):
        if not getattr(partition, part) and part_text(part) not in told:
            yield make_fault("empty split", part_text(part), "there are none")


def part_text(part: str) -> str:
    """Names the images of a part where a fault names a file."""
    return f"({PART_NAMES[part]} images)"


def images_without_mask(train: Source, val: Source, partition: Partition) -> Iterator[Fault]:
    """Yields labelled and validation images that have no mask; opens nothing."""
    wanted = [("labeled", train, index) for index in partition.labeled]
    # Of a split of its own all images are meant to validate, not only those that have a mask.
    of_val = partition.val if val is train else range(len(val))
    wanted += [("val", val, index) for index in of_val]
    for part, source, index in wanted:
        if not source.has_label(index):
            detail = f"a {PART_NAMES[part]} image"
            yield make_fault("image without mask", source.location(index), detail)


def stray_masks(train: Source, val: Source) -> Iterator[Fault]:
    """Yields masks that no image has; lists folders, opens nothing."""
    for source in (train,) if val is train else (train, val):
        if isinstance(source, FileSource):
            yield from masks_without_image(source)


def small_images(examples: Sequence[Example], crop_size: Size | None) -> Iterator[Fault]:
    """Yields training images smaller than the crop; validation images are not cropped."""
    for example in examples:
        if example.part != "val" and example.image.size is not None:
            yield from too_small(example.file, example.image.size, crop_size)


def unusual_aspects(examples: Sequence[Example]) -> Iterator[Fault]:
    """Yields images far wider or taller than most."""
    sized = [(example.file, example.image.size) for example in examples if example.image.size]
    if not sized:
        return
    median = statistics.median(width / height for _, (height, width) in sized)
    for file, size in sized:
        aspect = size[1] / size[0]
        if max(aspect / median, median / aspect) > _UNUSUAL:
            detail = f"{size_text(size)}: width/height is {aspect:.2f}, the median {median:.2f}"
            yield make_fault("unusual aspect", file, detail)


def identical_images(examples: Sequence[Example]) -> Iterator[Fault]:
    """Yields pictures that occur more than once.

    Across parts it is the training image that is told, the unlabelled one before the labelled one;
    within a part all but the first.
    """
    groups: dict[bytes, dict[str, list[str]]] = {}
    for example in examples:
        if example.image.digest is not None:
            group = groups.setdefault(example.image.digest, {part: [] for part in PARTS})
            group[example.part].append(example.file)
    for group in groups.values():
        for part in PARTS:
            for file in group[part]:
                if part != "val" and group["val"]:
                    yield _same("leakage", file, part, group["val"][0], "val")
                if part == "unlabeled" and group["labeled"]:
                    other = group["labeled"][0]
                    yield _same("labelled and unlabelled", file, part, other, "labeled")
            for file in group[part][1:]:
                yield _same("identical images", file, part, group[part][0], part)


def _same(kind: str, file: str, part: str, other: str, other_part: str) -> Fault:
    detail = f"{PART_NAMES[part]}, the same picture as the {PART_NAMES[other_part]} image {other}"
    return make_fault(kind, file, detail)


def unused_ids(found: ClassList) -> Iterator[Fault]:
    """Yields a fault if ids below the largest that was found occur in no mask."""
    if found.gap is None:
        return
    mask, largest, unused = found.gap
    # Neighbours have the same distance from their place in the row.
    runs = [
        [value for _, value in run]
        for _, run in itertools.groupby(enumerate(unused), lambda pair: pair[1] - pair[0])
    ]
    texts = [str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs]
    more = " and others" if len(texts) > 6 else ""
    detail = (
        f"the id {largest} makes {largest + 1} classes, of which {', '.join(texts[:6])}{more} "
        "occur in no mask"
    )
    yield make_fault("unused ids", mask, detail)


def image_sizes(examples: Sequence[Example]) -> dict[str, dict[str, dict[str, float]]]:
    """Returns by part, of width and height, the smallest, median and largest in pixels."""
    sizes: dict[str, dict[str, dict[str, float]]] = {}
    for part in PARTS:
        known = [e.image.size for e in examples if e.part == part and e.image.size]
        sizes[part] = {}
        for axis, name in ((1, "width"), (0, "height")) if known else ():
            values = [size[axis] for size in known]
            middle = statistics.median(values)
            sizes[part][name] = {"min": min(values), "median": middle, "max": max(values)}
    return sizes


def class_shares(
    examples: Sequence[Example], source: Source
) -> tuple[dict[str, Any], Iterator[Fault]]:
    """Returns the classes' shares of the masks' pixels, and classes that only validation has."""
    names, places = list(source.class_names), list(range(source.num_classes))
    shares: dict[str, Any] = {}
    images: dict[str, Any] = {}
    for part in ("labeled", "val"):
        # The first row stands in where there is no mask.
        masks = [e.mask.pixels for e in examples if e.part == part and e.mask is not None]
        pixels = np.stack([np.zeros(256, np.int64), *masks])[:, [*places, source.ignore_label]]
        total = max(int(pixels.sum()), 1)
        shares[part] = dict(zip([*names, "void"], (pixels.sum(0) / total).tolist(), strict=True))
        times = (pixels > 0).sum(0).tolist()
        images[part] = dict(zip([*names, "void"], times, strict=True))
    absent = [name for name in names if not images["labeled"][name]]
    classes = {**shares, "images": images, "never_labeled": absent}
    faults = (
        make_fault(
            "class not labelled",
            f"(class {name.removeprefix('class ')})",
            f"in {images['val'][name]} validation mask(s) and in no labelled one",
        )
        for name in absent
        if images["val"][name]
    )
    return classes, faults
