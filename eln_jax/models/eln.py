"""The Error Localization Network: where is this prediction right? (paper section 3.2)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from eln_jax.models.deeplab import Aspp, Fusion, Head
from eln_jax.models.layers import Features, Groups, call, resize_bilinear


class Judgement(NamedTuple):
    """What the ELN says.

    Attributes:
        right: float32 [n * batch, height/4, width/4], or of `size`, a logit of "the predicted class
            is right".
        opinion: float32 [batch, height/4, width/4, num_classes], logits of the class that it would
            choose itself; None unless `second_opinion`.
    """

    right: jax.Array
    opinion: jax.Array | None = None


class ErrorLocalizationNetwork(nn.Module):
    """Judges each pixel of a segmentation from the image, the prediction and its entropy.

    Attributes:
        encoder: module that returns `Features`; its first convolution sees image channels,
            entropy, logits, in this order; the image alone if it is frozen or `second_opinion`.
        width: channels of ASPP, fusion and head.
        low_width: channels that the low features are reduced to.
        rates: dilation of ASPP's branches.
        dropout: rates after ASPP, first and second 3x3 convolution.
        sees: as in `eln_input`.
        frozen_encoder: the encoder sees the image alone and stays as it is, its running statistics
            too; the prediction joins its features. With few labels there is less to overfit, and
            several predictions of an image share one pass of the encoder.
        second_opinion: it sees the image alone and segments it itself; what it says of a prediction
            comes from comparing the two (`Comparison`).
        upsample: enlarges logits, as training and evaluation enlarge them.
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
    second_opinion: bool = False
    upsample: Callable = resize_bilinear
    rematerialize: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __call__(
        self,
        image: jax.Array,
        logits: jax.Array,
        *,
        train: bool = False,
        dropout: bool = False,
        groups: Groups = None,
        size: tuple[int, int] | None = None,
    ) -> jax.Array:
        """Returns a logit a pixel of "the predicted class is right"; arguments as of `judge`."""
        mode: dict[str, Any] = {"train": train, "dropout": dropout, "groups": groups}
        return self.judge(image, logits, **mode, size=size).right

    @nn.compact
    def judge(
        self,
        image: jax.Array,
        logits: jax.Array,
        *,
        train: bool = False,
        dropout: bool = False,
        groups: Groups = None,
        size: tuple[int, int] | None = None,
    ) -> Judgement:
        """Judges predictions, and tells its own if it has one.

        Args:
            image: normalised images [batch, height, width, 3].
            logits: decoders' [n * batch, rows, columns, num_classes], n predictions of each image,
                all images' first ones first; no gradient goes back to them.
            train: batch norm uses, and records, batch statistics.
            dropout: dropout is active (random numbers "dropout").
            groups: sizes of the parts of the batch of predictions with statistics of their own.
            size: at which a prediction is compared with a second opinion, both enlarged: at the
                image's own the classes judged are those of the enlarged prediction, also along
                their borders. None: that of the opinion.
        """
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        again = self.rematerialize and train
        count = logits.shape[0] // image.shape[0]
        if self.second_opinion:
            groups = None  # of the predictions, none of which its own segmentation sees
        mode = {"train": train, "dropout": dropout, "groups": groups, "rematerialize": again}
        features = self._features(image, logits, count, train, groups)
        aspp = Aspp(self.width, self.rates, self.dropout[0], name="aspp", **types)
        x = call(aspp, features.high, **mode)
        fusion = Fusion(self.width, self.low_width, self.dropout[1:], name="fusion", **types)
        x = call(fusion, x, features.low, **mode)
        outputs = logits.shape[-1] if self.second_opinion else 1
        result = call(Head(self.width, outputs, name="head", **types), x, rematerialize=again)
        if not self.second_opinion:
            return Judgement(result[..., 0])
        size = size or (result.shape[1], result.shape[2])
        seen, opinion = (self.upsample(x.astype(jnp.float32), size) for x in (logits, result))
        compared = Comparison(name="comparison")(seen, jnp.concatenate([opinion] * count))
        return Judgement(compared, result)

    def _features(self, image, logits, count, train, groups) -> Features:
        """The encoder's features, of each prediction or, for an opinion, of each image."""
        if self.second_opinion and not self.frozen_encoder:
            return self.encoder(image, train=train)
        if not self.frozen_encoder:
            x = eln_input(jnp.concatenate([image] * count), logits, self.sees, self.upsample)
            return self.encoder(x, train=train, groups=groups)
        features = jax.tree.map(lax.stop_gradient, self.encoder(image, train=False))
        if self.second_opinion:
            return features
        features = jax.tree.map(lambda x: jnp.concatenate([x] * count), features)
        return _join(features, prediction_maps(logits, self.sees).astype(self.dtype))


class Comparison(nn.Module):
    """Is the predicted class right, by the prediction and a second opinion?

    For each predicted class a weighted sum of `comparison_features`. The weights are no parameters
    that descend a gradient: they are fitted to the labelled images now and then, and kept with the
    running statistics. Before that it says the mean of both log odds.
    """

    @nn.compact
    def __call__(self, logits: jax.Array, opinion: jax.Array) -> jax.Array:
        """Maps two logits [..., num_classes] to a float32 logit of "logits.argmax is right" [...].

        No gradient goes back: an opinion that learnt to foretell mistakes would be none.
        """
        num_classes = logits.shape[-1]

        def mean_of_odds():
            return jnp.tile(jnp.array([0.0, 0.5, 0.5]), (num_classes, 1))

        weights = self.variable("batch_stats", "weights", mean_of_odds).value
        predicted = nn.one_hot(logits.argmax(-1), num_classes)
        chosen = jnp.matmul(predicted, weights, precision=lax.Precision.HIGHEST)
        return (chosen * comparison_features(logits, opinion)).sum(-1)


_MOST_ODDS = 16.0  # beyond these a float32 probability can hardly go


def comparison_features(logits: jax.Array, opinion: jax.Array) -> jax.Array:
    """What a prediction and a second opinion say of the predicted class.

    Args:
        logits: [..., num_classes] of the prediction.
        opinion: [..., num_classes], logits too.

    Returns:
        float32 [..., 3], without a gradient: 1 and the log odds of the class that the prediction
        chooses, in [-16, 16], by each of the two.
    """
    logits, opinion = (lax.stop_gradient(x).astype(jnp.float32) for x in (logits, opinion))
    predicted = nn.one_hot(logits.argmax(-1), logits.shape[-1])

    def log_odds(x):
        others = jnp.where(predicted > 0, -jnp.inf, x)
        highest = others.max(-1, keepdims=True)
        rest = highest[..., 0] + jnp.log(jnp.exp(others - highest).sum(-1))
        return jnp.maximum(jnp.minimum((predicted * x).sum(-1) - rest, _MOST_ODDS), -_MOST_ODDS)

    odds = log_odds(logits)[..., None]
    return jnp.concatenate([jnp.ones_like(odds), odds, log_odds(opinion)[..., None]], -1)


def eln_input(
    image: jax.Array,
    logits: jax.Array,
    sees: str = "image_and_logits",
    upsample: Callable = resize_bilinear,
) -> jax.Array:
    """Stacks image, entropy and prediction: float32 [batch, height, width, 3 + 1 + num_classes].

    Args:
        image: normalised images [batch, height, width, 3].
        logits: a decoder's [batch, rows, columns, num_classes]; no gradient goes back to it.
        sees: "image_and_logits" (paper), "image_and_probabilities", or "logits": the channels of
            the image are 0, the mean colour.
        upsample: enlarges the logits to the image's size.
    """
    logits = upsample(logits.astype(jnp.float32), image.shape[1:3])
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
