"""The Error Localization Network: where is this prediction right? (paper section 3.2)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from eln_jax.models.deeplab import Aspp, Fusion, Head
from eln_jax.models.layers import Features, Groups, call, resize_bilinear


class ErrorLocalizationNetwork(nn.Module):
    """Judges each pixel of a segmentation from the image, the prediction and its entropy.

    Attributes:
        encoder: module that returns `Features`; its first convolution sees image channels,
            entropy, logits, in this order, or the image alone if it is frozen.
        width: channels of ASPP, fusion and head.
        low_width: channels that the low features are reduced to.
        rates: dilation of ASPP's branches.
        dropout: rates after ASPP, first and second 3x3 convolution.
        sees: as in `eln_input`.
        frozen_encoder: the encoder sees the image alone and stays as it is, its running statistics
            too; the prediction joins its features. With few labels there is less to overfit, and
            several predictions of an image share one pass of the encoder.
        residual: what ASPP, fusion and head say is added to the log odds of the predicted class,
            scaled and shifted by class (`ClassCalibration`).
        rematerialize: keep little for the backward pass and compute the rest anew.
        dtype: of the arithmetic; the result is float32.
        param_dtype: of the weights.
    """

    encoder: nn.Module
    width: int = 256
    low_width: int = 48
    rates: tuple[int, ...] = (6, 12, 18)
    dropout: tuple[float, float, float] = (0.5, 0.5, 0.1)
    sees: str = "image_and_logits"
    frozen_encoder: bool = False
    residual: bool = False
    rematerialize: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        image: jax.Array,
        logits: jax.Array,
        *,
        train: bool = False,
        dropout: bool = False,
        groups: Groups = None,
    ) -> jax.Array:
        """Returns a logit a pixel of "the predicted class is right".

        Args:
            image: normalised images [batch, height, width, 3].
            logits: decoders' [n * batch, rows, columns, num_classes], n predictions of each image,
                all images' first ones first; no gradient goes back to them.
            train: batch norm uses, and records, batch statistics.
            dropout: dropout is active (random numbers "dropout").
            groups: sizes of the parts of the batch with statistics of their own.

        Returns:
            float32 [n * batch, height/4, width/4].
        """
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        again = self.rematerialize and train
        mode = {"train": train, "dropout": dropout, "groups": groups, "rematerialize": again}
        count = logits.shape[0] // image.shape[0]
        if self.frozen_encoder:
            features = jax.tree.map(lax.stop_gradient, self.encoder(image, train=False))
            features = jax.tree.map(lambda x: jnp.concatenate([x] * count), features)
            features = _join(features, prediction_maps(logits, self.sees).astype(self.dtype))
        else:
            x = eln_input(jnp.concatenate([image] * count), logits, self.sees)
            features = self.encoder(x, train=train, groups=groups)
        aspp = Aspp(self.width, self.rates, self.dropout[0], name="aspp", **types)
        x = call(aspp, features.high, **mode)
        fusion = Fusion(self.width, self.low_width, self.dropout[1:], name="fusion", **types)
        x = call(fusion, x, features.low, **mode)
        head = Head(self.width, 1, name="head", **types)
        result = call(head, x, rematerialize=again)[..., 0]
        if self.residual:
            seen = resize_bilinear(logits, (result.shape[1], result.shape[2]))
            result += ClassCalibration(name="calibration")(seen)
        return result


# Adam moves a weight by about the learning rate a step, whatever its gradient: at 2e-3 an offset of
# 3, not rare for a class that is often wrong, would take 1500 steps.
_HASTE = 10.0
_MOST_ODDS = 16.0


class ClassCalibration(nn.Module):
    """The log odds of the predicted class, with a scale and an offset for each class.

    It begins as the odds themselves. With few labels these are most of what can be learnt about
    errors: which classes are often wrong, and how much a network's confidence in each is worth.
    """

    @nn.compact
    def __call__(self, logits: jax.Array) -> jax.Array:
        """Maps a decoder's logits [..., num_classes] to a float32 logit of "right" [...].

        No gradient goes back to the logits.
        """
        logits = lax.stop_gradient(logits).astype(jnp.float32)
        predicted = nn.one_hot(logits.argmax(-1), logits.shape[-1])
        others = nn.logsumexp(jnp.where(predicted > 0, -jnp.inf, logits), axis=-1)
        odds = jnp.clip(logits.max(-1) - others, -_MOST_ODDS, _MOST_ODDS)
        scale = self.param("scale", nn.initializers.zeros, logits.shape[-1:])
        offset = self.param("offset", nn.initializers.zeros, logits.shape[-1:])
        return (1.0 + _HASTE * predicted @ scale) * odds + _HASTE * predicted @ offset


def eln_input(image: jax.Array, logits: jax.Array, sees: str = "image_and_logits") -> jax.Array:
    """Stacks image, entropy and prediction: float32 [batch, height, width, 3 + 1 + num_classes].

    Args:
        image: normalised images [batch, height, width, 3].
        logits: a decoder's [batch, rows, columns, num_classes]; no gradient goes back to it.
        sees: "image_and_logits" (paper), "image_and_probabilities", or "logits": the channels of
            the image are 0, the mean colour.
    """
    logits = resize_bilinear(logits.astype(jnp.float32), image.shape[1:3])
    image = image.astype(jnp.float32)
    if sees == "logits":
        image = jnp.zeros_like(image)
    return jnp.concatenate([image, prediction_maps(logits, sees)], -1)


def prediction_maps(logits: jax.Array, sees: str) -> jax.Array:
    """Stacks entropy and prediction: float32 [batch, rows, columns, 1 + num_classes].

    Args:
        logits: [batch, rows, columns, num_classes]; no gradient goes back to it.
        sees: as in `eln_input`.
    """
    logits = lax.stop_gradient(logits).astype(jnp.float32)
    log_probability = nn.log_softmax(logits)
    probability = jnp.exp(log_probability)
    entropy = -(probability * log_probability).sum(-1, keepdims=True)
    prediction = probability if sees == "image_and_probabilities" else logits
    return jnp.concatenate([entropy, prediction], -1)


def _join(features: Features, maps: jax.Array) -> Features:
    """Appends maps to both of an encoder's feature maps, averaged to the size of each."""

    def appended(x):
        size = (*x.shape[:3], maps.shape[-1])
        return jnp.concatenate([x, jax.image.resize(maps, size, "linear")], -1)

    return Features(appended(features.high), appended(features.low))
