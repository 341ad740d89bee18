"""Evaluation-mode outputs of every network beside those of the official PyTorch code."""

import functools

import jax
import numpy as np
import pytest

from eln_jax.models.segmenter import build_networks
from tests.golden_weights import golden_arrays, golden_official, golden_variables

TOLERANCE = 1e-4  # of an array's largest value, as golden's README states; measured: 2e-6


@functools.cache
def networks():
    official = golden_official()
    return build_networks(
        encoder=official.encoder, output_stride=16, num_classes=official.num_classes
    )


@functools.cache
def student_outputs():
    apply = functools.partial(networks().student.apply, method="features_and_prediction")
    return jax.jit(apply)(golden_variables("student"), golden_arrays()["image"])


def assert_golden(ours, name):
    expected = golden_arrays()[name]
    assert ours.shape == expected.shape
    assert ours.dtype == np.float32
    assert np.abs(np.asarray(ours) - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_encoder():
    features, _ = student_outputs()
    assert_golden(features.high[..., ::32], "high_every_32nd_channel")
    assert_golden(features.low[..., ::16], "low_every_16th_channel")


def test_main_decoder():
    _, prediction = student_outputs()
    assert_golden(prediction.logits, "logits")
    assert_golden(prediction.embeddings[..., ::8], "embeddings_every_8th_channel")


@pytest.mark.parametrize("which", ["0", "1"])
def test_auxiliary_decoders(which):
    features, _ = student_outputs()
    apply = jax.jit(networks().aux_decoder.apply)
    prediction = apply(golden_variables("aux_decoders", which), features)
    assert_golden(prediction.logits, f"aux{which}_logits")


def test_error_localization_network():
    arrays = golden_arrays()
    apply = jax.jit(networks().eln.apply)
    # On the golden logits, so that this test stands on its own.
    ours = apply(golden_variables("eln"), arrays["image"], arrays["logits"])
    assert_golden(ours[..., None], "eln_logits")
