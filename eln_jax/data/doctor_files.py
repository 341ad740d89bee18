"""What is wrong with one image or one mask by itself: a small function a fault."""

import contextlib
import hashlib
import warnings
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from eln_jax.data.decoding import decode_image, decode_mask, image_geometry, match_orientation
from eln_jax.data.faults import Fault, make_fault
from eln_jax.data.labels import LabelCode
from eln_jax.data.sources import Source
from eln_jax.errors import UnreadableFileError, UserError

Size = tuple[int, int]  # height, width
JPEG_DETAIL = "stored as JPEG"

_TURNS = {
    2: "mirrored left to right",
    3: "turned by 180 degrees",
    4: "mirrored top to bottom",
    5: "mirrored along the diagonal",
    6: "turned by 90 degrees to the right",
    7: "mirrored along the other diagonal",
    8: "turned by 90 degrees to the left",
}


class ImageFacts(NamedTuple):
    """What was found out about an image; None where it could not be.

    Attributes:
      size: Height and width of the upright image.
      orientation: EXIF orientation, 1-8.
      digest: Two images are the same, pixel for pixel, where theirs are.
      faults: What is wrong.
    """

    size: Size | None
    orientation: int
    digest: bytes | None
    faults: list[Fault]


class MaskFacts(NamedTuple):
    """What was found out about a mask.

    Attributes:
      pixels: Pixels by label, int64 `[256]`; without those that are no label.
      faults: What is wrong.
    """

    pixels: np.ndarray
    faults: list[Fault]


class Header(NamedTuple):
    """What a picture's header says without decoding a pixel."""

    size: Size
    orientation: int
    mode: str
    stored: str  # how the file stores a pixel, such as "RGB;16B"; empty if it does not say
    format: str
    has_alpha: bool


@contextlib.contextmanager
def quiet_pillow() -> Iterator[None]:
    """Keeps Pillow's own warnings off the screen: what matters of them becomes faults."""
    Image.init()  # before any threads, which would all do it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read_header(data: bytes, name: str) -> Header:
    """Reads the header of a picture's bytes.

    Raises:
      UnreadableFileError: It is no picture, or an absurdly large one.
    """
    size, orientation = image_geometry(BytesIO(data), name)
    with Image.open(BytesIO(data)) as image:
        stored = image.tile[0][3] if image.tile else ""
        stored = stored[0] if isinstance(stored, tuple) else stored
        alpha = image.has_transparency_data
        return Header(size, orientation, image.mode, str(stored), str(image.format), alpha)


def inspect_image(path: Path) -> ImageFacts:
    """Reads an image whole and says all that is wrong with it by itself."""
    try:
        data = path.read_bytes()
        header = read_header(data, str(path))
    except Exception as error:  # whatever a damaged file may make a decoder raise
        return ImageFacts(None, 1, None, [unreadable(path, error, "corrupt image")])
    faults = list(header_faults(path, header))
    digest = None
    try:
        digest = digest_of(decode_image(BytesIO(data), str(path)))
    except Exception as error:
        if isinstance(error, UserError) and not isinstance(error, UnreadableFileError):
            faults.append(make_fault("unsupported image", path, str(error)))
        else:
            faults.append(unreadable(path, error, "truncated image"))
    return ImageFacts(header.size, header.orientation, digest, faults)


def unreadable(path: Path, error: Exception, kind: str) -> Fault:
    """Tells why a file cannot be read: not there, too large, or, if neither, of the given kind."""
    cause = error.__cause__ or error
    if isinstance(cause, Image.DecompressionBombError):
        return make_fault("decompression bomb", path, str(cause))
    if isinstance(cause, OSError) and cause.errno is not None:
        return make_fault("unreadable file", path, str(cause.strerror))
    # Pillow names the object it read from, which says nothing here.
    words = "not a picture" if isinstance(cause, Image.UnidentifiedImageError) else str(cause)
    return make_fault(kind, path, words or type(cause).__name__)


def header_faults(path: Path, header: Header) -> Iterator[Fault]:
    """Yields what a header shows to be read in another way than one may think."""
    for kind, find in _HEADER_CHECKS.items():
        if detail := find(header):
            yield make_fault(kind, path, detail)
    yield from rotated(path, header.size, header.orientation)


def _sixteen_bits(header: Header) -> str:
    wide = header.mode.startswith("I") or ";16" in header.stored
    return "more than 8 bits a channel; read as the upper 8 of 16" if wide else ""


def _cmyk(header: Header) -> str:
    return "converted to RGB without a profile" if header.mode == "CMYK" else ""


def _alpha(header: Header) -> str:
    return "transparency is dropped, the colours under it are read" if header.has_alpha else ""


def _greyscale(header: Header) -> str:
    grey = header.mode in ("1", "L", "LA", "La") or header.mode.startswith("I")
    return f"one channel ({header.mode})" if grey else ""


def _very_large(header: Header) -> str:
    limit = Image.MAX_IMAGE_PIXELS or float("inf")
    pixels = header.size[0] * header.size[1]
    return f"{size_text(header.size)}, {pixels / 1e6:.0f} megapixels" if pixels > limit else ""


# Each returns what it found, empty if nothing.
_HEADER_CHECKS = {
    "16-bit image": _sixteen_bits,
    "CMYK image": _cmyk,
    "alpha channel": _alpha,
    "greyscale image": _greyscale,
    "very large image": _very_large,
}


def rotated(path: Path, size: Size, orientation: int) -> Iterator[Fault]:
    """Yields a fault if the image carries a mark by which it is turned as it is read."""
    if orientation in _TURNS:
        detail = f"EXIF orientation {orientation}: {_TURNS[orientation]} to {size_text(size)}"
        yield make_fault("EXIF-rotated image", path, detail)


def too_small(path: object, size: Size, crop_size: Size | None) -> Iterator[Fault]:
    """Yields a fault if a side is shorter than the training crop's."""
    if crop_size and (size[0] < crop_size[0] or size[1] < crop_size[1]):
        detail = f"{size_text(size)}, the crop {size_text(crop_size)}"
        yield make_fault("smaller than the crop", path, detail)


def inspect_mask(path: Path, code: LabelCode, image: ImageFacts) -> MaskFacts:
    """Reads a mask whole and says all that is wrong with it, and with it over its image."""
    nothing = np.zeros(256, np.int64)
    try:
        data = path.read_bytes()
        if read_header(data, str(path)).format in ("JPEG", "MPO"):
            return MaskFacts(nothing, [make_fault("JPEG mask", path, JPEG_DETAIL)])
        stored, turned = decode_mask(BytesIO(data), str(path))
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
    faults += _unknown_values(path, stored, valid)
    pixels = np.bincount(labels[valid], minlength=256)
    faults += entirely_void(path, pixels, labels.size, code.ignore_label)
    return MaskFacts(pixels, faults)


def _misfit(path: Path, stored: np.ndarray, turned: bool, image: ImageFacts) -> Iterator[Fault]:
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


def _unknown_values(path: Path, stored: np.ndarray, valid: np.ndarray) -> Iterator[Fault]:
    """Yields a fault if a mask holds ids or colours that are neither a class nor void."""
    if valid.all():
        return
    row, column = np.argwhere(~valid)[0]
    wrong = stored[~valid].astype(np.int64)
    if stored.ndim == 3:  # one number a colour: sorting rows takes seconds for a photograph
        wrong = wrong @ np.array([1 << 16, 1 << 8, 1])
    values = np.unique(wrong)
    texts = [str(v) if stored.ndim == 2 else f"#{v:06x}" for v in values[:6]]
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


def inspect_array(source: Source, index: int) -> ImageFacts:
    """Decodes an image of a source that has no files."""
    name = str(source.ids[index])
    try:
        image = source.read_image(index)
    except (UserError, OSError) as error:
        return ImageFacts(None, 1, None, [make_fault("corrupt image", name, str(error))])
    return ImageFacts((image.shape[0], image.shape[1]), 1, digest_of(image), [])


def inspect_label(source: Source, index: int, image: ImageFacts) -> MaskFacts:
    """Decodes the label of a source that has no files."""
    name = str(source.ids[index])
    try:
        label = source.read_label(index)
    except (UserError, OSError) as error:
        return MaskFacts(np.zeros(256, np.int64), [make_fault("corrupt mask", name, str(error))])
    faults = []
    if image.size is not None and label.shape != image.size:
        faults.append(size_mismatch(name, (label.shape[0], label.shape[1]), image.size))
    valid = (label < source.num_classes) | (label == source.ignore_label)
    faults += _unknown_values(Path(name), label, valid)
    pixels = np.bincount(label[valid], minlength=256)
    faults += entirely_void(name, pixels, label.size, source.ignore_label)
    return MaskFacts(pixels, faults)


def digest_of(image: np.ndarray) -> bytes:
    """Returns a key that only images of the same pixels and size share."""
    digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image).data)
    return digest.digest()


def size_text(size: Size) -> str:
    """Writes (height, width) as one says it, "640x480"."""
    return f"{size[1]}x{size[0]}"
