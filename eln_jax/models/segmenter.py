"""Wires the networks together: encoder and decoder, auxiliary decoders, ELN."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from eln_jax.models.deeplab import DECODERS, UPSAMPLING, Decoder, PlainDecoder, Prediction
from eln_jax.models.eln import ErrorLocalizationNetwork
from eln_jax.models.encoders import ENCODERS
from eln_jax.models.layers import Features, Groups
from eln_jax.models.resnet import ResNet

_RATES = {16: (6, 12, 18), 8: (12, 24, 36)}  # output stride -> dilation of ASPP's branches


class Segmenter(nn.Module):
    """The network that segments: student and teacher have this form.

    Attributes:
        encoder: module that returns `Features`.
        decoder: the main decoder.
    """

    encoder: nn.Module
    decoder: Decoder | PlainDecoder

    def __call__(
        self,
        image: jax.Array,
        *,
        train: bool = False,
        dropout: bool = False,
        groups: Groups = None,
    ) -> Prediction:
        """Segments normalised images.

        Args:
            image: [batch, height, width, 3].
            train: batch norm uses, and records, batch statistics.
            dropout: dropout is active (random numbers "dropout").
            groups: sizes of the parts of the batch with statistics of their own.

        Returns:
            Logits and embeddings at stride 4.
        """
        return self.features_and_prediction(image, train=train, dropout=dropout, groups=groups)[1]

    def features_and_prediction(
        self,
        image: jax.Array,
        *,
        train: bool = False,
        dropout: bool = False,
        groups: Groups = None,
    ) -> tuple[Features, Prediction]:
        """As `__call__`, and returns the encoder's features too, for the auxiliary decoders."""
        features = self.encode(image, train=train, groups=groups)
        return features, self.decode(features, train=train, dropout=dropout, groups=groups)

    def encode(self, image: jax.Array, *, train: bool = False, groups: Groups = None) -> Features:
        """Returns the encoder's features of normalised images [batch, height, width, 3]."""
        return self.encoder(image, train=train, groups=groups)

    def decode(
        self,
        features: Features,
        *,
        train: bool = False,
        dropout: bool = False,
        groups: Groups = None,
    ) -> Prediction:
        """Returns the main decoder's prediction from features."""
        return self.decoder(features, train=train, dropout=dropout, groups=groups)


class Networks(NamedTuple):
    """The modules of the method; one `aux_decoder` serves all auxiliary decoders."""

    student: Segmenter
    aux_decoder: Decoder | PlainDecoder
    eln: ErrorLocalizationNetwork


def build_networks(
    *,
    encoder: str,
    output_stride: int,
    num_classes: int,
    architecture: str = "official",
    width: int = 256,
    low_width: int = 48,
    embedding_size: int = 128,
    dropout: tuple[float, float, float] = (0.1, 0.5, 0.1),
    eln_encoder: str = "resnet34",
    eln_width: int = 256,
    eln_dropout: tuple[float, float, float] = (0.5, 0.5, 0.1),
    eln_input: str = "image_and_logits",
    eln_frozen_encoder: bool = False,
    eln_second_opinion: bool = False,
    rematerialize: bool = False,
    dtype: Any = jnp.float32,
    param_dtype: Any = jnp.float32,
) -> Networks:
    """Makes the modules; the arguments are the config's `model` block.

    Args:
        encoder: name in `ENCODERS`.
        output_stride: pixels per deepest feature, 8 or 16, of student and ELN.
        num_classes: classes, without void.
        architecture: name in `DECODERS`; with "torchvision" a ResNet has no multi-grid.
        width: channels of ASPP, decoder and heads.
        low_width: channels that the low features are reduced to.
        embedding_size: channels of the embeddings.
        dropout: rates after ASPP, first and second 3x3 convolution.
        eln_encoder: name in `ENCODERS`.
        eln_width: channels of the ELN's ASPP, decoder and head.
        eln_dropout: as `dropout`, in the ELN.
        eln_input: what the ELN sees, as in `models.eln.eln_input`.
        eln_frozen_encoder: whether the ELN's encoder sees the image alone and is not trained.
        eln_second_opinion: whether the ELN segments the image itself and compares.
        rematerialize: keep little for the backward pass and compute the rest anew.
        dtype: of the arithmetic.
        param_dtype: of the weights.

    Returns:
        The modules.
    """
    types = {"rematerialize": rematerialize, "dtype": dtype, "param_dtype": param_dtype}
    rates = _RATES[output_stride]
    decoder = DECODERS[architecture](
        num_classes, width, low_width, embedding_size, rates, dropout, **types
    )
    eln = ErrorLocalizationNetwork(
        ENCODERS[eln_encoder](output_stride=output_stride, dilated=False, **types),
        eln_width,
        low_width,
        rates,
        eln_dropout,
        eln_input,
        eln_frozen_encoder,
        eln_second_opinion,
        UPSAMPLING[architecture],
        **types,
    )
    student_encoder = ENCODERS[encoder](output_stride=output_stride, **types)
    if isinstance(student_encoder, ResNet):
        student_encoder = student_encoder.clone(multi_grid=architecture == "official")
    student = Segmenter(student_encoder, decoder)
    return Networks(student, decoder.clone(), eln)


def init_networks(
    networks: Networks, key: jax.Array, crop_size: tuple[int, int], num_aux_decoders: int
) -> dict[str, Any]:
    """Draws the weights of all networks.

    Args:
        networks: from `build_networks`.
        key: random key.
        crop_size: height and width of a training image.
        num_aux_decoders: auxiliary decoders, K.

    Returns:
        {"params": ..., "batch_stats": ...}, each {"student", "aux_decoders": {"0": ...}, "eln"}.
    """
    student_key, eln_key, aux_key = jax.random.split(key, 3)
    image = jnp.zeros((1, *crop_size, 3))
    student = jax.jit(networks.student.init)(student_key, image)
    apply = partial(networks.student.apply, method="features_and_prediction")
    outputs = jax.eval_shape(apply, student, image)
    features, prediction = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), outputs)
    init_aux_decoder = jax.jit(networks.aux_decoder.init)
    aux_decoders = {
        str(i): init_aux_decoder(jax.random.fold_in(aux_key, i), features)
        for i in range(num_aux_decoders)
    }
    eln = jax.jit(networks.eln.init)(eln_key, image, prediction.logits)
    return {
        kind: {
            "student": student[kind],
            "aux_decoders": {name: v[kind] for name, v in aux_decoders.items()},
            "eln": eln[kind],
        }
        for kind in ("params", "batch_stats")
    }
