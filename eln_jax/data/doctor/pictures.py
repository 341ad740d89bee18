"""Small pictures of images and their masks, as text that a page can hold."""

from collections.abc import Iterable

import numpy as np
from PIL import Image

from eln_jax.data.decoding import decode_mask, image_geometry, match_orientation
from eln_jax.data.doctor.masks import known_labels
from eln_jax.data.sources import FileSource, Source
from eln_jax.errors import UserError
from eln_jax.html_page import data_url

VOID_COLOR, UNKNOWN_COLOR = (224, 224, 224), (255, 0, 255)
_BOX = (240, 180)  # width, height that a picture fits into: sharp enough on a phone
_GAP = 4


def thumbnail(source: Source, index: int, *, with_mask: bool, palette: np.ndarray) -> str | None:
    """Draws an image and, if asked, its mask beside it.

    Args:
      source: Where they are read.
      index: Which image.
      with_mask: Whether to open the mask.
      palette: uint8 `[num_classes, 3]`; void is pale grey, and what is no label magenta.

    Returns:
      A JPEG as "data:image/jpeg;base64,...", or None if nothing of it can be read.
    """
    pictures = []
    for read in (_read_image, _read_mask) if with_mask else (_read_image,):
        try:
            pictures.append(read(source, index, palette))
        except (UserError, OSError):
            continue  # which is why the page is read
    return side_by_side(pictures) if pictures else None


def _read_image(source: Source, index: int, palette: np.ndarray) -> Image.Image:
    del palette
    return fit_picture(source.read_image(index), Image.Resampling.BOX)


def _read_mask(source: Source, index: int, palette: np.ndarray) -> Image.Image:
    """Colours a mask; one that training would refuse as well, as far as that goes."""
    if isinstance(source, FileSource):
        path = source.mask_path(index)
        stored, turned, _ = decode_mask(path)
        try:
            size, orientation = image_geometry(source.examples[index].image)
            stored = match_orientation(stored, size, orientation, turned, str(path))
        except UserError:
            pass  # shown as it is stored
        labels, known = source.code.decode_known(stored, str(path))
    else:
        labels = source.read_label(index)
        known = known_labels(source, labels)
    table = np.full((256, 3), VOID_COLOR, np.uint8)
    table[: len(palette)] = palette
    colors = np.where(known[..., None], table[labels], np.array(UNKNOWN_COLOR, np.uint8))
    return fit_picture(colors, Image.Resampling.NEAREST)


def fit_picture(pixels: np.ndarray, resampling: Image.Resampling) -> Image.Image:
    """Scales pixels into the box of a picture; few of them grow, so that they can be seen."""
    image = Image.fromarray(pixels)
    scale = min(_BOX[0] / image.width, _BOX[1] / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.NEAREST if scale > 1 else resampling)


def side_by_side(pictures: Iterable[Image.Image]) -> str:
    """Lays pictures side by side and writes them as a data URL."""
    pictures = list(pictures)
    width = sum(picture.width for picture in pictures) + _GAP * (len(pictures) - 1)
    canvas = Image.new("RGB", (width, max(picture.height for picture in pictures)), "white")
    left = 0
    for picture in pictures:
        canvas.paste(picture, (left, 0))
        left += picture.width + _GAP
    return data_url(canvas)
