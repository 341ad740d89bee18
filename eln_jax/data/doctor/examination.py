"""Examines all that a training would read, and says what is wrong with it and what to do."""

import functools
from collections.abc import Callable, Iterable

from eln_jax.data.doctor.checks import (
    Example,
    class_shares,
    empty_parts,
    identical_images,
    image_sizes,
    images_without_mask,
    parts_of,
    small_images,
    stray_masks,
    unusual_aspects,
)
from eln_jax.data.doctor.faults import PARTS, SEVERITIES, Fault, in_order
from eln_jax.data.doctor.images import Size, inspect_array, inspect_image, quiet_pillow
from eln_jax.data.doctor.masks import inspect_label, inspect_mask
from eln_jax.data.doctor.report import Report
from eln_jax.data.partitions import Partition
from eln_jax.data.records import RecordSource
from eln_jax.data.sources import FileSource, Source
from eln_jax.data.threads import thread_pool


def examine(
    train: Source,
    val: Source,
    partition: Partition,
    crop_size: Size | None = None,
    *,
    found: Iterable[Fault] = (),
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Decodes every image, and the masks of labelled and validation images.

    Masks of unlabelled images are never opened, and nothing is written. Threads do the work: the
    decoders let go of the interpreter, and no source has to travel to another process.

    Args:
      train: Source of the training images.
      val: Source of the validation images; may be the same.
      partition: Which images play which part; it may hold images without a mask, which are told.
      crop_size: Height and width of a training crop; None if images are not cropped.
      found: What was found wrong before, as the sources were opened.
      progress: Told, in the calling thread, how many images are done.
    """
    work, found = parts_of(train, val, partition), list(found)
    examples: list[Example] = []
    with quiet_pillow(), thread_pool() as pool:
        for example in pool.map(lambda task: _inspect(*task), work):
            examples.append(example)
            if progress is not None:
                progress(len(examples))
    classes, class_faults = class_shares(examples, train)
    faults = in_order(
        [
            *found,
            *empty_parts(partition, found),
            *images_without_mask(train, val, partition),
            *stray_masks(train, val),
            *(fault for example in examples for fault in example.image.faults),
            *(fault for example in examples if example.mask for fault in example.mask.faults),
            *small_images(examples, crop_size),
            *unusual_aspects(examples),
            *identical_images(examples),
            *class_faults,
        ]
    )
    counts = {part: len(getattr(partition, part)) for part in PARTS}
    in_train = counts["labeled"] + counts["unlabeled"] + (counts["val"] if val is train else 0)
    counts["unused"] = len(train) - in_train
    for severity in SEVERITIES:
        counts[f"{severity}s"] = sum(fault.severity == severity for fault in faults)
    return Report(counts, image_sizes(examples), classes, faults)


def _inspect(part: str, source: Source, index: int) -> Example:
    """Reads an image and, unless it is unlabelled, its mask."""
    name = source.location(index)
    if isinstance(source, FileSource):
        image = inspect_image(source.examples[index].image.read_bytes, name)
    elif isinstance(source, RecordSource):
        image = inspect_image(functools.partial(source.stored_image, index), name)
    else:
        image = inspect_array(source, index)
    if part == "unlabeled" or not source.has_label(index):
        return Example(part, name, image, None)
    if isinstance(source, FileSource):
        return Example(part, name, image, inspect_mask(source.mask_path(index), source.code, image))
    return Example(part, name, image, inspect_label(source, index, image))
