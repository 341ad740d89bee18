"""Weak and strong views of a batch, made on the accelerator from uint8 images."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp


@dataclass(frozen=True)
class ViewSettings:
    """Strengths of the strong view; `eln_jax.defaults` explains each field."""

    jitter_probability: float
    brightness: float
    contrast: float
    saturation: float
    hue: float
    grey_probability: float
    blur_probability: float
    blur_sigma: tuple[float, float]
    cutmix_probability: float


def to_unit(image: jax.Array) -> jax.Array:
    """Turns uint8 images in [0, 255] into float32 in [0, 1]."""
    return image.astype(jnp.float32) / 255.0


def normalize(image: jax.Array, mean: tuple[float, ...], std: tuple[float, ...]) -> jax.Array:
    """Standardises RGB images [..., 3] in [0, 1] with the encoder's mean and deviation."""
    shape = (1,) * (image.ndim - 1) + (3,)
    return (image - jnp.array(mean).reshape(shape)) / jnp.array(std).reshape(shape)


def strong_view(rng: jax.Array, image: jax.Array, settings: ViewSettings) -> jax.Array:
    """Colour jitter, grey and blur; each image draws its own.

    Args:
        rng: random key.
        image: float32 [batch, height, width, 3] in [0, 1].
        settings: strengths and probabilities.

    Returns:
        Images of the same shape and range.
    """
    jitter_rng, grey_rng, blur_rng = jax.random.split(rng, 3)
    image = color_jitter(jitter_rng, image, settings)
    image = _for_some(grey_rng, settings.grey_probability, _repeat_grey(image), image)
    if settings.blur_probability > 0:
        image = random_blur(blur_rng, image, settings.blur_probability, settings.blur_sigma)
    return image


def color_jitter(rng: jax.Array, image: jax.Array, settings: ViewSettings) -> jax.Array:
    """Random brightness, contrast, saturation and hue, in this order, clipped to [0, 1]."""
    apply_rng, *rngs = jax.random.split(rng, 5)
    shape = (image.shape[0], 1, 1, 1)

    def factor(key, strength):
        return jax.random.uniform(key, shape, minval=max(0.0, 1 - strength), maxval=1 + strength)

    out = jnp.clip(image * factor(rngs[0], settings.brightness), 0.0, 1.0)
    average = _grey(out).mean((1, 2), keepdims=True)
    out = jnp.clip(average + (out - average) * factor(rngs[1], settings.contrast), 0.0, 1.0)
    grey = _grey(out)
    out = jnp.clip(grey + (out - grey) * factor(rngs[2], settings.saturation), 0.0, 1.0)
    turns = jax.random.uniform(rngs[3], shape, minval=-settings.hue, maxval=settings.hue)
    out = shift_hue(out, turns)
    return _for_some(apply_rng, settings.jitter_probability, out, image)


def shift_hue(image: jax.Array, turns: jax.Array) -> jax.Array:
    """Turns the hue of RGB images [..., 3] in [0, 1]; `turns` broadcasts to [..., 1]."""
    value = image.max(-1, keepdims=True)
    chroma = value - image.min(-1, keepdims=True)
    safe = jnp.where(chroma > 0, chroma, 1.0)
    red, green, blue = jnp.split(image, 3, axis=-1)
    # By order, not by equality with the maximum: where a compiler computes a channel twice, the two
    # may differ in the last bit.
    hue = jnp.where(
        (red >= green) & (red >= blue),
        (green - blue) / safe,
        jnp.where(green >= blue, 2.0 + (blue - red) / safe, 4.0 + (red - green) / safe),
    )
    hue = hue + 6.0 * turns
    # https://en.wikipedia.org/wiki/HSL_and_HSV, "HSV to RGB alternative".
    offset = jnp.array([5.0, 3.0, 1.0]).reshape((1,) * (image.ndim - 1) + (3,))
    k = jnp.mod(offset + hue, 6.0)
    return value - chroma * jnp.clip(jnp.minimum(k, 4.0 - k), 0.0, 1.0)


def random_blur(
    rng: jax.Array, image: jax.Array, probability: float, sigma: tuple[float, float]
) -> jax.Array:
    """Gaussian blur with a sigma drawn for each image, for a share of the images."""
    apply_rng, sigma_rng = jax.random.split(rng)
    drawn = jax.random.uniform(sigma_rng, image.shape[:1], minval=sigma[0], maxval=sigma[1])
    radius = max(1, round(3 * sigma[1]))
    return _for_some(apply_rng, probability, gaussian_blur(image, drawn, radius), image)


def gaussian_blur(image: jax.Array, sigma: jax.Array, radius: int) -> jax.Array:
    """Separable Gaussian blur of [batch, height, width, 3] with edges repeated; sigma [batch]."""
    offsets = jnp.arange(-radius, radius + 1, dtype=jnp.float32)
    kernel = jnp.exp(-0.5 * (offsets[None] / jnp.maximum(sigma[:, None], 1e-3)) ** 2)
    kernel = kernel / kernel.sum(1, keepdims=True)  # [batch, taps]
    for axis in (1, 2):
        length = image.shape[axis]
        pad = [(0, 0)] * 4
        pad[axis] = (radius, radius)
        padded = jnp.pad(image, pad, mode="edge")
        image = jnp.zeros_like(image)
        for i in range(2 * radius + 1):
            tap = jax.lax.slice_in_dim(padded, i, i + length, axis=axis)
            image = image + kernel[:, i, None, None, None] * tap
    return image


def cutmix_boxes(rng: jax.Array, batch: int, probability: float) -> jax.Array:
    """Draws a box an image as fractions: float32 [batch, 4] of (top, left, bottom, right).

    A box covers 2% to 40% of the area with an aspect ratio between 0.3 and 3.3, as in CutMix
    segmentation practice; an image drawn without one gets an empty box.
    """
    some, area, aspect, top, left = jax.random.split(rng, 5)
    size = jax.random.uniform(area, (batch,), minval=0.02, maxval=0.4)
    ratio = jnp.exp(
        jax.random.uniform(aspect, (batch,), minval=jnp.log(0.3), maxval=jnp.log(1 / 0.3))
    )
    height = jnp.minimum(jnp.sqrt(size * ratio), 1.0)
    width = jnp.minimum(jnp.sqrt(size / ratio), 1.0)
    y = jax.random.uniform(top, (batch,)) * (1.0 - height)
    x = jax.random.uniform(left, (batch,)) * (1.0 - width)
    boxes = jnp.stack([y, x, y + height, x + width], axis=1)
    return boxes * jax.random.bernoulli(some, probability, (batch, 1))


def paste_boxes(x: jax.Array, boxes: jax.Array) -> jax.Array:
    """Pastes each image's box from the image before it in the batch.

    Args:
        x: [batch, height, width, ...]: images, labels or masks, at any resolution.
        boxes: float32 [batch, 4] from `cutmix_boxes`.

    Returns:
        An array like `x`; maps of one image at several resolutions get the same box.
    """
    height, width = x.shape[1:3]
    # Aligned corners, as the network's maps lie on the image.
    rows = jnp.linspace(0.0, 1.0, height)[None, :, None]
    columns = jnp.linspace(0.0, 1.0, width)[None, None, :]
    top, left, bottom, right = (boxes[:, i, None, None] for i in range(4))
    inside = (rows >= top) & (rows <= bottom) & (columns >= left) & (columns <= right)
    inside = inside & (bottom > top)  # an empty box covers not even its corner
    inside = inside.reshape(inside.shape + (1,) * (x.ndim - 3))
    return jnp.where(inside, jnp.roll(x, 1, axis=0), x)


def drop_channels(rng: jax.Array, features: Any, rate: float) -> Any:
    """Drops whole channels of each image's maps, and raises the others to keep the mean.

    Args:
        rng: random key.
        features: a tree of [batch, height, width, channels]; each map draws its own.
        rate: probability of a channel to be dropped, in [0, 1).

    Returns:
        A tree like `features`.
    """
    leaves, form = jax.tree.flatten(features)
    dropped = []
    for i, x in enumerate(leaves):
        shape = (x.shape[0], 1, 1, x.shape[3])
        kept = jax.random.bernoulli(jax.random.fold_in(rng, i), 1.0 - rate, shape)
        dropped.append(jnp.where(kept, x / (1.0 - rate), 0.0).astype(x.dtype))
    return jax.tree.unflatten(form, dropped)


def sample_nearest(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Samples [batch, height, width] at the nearest pixels of a grid with aligned corners."""
    rows, columns = (
        jnp.round(jnp.linspace(0, length - 1, new)).astype(jnp.int32)
        for length, new in zip(x.shape[1:3], size, strict=True)
    )
    return x[:, rows][:, :, columns]


def _grey(image: jax.Array) -> jax.Array:
    """Luma of RGB images, ITU-R 601: [..., 3] -> [..., 1]."""
    weights = jnp.array([0.299, 0.587, 0.114])
    return (image @ weights)[..., None]


def _repeat_grey(image: jax.Array) -> jax.Array:
    return jnp.broadcast_to(_grey(image), image.shape)


def _for_some(rng, probability, changed, unchanged):
    chosen = jax.random.bernoulli(rng, probability, (unchanged.shape[0], 1, 1, 1))
    return jnp.where(chosen, changed, unchanged)
