"""What is wrong with one mask, by itself and over its image: a small function a fault."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np

from eln_jax.data.decoding import UNSAFE_FOR_MASKS, decode_mask, match_orientation
from eln_jax.data.doctor.faults import Fault, make_fault
from eln_jax.data.doctor.images import ImageFacts, Size, read_header, size_text, unreadable
from eln_jax.data.labels import LabelCode, color_keys, color_text, key_color
from eln_jax.data.sources import Source
from eln_jax.errors import UnreadableFileError, UserError


class MaskFacts(NamedTuple):
    """What was found out about a mask.

    Attributes:
      pixels: Pixels by label, int64 `[256]`; without those that are no label.
      faults: What is wrong.
    """

    pixels: np.ndarray
    faults: list[Fault]


def inspect_mask(path: Path, code: LabelCode, image: ImageFacts) -> MaskFacts:
    """Reads a mask whole and says all that is wrong with it, and with it over its image."""
    nothing = np.zeros(256, np.int64)
    try:
        data = path.read_bytes()
        stored_as = read_header(data, str(path)).format
        if stored_as in UNSAFE_FOR_MASKS:
            return MaskFacts(nothing, [make_fault("mask format", path, f"stored as {stored_as}")])
        stored, turned, palette = decode_mask(BytesIO(data), str(path))
    except Exception as error:  # as above
        if isinstance(error, UserError) and not isinstance(error, UnreadableFileError):
            return MaskFacts(nothing, [make_fault("unsupported mask", path, str(error))])
        return MaskFacts(nothing, [unreadable(path, error, "corrupt mask")])
    faults = list(_misfit(path, stored, turned, image))
    try:
        labels, valid = code.decode_known(stored, str(path))
    except UserError:
        detail = "an RGB picture, and no colour has a meaning"
        return MaskFacts(nothing, [*faults, make_fault("colours without a map", path, detail)])
    if contradiction := code.contradiction(stored, palette):
        faults.append(make_fault("unsupported mask", path, contradiction))
    faults += _unknown_values(path, stored, valid)
    pixels = np.bincount(labels[valid], minlength=256)
    faults += entirely_void(path, pixels, labels.size, code.ignore_label)
    return MaskFacts(pixels, faults)


def _misfit(path: object, stored: np.ndarray, turned: bool, image: ImageFacts) -> Iterator[Fault]:
    """Yields a fault if the mask cannot be laid over its image, or in two ways."""
    if image.size is None:
        return
    try:
        match_orientation(stored, image.size, image.orientation, turned, str(path))
    except UserError:
        # What fits as it is stored, and is refused all the same, fits turned as well.
        if stored.shape[:2] == image.size:
            yield both_ways(path, image.orientation)
        else:
            yield size_mismatch(path, (stored.shape[0], stored.shape[1]), image.size)


def both_ways(path: object, orientation: int) -> Fault:
    """Returns the fault of a mask of which nobody can tell how it lies over its image."""
    detail = f"EXIF orientation {orientation} of its image may hold for it or not"
    return make_fault("mask fits both ways", path, detail)


def size_mismatch(path: object, mask: Size, image: Size) -> Fault:
    """Returns the fault of a mask that has another size than its image."""
    detail = f"mask {size_text(mask)}, image {size_text(image)}"
    return make_fault("size mismatch", path, detail)


def _unknown_values(path: object, stored: np.ndarray, valid: np.ndarray) -> Iterator[Fault]:
    """Yields a fault if a mask holds ids or colours that are neither a class nor void."""
    if valid.all():
        return
    row, column = np.argwhere(~valid)[0]
    wrong = stored[~valid] if stored.ndim == 2 else color_keys(stored[~valid])
    values = np.unique(wrong).tolist()
    texts = [str(v) if stored.ndim == 2 else color_text(key_color(v)) for v in values[:6]]
    more = f" and {len(values) - 6} more" if len(values) > 6 else ""
    detail = (
        f"{', '.join(texts)}{more} in {wrong.size} pixel(s), first at row {row}, column {column}"
    )
    yield make_fault("label out of range" if stored.ndim == 2 else "unknown colour", path, detail)


def entirely_void(
    path: object, pixels: np.ndarray, size: int, ignore_label: int
) -> Iterator[Fault]:
    """Yields a fault if all `size` pixels of a mask are void."""
    if pixels[ignore_label] == size:
        yield make_fault("mask entirely void", path, f"all {size} pixels are void")


def inspect_label(source: Source, index: int, image: ImageFacts) -> MaskFacts:
    """Reads the label of a source that has no files."""
    name = source.location(index)
    try:
        label = source.read_label(index)
    except (UserError, OSError) as error:
        return MaskFacts(np.zeros(256, np.int64), [make_fault("corrupt mask", name, str(error))])
    faults = []
    if image.size is not None and label.shape != image.size:
        faults.append(size_mismatch(name, (label.shape[0], label.shape[1]), image.size))
    valid = known_labels(source, label)
    faults += _unknown_values(name, label, valid)
    pixels = np.bincount(label[valid], minlength=256)
    faults += entirely_void(name, pixels, label.size, source.ignore_label)
    return MaskFacts(pixels, faults)


def known_labels(source: Source, label: np.ndarray) -> np.ndarray:
    """Tells for each pixel of a label whether it is a class or void."""
    return (label < source.num_classes) | (label == source.ignore_label)
