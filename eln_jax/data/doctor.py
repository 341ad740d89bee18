"""Examines all that a training would read, and says what is wrong with it and what to do."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from eln_jax.data.doctor_checks import (
    PARTS,
    Example,
    class_shares,
    empty_parts,
    identical_images,
    image_file,
    image_sizes,
    images_without_mask,
    parts_of,
    small_images,
    stray_masks,
    unusual_aspects,
)
from eln_jax.data.doctor_files import (
    Size,
    inspect_array,
    inspect_image,
    inspect_label,
    inspect_mask,
    quiet_pillow,
)
from eln_jax.data.doctor_quick import quick_check
from eln_jax.data.faults import SEVERITIES, Fault, in_order, summary_lines
from eln_jax.data.partitions import Partition
from eln_jax.data.sources import FileSource, Source

__all__ = ["Fault", "Report", "examine", "quick_check", "summary_lines"]


@dataclasses.dataclass(frozen=True)
class Report:
    """What an examination found.

    Attributes:
      counts: Images by part, "labeled", "unlabeled" and "val"; "unused" ones of the training
        split; and "errors", "warnings" and "notes".
      sizes: By part, of "width" and "height" the "min", "median" and "max" in pixels.
      classes: "labeled" and "val" have the share of the masks' pixels by class name, and "void";
        "images" has by part the number of masks with the class; "never_labeled" lists names.
      faults: What is wrong, the gravest first.
    """

    counts: dict[str, int]
    sizes: dict[str, dict[str, dict[str, float]]]
    classes: dict[str, Any]
    faults: tuple[Fault, ...]

    @property
    def exit_code(self) -> int:
        """1 if there are errors, else 0."""
        return 1 if self.counts["errors"] else 0

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        return dataclasses.asdict(self)


def examine(
    train: Source,
    val: Source,
    partition: Partition,
    crop_size: Size | None = None,
    *,
    found: Iterable[Fault] = (),
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
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
      workers: Threads; None for one a core.
      progress: Told, in the calling thread, how many images of how many are done.
    """
    work, found = parts_of(train, val, partition), list(found)
    examples: list[Example] = []
    with quiet_pillow(), _threads(workers) as pool:
        for example in pool.map(lambda task: _inspect(*task), work):
            examples.append(example)
            if progress is not None:
                progress(len(examples), len(work))
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


@contextlib.contextmanager
def _threads(workers: int | None) -> Iterator[ThreadPoolExecutor]:
    """A pool that ends, at Ctrl-C, after the files in hand and not after all that are queued."""
    pool = ThreadPoolExecutor(workers or os.cpu_count() or 1)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _inspect(part: str, source: Source, index: int) -> Example:
    """Reads an image and, unless it is unlabelled, its mask."""
    wanted = part != "unlabeled" and source.has_label(index)
    file = image_file(source, index)
    if not isinstance(source, FileSource):
        image = inspect_array(source, index)
        return Example(part, file, image, inspect_label(source, index, image) if wanted else None)
    image = inspect_image(source.examples[index].image)
    mask = inspect_mask(source.mask_path(index), source.code, image) if wanted else None
    return Example(part, file, image, mask)
