"""Label maps with errors made on purpose, dressed up as a network's prediction."""

import jax
import jax.numpy as jnp

# Ranges from which each image draws, chosen by looking at logits of trained decoders: how far a
# class stands above the others, how blurred borders are (in cells), how strong the noise is.
HEIGHT = (4.0, 14.0)
BLUR = (0.5, 2.0)
NOISE = (0.0, 1.5)
# Cells of the map for each bump of the noise.
_COARSENESS = 4


def soft_logits(
    key: jax.Array, label: jax.Array, num_classes: int, size: tuple[int, int]
) -> jax.Array:
    """Makes logits whose argmax is the label map, unsure near borders and here and there.

    Args:
        key: random key.
        label: integers [batch, height, width]; what is no class favours none.
        num_classes: classes.
        size: height and width of the map of logits.

    Returns:
        float32 [batch, *size, num_classes].
    """
    batch = label.shape[0]
    height_key, blur_key, amount_key, noise_key = jax.random.split(key, 4)

    def draw(rng, bounds):
        return jax.random.uniform(rng, (batch, 1, 1, 1), minval=bounds[0], maxval=bounds[1])

    share = jax.image.resize(
        jax.nn.one_hot(label, num_classes), (batch, *size, num_classes), "linear", antialias=True
    )
    share = _blur(share, draw(blur_key, BLUR))
    bumps = (batch, *(max(1, side // _COARSENESS) for side in size), num_classes)
    noise = jax.image.resize(
        jax.random.normal(noise_key, bumps), (batch, *size, num_classes), "linear"
    )
    return draw(height_key, HEIGHT) * share + draw(amount_key, NOISE) * noise


def _blur(x: jax.Array, sigma: jax.Array) -> jax.Array:
    """Gaussian blur of [batch, height, width, channels] with a sigma an image."""
    sigma = sigma.reshape(-1, 1, 1)
    for axis in (1, 2):
        places = jnp.arange(x.shape[axis], dtype=jnp.float32)
        distance = places[None, :, None] - places[None, None, :]
        kernel = jnp.exp(-0.5 * (distance / sigma) ** 2)
        kernel = kernel / kernel.sum(-1, keepdims=True)  # edges: what falls outside is shared out
        x = jnp.einsum("bij,bjwc->biwc" if axis == 1 else "bij,bhjc->bhic", kernel, x)
    return x
