"""What is wrong with one image by itself: a small function a fault."""

import contextlib
import hashlib
import warnings
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL import Image

from eln_jax.data.decoding import decode_image, image_geometry
from eln_jax.data.doctor.faults import Fault, make_fault
from eln_jax.data.sources import Source
from eln_jax.errors import UnreadableFileError, UserError

Size = tuple[int, int]  # height, width

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


def inspect_image(read: Callable[[], bytes], name: str) -> ImageFacts:
    """Decodes a stored image and says all that is wrong with it by itself.

    Args:
      read: Reads its bytes.
      name: Where it lies.
    """
    try:
        data = read()
        header = read_header(data, name)
    except Exception as error:  # whatever a damaged file may make a decoder raise
        return ImageFacts(None, 1, None, [unreadable(name, error, "corrupt image")])
    faults = list(header_faults(name, header))
    digest = None
    try:
        digest = digest_of(decode_image(BytesIO(data), name))
    except Exception as error:
        if isinstance(error, UserError) and not isinstance(error, UnreadableFileError):
            faults.append(make_fault("unsupported image", name, str(error)))
        else:
            faults.append(unreadable(name, error, "truncated image"))
    return ImageFacts(header.size, header.orientation, digest, faults)


def unreadable(path: object, error: Exception, kind: str) -> Fault:
    """Tells why a file cannot be read: not there, too large, or, if neither, of the given kind."""
    cause = error.__cause__ or error
    if isinstance(cause, Image.DecompressionBombError):
        return make_fault("decompression bomb", path, str(cause))
    if isinstance(cause, OSError) and cause.errno is not None:
        return make_fault("unreadable file", path, str(cause.strerror))
    # Pillow names the object it read from, which says nothing here.
    words = "not a picture" if isinstance(cause, Image.UnidentifiedImageError) else str(cause)
    return make_fault(kind, path, words or type(cause).__name__)


def header_faults(path: object, header: Header) -> Iterator[Fault]:
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


def rotated(path: object, size: Size, orientation: int) -> Iterator[Fault]:
    """Yields a fault if the image carries a mark by which it is turned as it is read."""
    if orientation in _TURNS:
        detail = f"EXIF orientation {orientation}: {_TURNS[orientation]} to {size_text(size)}"
        yield make_fault("EXIF-rotated image", path, detail)


def too_small(path: object, size: Size, crop_size: Size | None) -> Iterator[Fault]:
    """Yields a fault if a side is shorter than the training crop's."""
    if crop_size and (size[0] < crop_size[0] or size[1] < crop_size[1]):
        detail = f"{size_text(size)}, the crop {size_text(crop_size)}"
        yield make_fault("smaller than the crop", path, detail)


def inspect_array(source: Source, index: int) -> ImageFacts:
    """Makes an image of a source that stores none."""
    name = source.location(index)
    try:
        image = source.read_image(index)
    except (UserError, OSError) as error:
        return ImageFacts(None, 1, None, [make_fault("corrupt image", name, str(error))])
    return ImageFacts((image.shape[0], image.shape[1]), 1, digest_of(image), [])


def digest_of(image: np.ndarray) -> bytes:
    """Returns a key that only images of the same pixels and size share."""
    digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image).data)
    return digest.digest()


def size_text(size: Size) -> str:
    """Writes (height, width) as one says it, "640x480"."""
    return f"{size[1]}x{size[0]}"
