"""From a configuration to networks: the modules, and what evaluation runs of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eln_jax.method.views import normalize, to_unit
from eln_jax.models import encoders
from eln_jax.models.deeplab import UPSAMPLING
from eln_jax.models.eln import comparison_features
from eln_jax.models.segmenter import Networks, build_networks


def make_networks(config: Any) -> Networks:
    """Makes the modules that the config's `model` block describes."""
    model = config.model
    return build_networks(
        encoder=model.encoder,
        output_stride=model.output_stride,
        num_classes=config.data.num_classes,
        architecture=model.architecture,
        width=model.width,
        low_width=model.low_width,
        embedding_size=model.embedding_size,
        dropout=tuple(model.dropout),
        eln_encoder=model.eln_encoder,
        eln_width=model.eln_width,
        eln_dropout=tuple(model.eln_dropout),
        eln_input=model.eln_input,
        eln_frozen_encoder=model.eln_frozen_encoder,
        eln_second_opinion=model.eln_second_opinion,
        rematerialize=config.rematerialize,
        dtype=jnp.dtype(config.dtype),
    )


class EvaluationNetworks(NamedTuple):
    """Student or teacher as evaluation runs them: on uint8 images, without dropout.

    Attributes:
        logits: `({"network"}, uint8 images) -> logits`, of the decoder's size.
        network: `({"network"}, uint8 images) -> (logits, None)`, ready to be enlarged with their
            corners aligned, as evaluation does.
        network_with_eln: `({"network", "eln"}, uint8 images) -> (logits, eln_logits)`, likewise.
        compared: `({"network", "eln"}, uint8 images) -> (logits, features)`: what they show beside
            the ELN's second opinion (`comparison_features`), at the opinion's size.
        padding_colour: RGB of the encoder's mean colour, to pad images with.
    """

    logits: Callable[[Any, jax.Array], jax.Array]
    network: Callable[[Any, jax.Array], tuple[jax.Array, None]]
    network_with_eln: Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]]
    compared: Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]]
    padding_colour: tuple[int, int, int]


def make_evaluation_networks(config: Any, networks: Networks) -> EvaluationNetworks:
    """Makes the functions that evaluation compiles, from the modules of `make_networks`."""
    input_mean, input_std, eln_input_mean, eln_input_std = input_statistics(config)

    upsample = UPSAMPLING[config.model.architecture]

    def logits_of(variables, image):
        image = normalize(to_unit(image), input_mean, input_std)
        prediction: Any = networks.student.apply(variables["network"], image)
        return prediction.logits

    def enlarged(logits, image):
        if config.model.architecture == "official":
            return logits
        return upsample(logits, image.shape[1:3])

    def network(variables, image):
        return enlarged(logits_of(variables, image), image), None

    def network_with_eln(variables, image):
        logits = logits_of(variables, image)
        seen = normalize(to_unit(image), eln_input_mean, eln_input_std)
        result = enlarged(logits, image)
        if config.model.eln_second_opinion:
            eln_logits: Any = networks.eln.apply(
                variables["eln"], seen, result, size=image.shape[1:3]
            )
        else:
            eln_logits = networks.eln.apply(variables["eln"], seen, logits)
            eln_logits = enlarged(eln_logits[..., None], image)[..., 0]
        return result, eln_logits

    def compared(variables, image):
        logits = logits_of(variables, image)
        seen = normalize(to_unit(image), eln_input_mean, eln_input_std)
        judgement: Any = networks.eln.apply(variables["eln"], seen, logits, method="judge")
        logits = upsample(logits, judgement.opinion.shape[1:3])
        return logits, comparison_features(logits, judgement.opinion)

    red, green, blue = (round(255 * m) for m in input_mean)
    return EvaluationNetworks(logits_of, network, network_with_eln, compared, (red, green, blue))


def input_statistics(config: Any) -> list[tuple[float, ...]]:
    """Mean and deviation of RGB that the student's encoder expects, then those of the ELN's."""
    return [
        tuple(float(value) for value in values)
        for encoder in (config.model.encoder, config.model.eln_encoder)
        for values in encoders.input_statistics(encoder)
    ]
