"""The part of an examination that a training can afford at its start: headers alone."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from eln_jax.data.decoding import image_geometry
from eln_jax.data.doctor.checks import images_without_mask, parts_of
from eln_jax.data.doctor.faults import UNREADABLE_KINDS, Fault, in_order, make_fault
from eln_jax.data.doctor.images import Size, quiet_pillow, rotated, too_small, unreadable
from eln_jax.data.doctor.listing import stray_masks_listed
from eln_jax.data.doctor.masks import both_ways, size_mismatch
from eln_jax.data.partitions import Partition
from eln_jax.data.sources import FileSource, Source
from eln_jax.errors import UserError


def quick_check(
    train: Source,
    val: Source,
    partition: Partition,
    crop_size: Size | None = None,
    *,
    max_seconds: float = 2.0,
    clock: Callable[[], float] = time.monotonic,
) -> list[Fault]:
    """Reads headers, decodes nothing; sources without files have none.

    Finds files that are missing or are no pictures, masks of another size than their image, images
    without a mask, images turned by a mark, and images smaller than the crop. What only decoding
    tells, `eln_jax.data.doctor.examine` finds.

    Args:
      train: Source of the training images.
      val: Source of the validation images; may be the same.
      partition: Which images play which part.
      crop_size: Height and width of a training crop; None if images are not cropped.
      max_seconds: Time to spend, at most.
      clock: Tells the time.

    Returns:
      The faults, the gravest first. Where the time was over, the images looked at were drawn evenly
      from all parts, always in the same order, and a "check incomplete" says how many.
    """
    work = [task for task in parts_of(train, val, partition) if isinstance(task[1], FileSource)]
    order = np.random.default_rng(0).permutation(len(work))
    faults = list(images_without_mask(train, val, partition))
    faults += _stray_masks(train, val)
    end = clock() + max_seconds
    with quiet_pillow():
        for done, place in enumerate(order):
            if clock() > end:
                detail = f"{done} of {len(work)} images looked at"
                faults.append(make_fault("check incomplete", "(all images)", detail))
                break
            part, source, index = work[place]
            faults += _look(part, source, index, crop_size)
    return list(in_order(faults))


def _stray_masks(train: Source, val: Source) -> Iterator[Fault]:
    """Yields masks of no image; they stop no training, though an image may lack them."""
    for source in (train,) if val is train else (train, val):
        for fault in stray_masks_listed(source) if isinstance(source, FileSource) else ():
            yield dataclasses.replace(fault, severity="warning")


def would_stop(faults: Sequence[Fault], val: Source, partition: Partition) -> list[Fault]:
    """Picks the faults that would stop a training sooner or later.

    That is every error but damaged training images, whose place others take.
    """
    scored = {val.location(index) for index in partition.val}
    if isinstance(val, FileSource):
        scored |= {str(val.examples[index].mask) for index in partition.val}
    return [
        fault
        for fault in faults
        if fault.severity == "error"
        and (fault.fault not in UNREADABLE_KINDS or fault.file in scored)
    ]


def _look(part: str, source: Source, index: int, crop_size: Size | None) -> Iterator[Fault]:
    """Compares the headers of an image and, unless it is unlabelled, of its mask."""
    assert isinstance(source, FileSource)
    example = source.examples[index]
    size, orientation = None, 1
    try:
        size, orientation = image_geometry(example.image)
    except UserError as error:
        yield unreadable(example.image, error, "corrupt image")
    else:
        yield from rotated(example.image, size, orientation)
        if part != "val":
            yield from too_small(example.image, size, crop_size)
    if part == "unlabeled" or example.mask is None:
        return
    try:
        mask, mask_orientation = image_geometry(example.mask)
    except UserError as error:
        yield unreadable(example.mask, error, "corrupt mask")
        return
    if size is None:
        return
    turned = mask[::-1] if orientation >= 5 else mask
    lays = [mask] if orientation == 1 or mask_orientation != 1 else [mask, turned]
    if size not in lays:
        yield size_mismatch(example.mask, mask, size)
    elif lays == [size, size]:
        # Only its pixels tell whether it makes a difference, so no more than a warning.
        fault = both_ways(example.mask, orientation)
        yield dataclasses.replace(fault, severity="warning")
