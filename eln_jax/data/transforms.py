"""Weak augmentation on the host: geometry of image and label together.

Each transform is a deterministic kernel and a thin wrapper that draws its arguments from an
explicit generator. Image and label go through the same geometry: the image by bilinear
interpolation, widened where it shrinks so that nothing aliases; the label by nearest neighbour, so
that no new ids appear. What lies outside the image is `MEAN_COLOR` in the image, void in the label
and False in `inside`.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from PIL import Image

from eln_jax.errors import UserError

# The mean of ImageNet, so that padding is close to zero after normalisation.
MEAN_COLOR = (124, 116, 104)


class View(NamedTuple):
    """An image after geometry, with what belongs to each of its pixels."""

    image: np.ndarray
    """uint8 RGB `[height, width, 3]`."""
    label: np.ndarray | None
    """uint8 ids `[height, width]`, if the image came with a label."""
    inside: np.ndarray
    """bool `[height, width]`: True on the image, False on padding."""


def scale_crop(
    image: np.ndarray,
    label: np.ndarray | None,
    *,
    scaled_size: tuple[int, int],
    offset: tuple[int, int],
    crop_size: tuple[int, int],
    ignore_label: int = 255,
) -> View:
    """Cuts a window out of the image scaled to another size.

    Only the part of the image that the window shows is resampled; the result is that of scaling
    the whole and cutting.

    Args:
      image: uint8 RGB `[height, width, 3]`.
      label: uint8 `[height, width]`, or None.
      scaled_size: Height and width of the whole image after scaling.
      offset: Row and column of the window's corner in the scaled image; may be negative.
      crop_size: Height and width of the window, which may reach beyond the image.
      ignore_label: Id of padding in the label.
    """
    (top, bottom), (left, right) = (
        (max(start, 0), min(start + extent, whole))
        for start, extent, whole in zip(offset, crop_size, scaled_size, strict=True)
    )
    canvas = Image.new("RGB", (crop_size[1], crop_size[0]), MEAN_COLOR)
    cut = None if label is None else np.full(crop_size, ignore_label, np.uint8)
    inside = np.zeros(crop_size, bool)
    if bottom <= top or right <= left:
        return View(np.asarray(canvas), cut, inside)
    rows = slice(top - offset[0], bottom - offset[0])
    columns = slice(left - offset[1], right - offset[1])
    inside[rows, columns] = True
    y, x = image.shape[0] / scaled_size[0], image.shape[1] / scaled_size[1]
    box = (left * x, top * y, right * x, bottom * y)
    size = (right - left, bottom - top)
    part = Image.fromarray(image).resize(size, Image.Resampling.BILINEAR, box=box)
    canvas.paste(part, (columns.start, rows.start))
    if label is not None and cut is not None:
        nearest_rows = _nearest(top, bottom, label.shape[0], scaled_size[0])
        nearest_columns = _nearest(left, right, label.shape[1], scaled_size[1])
        cut[rows, columns] = label.take(nearest_rows, 0).take(nearest_columns, 1)
    return View(np.asarray(canvas), cut, inside)


def _nearest(start: int, stop: int, extent: int, scaled_extent: int) -> np.ndarray:
    """Returns the source pixels under the centres of scaled pixels, in exact integers."""
    # Pillow's own nearest neighbour adds up rounding errors, so a pixel's label would hang on
    # where the window starts.
    return (2 * np.arange(start, stop) + 1) * extent // (2 * scaled_extent)


def random_scale_crop(
    image: np.ndarray,
    label: np.ndarray | None,
    rng: np.random.Generator,
    *,
    crop_size: tuple[int, int],
    scale_range: tuple[float, float] = (0.5, 2.0),
    ignore_label: int = 255,
) -> View:
    """Cuts a random window out of the image scaled by a uniformly drawn factor.

    Args:
      image: uint8 RGB `[height, width, 3]`.
      label: uint8 `[height, width]`, or None.
      rng: Draws the factor and the window.
      crop_size: Height and width of the window.
      scale_range: Least and largest factor.
      ignore_label: Id of padding in the label.
    """
    scale = rng.uniform(*scale_range)
    height, width = (max(1, round(extent * scale)) for extent in image.shape[:2])
    offset = (_random_start(height, crop_size[0], rng), _random_start(width, crop_size[1], rng))
    return scale_crop(
        image,
        label,
        scaled_size=(height, width),
        offset=offset,
        crop_size=crop_size,
        ignore_label=ignore_label,
    )


def _random_start(extent: int, window: int, rng: np.random.Generator) -> int:
    """Draws where a window starts: inside the image, or around it where the image is smaller."""
    low, high = sorted((0, extent - window))
    return int(rng.integers(low, high, endpoint=True))


def crop(
    image: np.ndarray,
    label: np.ndarray | None,
    *,
    offset: tuple[int, int],
    crop_size: tuple[int, int],
    ignore_label: int = 255,
) -> View:
    """Cuts a window out of the image at its own size, padded where it reaches beyond.

    Args:
      image: uint8 RGB `[height, width, 3]`.
      label: uint8 `[height, width]`, or None.
      offset: Row and column of the window's corner; may be negative.
      crop_size: Height and width of the window.
      ignore_label: Id of padding in the label.
    """
    # Pillow copies a box of whole pixels without resampling.
    return scale_crop(
        image,
        label,
        scaled_size=(image.shape[0], image.shape[1]),
        offset=offset,
        crop_size=crop_size,
        ignore_label=ignore_label,
    )


def random_crop(
    image: np.ndarray,
    label: np.ndarray | None,
    rng: np.random.Generator,
    *,
    crop_size: tuple[int, int],
    ignore_label: int = 255,
) -> View:
    """Cuts a random window out of the image at its own size (the official Cityscapes geometry).

    Args:
      image: uint8 RGB `[height, width, 3]`.
      label: uint8 `[height, width]`, or None.
      rng: Draws the window.
      crop_size: Height and width of the window.
      ignore_label: Id of padding in the label.
    """
    height, width = image.shape[:2]
    offset = (_random_start(height, crop_size[0], rng), _random_start(width, crop_size[1], rng))
    return crop(image, label, offset=offset, crop_size=crop_size, ignore_label=ignore_label)


def warp(image: np.ndarray, label: np.ndarray | None, *, crop_size: tuple[int, int]) -> View:
    """Scales image and label to a size whatever their shape (the official VOC geometry).

    Args:
      image: uint8 RGB `[height, width, 3]`.
      label: uint8 `[height, width]`, or None.
      crop_size: Height and width to scale to.
    """
    return scale_crop(image, label, scaled_size=crop_size, offset=(0, 0), crop_size=crop_size)


def horizontal_flip(view: View) -> View:
    """Mirrors left and right."""
    # Pillow turns whole pixels over; NumPy copies a reversed view byte by byte, slowly.
    image = Image.fromarray(view.image).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    label = None if view.label is None else view.label[:, ::-1]
    return View(np.asarray(image), label, view.inside[:, ::-1])


def random_flip(view: View, rng: np.random.Generator, *, probability: float = 0.5) -> View:
    """Mirrors left and right with a probability."""
    return horizontal_flip(view) if rng.random() < probability else view


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What is done to a training image on the host.

    Attributes:
      geometry: "scale_crop" (random scale, then a random window), "crop" (a random window at the
        image's own size) or "warp" (the whole image scaled to the crop's size).
      scale_range: Least and largest scale of "scale_crop".
      flip: Probability of a horizontal flip.
    """

    geometry: str = "scale_crop"
    scale_range: tuple[float, float] = (0.5, 2.0)
    flip: float = 0.5

    def __post_init__(self):
        """Refuses values that mean nothing."""
        if self.geometry not in ("scale_crop", "crop", "warp"):
            raise UserError(
                f"the geometry {self.geometry!r} does not exist: choose 'scale_crop', 'crop' or "
                "'warp'."
            )
        low, high = self.scale_range
        if not 0 < low <= high:
            raise UserError(
                f"scale_range is {self.scale_range}: give the least and the largest scale, both "
                "above 0."
            )
        if not 0 <= self.flip <= 1:
            raise UserError(f"flip is {self.flip}: give a probability from 0 to 1.")


def augment(
    image: np.ndarray,
    label: np.ndarray | None,
    rng: np.random.Generator,
    *,
    crop_size: tuple[int, int],
    augmentation: Augmentation,
    ignore_label: int = 255,
) -> View:
    """Makes one training view: geometry, then the flip.

    Args:
      image: uint8 RGB `[height, width, 3]`.
      label: uint8 `[height, width]`, or None.
      rng: Draws everything random.
      crop_size: Height and width of the view.
      augmentation: Which geometry, and how much of it.
      ignore_label: Id of padding in the label.
    """
    if augmentation.geometry == "warp":
        view = warp(image, label, crop_size=crop_size)
    elif augmentation.geometry == "crop":
        view = random_crop(image, label, rng, crop_size=crop_size, ignore_label=ignore_label)
    else:
        view = random_scale_crop(
            image,
            label,
            rng,
            crop_size=crop_size,
            scale_range=augmentation.scale_range,
            ignore_label=ignore_label,
        )
    return random_flip(view, rng, probability=augmentation.flip)
