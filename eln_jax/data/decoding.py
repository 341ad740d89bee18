"""Picture files to arrays: RGB images and maps of class ids, or one clear sentence why not."""

import contextlib
import os
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from eln_jax.errors import UnreadableFileError, UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp")

# What Pillow raises for files that are no picture, cut short, damaged, or absurdly large.
_DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_EXIF_ORIENTATION = 0x0112
# EXIF orientation -> the Pillow operation that turns the picture upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Formats whose usual writers change a mask's ids: the first three blur them, GIF numbers them anew.
UNSAFE_FOR_MASKS = ("JPEG", "MPO", "WEBP", "GIF")
# Pillow stretches 2- and 4-bit greys to 0-255; the ids are what was there before.
_GREY_STRETCH = {"L;2": 85, "L;4": 17}

File = str | os.PathLike[str] | BinaryIO


@contextlib.contextmanager
def _naming(file: File, name: str, kind: str) -> Iterator[None]:
    """Turns a decoder's exception into one that names the file."""
    try:
        yield
    except UserError:
        raise
    except _DECODING_ERRORS as error:
        where = name or str(file)
        raise UnreadableFileError(
            f"{kind} {where} cannot be read ({error}): replace the file or take it out."
        ) from error


def _sixteen_to_eight_bits(values: np.ndarray, where: str) -> np.ndarray:
    """Scales full-range 16-bit greys to 0-255; Pillow's own conversion cuts them off at 255."""
    wide = values.astype(np.int64)
    if wide.size and (wide.min() < 0 or wide.max() > 65535):
        raise UserError(
            f"image {where} holds grey values from {wide.min()} to {wide.max()}, beyond 16 bits: "
            "convert it to 8 bits a channel."
        )
    return ((wide + 128) // 257).astype(np.uint8)


def _to_rgb(image: Image.Image, where: str) -> Image.Image:
    """Converts any mode to RGB. Transparency is dropped, the colours under it are kept."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):
        image = Image.fromarray(_sixteen_to_eight_bits(np.asarray(image), where))
    if image.mode == "F":
        raise UserError(
            f"image {where} holds floating-point values, whose range nothing states: convert it "
            "to 8 bits a channel."
        )
    if image.mode in ("P", "PA"):
        # By way of RGBA: Pillow warns when a transparent palette goes to RGB directly.
        image = image.convert("RGBA")
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8, of a picture of which only the header has been read.

    A PNG may also have it behind the pixels, where no header tells: there it counts for nothing.
    """
    # Not getexif() on every file: for a PNG without EXIF it decodes the whole picture to look.
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    return orientation if isinstance(orientation, int) and orientation in _UPRIGHT else 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _to_turn(image: Image.Image, orientation: int) -> int:
    """The orientation that is left to undo: Pillow turns TIFFs itself as it loads them."""
    return 1 if image.format == "TIFF" else orientation


def decode_image(file: File, name: str = "") -> np.ndarray:
    """Reads a picture as 8-bit RGB, turned upright as its EXIF orientation says.

    Grey, palette, CMYK, transparent and 16-bit pictures are converted; of several frames the
    first is taken.

    Args:
      file: A path, or an open binary file.
      name: What to call the file in an error; the path itself if empty.

    Returns:
      uint8 `[height, width, 3]`.

    Raises:
      UserError: The file is missing, damaged, or of a kind without a defined 8-bit form.
    """
    with _naming(file, name, "image"), Image.open(file) as image:
        to_turn = _to_turn(image, _orientation(image))
        image.load()
        return np.asarray(_upright(_to_rgb(image, name or str(file)), to_turn))


def image_geometry(file: File, name: str = "") -> tuple[tuple[int, int], int]:
    """Reads only the header: the (height, width) of the upright image, and its orientation."""
    with _naming(file, name, "image"), Image.open(file) as image:
        orientation = _orientation(image)
        width, height = image.size
        # Pillow says in a TIFF's size how it will turn it, before it has read a pixel.
        swapped = _to_turn(image, orientation) >= 5
    return ((width, height) if swapped else (height, width)), orientation


class StoredMask(NamedTuple):
    """A mask as its file has it, upright.

    Attributes:
      pixels: uint8 ids `[height, width]` or RGB colours `[height, width, 3]`.
      turned: Whether the mask carried, and was turned by, an EXIF orientation of its own.
      palette: uint8 `[n, 3]`, the colours of the first n ids where the file has a palette, or None.
    """

    pixels: np.ndarray
    turned: bool
    palette: np.ndarray | None


def decode_mask(file: File, name: str = "") -> StoredMask:
    """Reads a mask's pixels exactly as stored: palette indices, greys, or RGB colours.

    Black-and-white masks give 0 and 1; 2- and 4-bit greys give their stored values; 16-bit greys
    are read if none exceeds 255.

    Args:
      file: A path, or an open binary file.
      name: What to call the file in an error; the path itself if empty.

    Returns:
      The mask.

    Raises:
      UserError: The file is missing or damaged, of a format that does not keep ids as they are, or
        its pixels are neither ids up to 255 nor RGB.
    """
    where = name or str(file)
    with _naming(file, name, "mask"), Image.open(file) as image:
        if image.format in UNSAFE_FOR_MASKS:
            raise UserError(
                f"mask {where} is a {image.format}, whatever its name: writing that changes the "
                "values of pixels; export it anew as PNG from where it was drawn."
            )
        # How the file stores a pixel; a tuple's first entry in some formats.
        stored = image.tile[0][3] if image.tile else None
        stretch = _GREY_STRETCH.get(str(stored[0] if isinstance(stored, tuple) else stored), 1)
        orientation = _orientation(image)
        image.load()
        solid = _opaque(image)
        pixels = np.asarray(_upright(solid, _to_turn(image, orientation)))
        small = (
            solid.mode.startswith("I") and pixels.size and 0 <= pixels.min() <= pixels.max() < 256
        )
        if solid.mode not in ("P", "L", "1", "RGB") and not small:
            raise UserError(
                f"mask {where} is stored as {image.mode}, not as one class id up to 255 or one RGB "
                "colour a pixel: save it as an 8-bit grey, palette or RGB PNG."
            )
        ids = pixels.astype(np.uint8, copy=False) // np.uint8(stretch)
        return StoredMask(ids, orientation != 1, _palette(solid))


def _palette(image: Image.Image) -> np.ndarray | None:
    if image.mode != "P":
        return None
    return np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)


def _opaque(image: Image.Image) -> Image.Image:
    """Drops an alpha channel that hides nothing; one that hides something stays, to be refused."""
    solid = {"RGBA": "RGB", "LA": "L"}.get(image.mode)
    if solid is None or image.getchannel("A").getextrema() != (255, 255):
        return image
    return image.convert(solid)


def match_orientation(
    ids: np.ndarray, size: tuple[int, int], orientation: int, mask_turned: bool, name: str
) -> np.ndarray:
    """Lays a mask over the upright image, turning it as the image was turned where that is sure.

    Args:
      ids: The mask, `[height, width]` ids or `[height, width, 3]` colours.
      size: Height and width of the upright image.
      orientation: The image's EXIF orientation, 1-8.
      mask_turned: Whether the mask has been turned by an orientation of its own.
      name: What to call the mask in an error.

    Returns:
      The mask, `[size[0], size[1], ...]`.

    Raises:
      UserError: The sizes differ either way round, or agree both ways round so that nobody can
        tell how the mask lies.
    """
    lays = [ids]
    if orientation in _UPRIGHT and not mask_turned:
        lays.append(np.asarray(_upright(Image.fromarray(ids), orientation)))
    fitting = [lay for lay in lays if lay.shape[:2] == size]
    if not fitting:
        raise UserError(
            f"mask {name} has {ids.shape[1]}x{ids.shape[0]} pixels (width x height) but its image "
            f"has {size[1]}x{size[0]}: give both the same size."
        )
    if len(fitting) > 1 and not np.array_equal(fitting[0], fitting[1]):
        raise UserError(
            f"mask {name}: its image is marked as turned (EXIF orientation {orientation}) and the "
            "mask would fit turned or not: save the image upright, without the mark."
        )
    return fitting[0]
