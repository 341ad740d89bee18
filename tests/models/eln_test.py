"""The Error Localization Network: what it sees, what it returns, what it does not train."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy

from eln_jax.models.eln import (
    Comparison,
    ErrorLocalizationNetwork,
    comparison_features,
    eln_input,
)
from eln_jax.models.encoders import ENCODERS
from eln_jax.models.layers import resize_bilinear

TINY = ErrorLocalizationNetwork(
    ENCODERS["resnet_tiny"](width=8, dilated=False), width=16, low_width=8
)


def inputs(size=(33, 32), classes=4):
    rng = np.random.default_rng(0)
    image = rng.standard_normal((2, *size, 3))
    logits = 3 * rng.standard_normal((2, *(-(-n // 4) for n in size), classes))
    return jnp.asarray(image, jnp.float32), jnp.asarray(logits, jnp.float32)


@pytest.fixture(scope="module")
def variables():
    return jax.jit(TINY.init)(jax.random.key(0, impl="rbg"), *inputs())


def test_input_is_image_entropy_and_logits():
    image, logits = inputs()
    stacked = eln_input(image, logits)
    assert stacked.shape == (2, 33, 32, 3 + 1 + 4)
    np.testing.assert_array_equal(stacked[..., :3], image)
    # Corners are aligned, so there nothing is interpolated.
    corner = logits[:, -1, -1]
    np.testing.assert_array_equal(stacked[:, -1, -1, 4:], corner)
    np.testing.assert_allclose(
        stacked[:, -1, -1, 3], entropy(softmax(corner, -1), axis=-1), rtol=1e-5
    )


def test_input_of_probabilities_or_without_image():
    image, logits = inputs()
    stacked = eln_input(image, logits, "image_and_probabilities")
    np.testing.assert_array_equal(stacked[..., :4], eln_input(image, logits)[..., :4])
    np.testing.assert_allclose(
        stacked[:, -1, -1, 4:], softmax(logits[:, -1, -1], -1), rtol=1e-5, atol=1e-7
    )
    stacked = eln_input(image, logits, "logits")
    np.testing.assert_array_equal(stacked[..., :3], 0)
    np.testing.assert_array_equal(stacked[..., 3:], eln_input(image, logits)[..., 3:])


def test_entropy_of_certain_logits_is_zero_and_finite():
    image, logits = inputs()
    certain = jnp.zeros_like(logits).at[..., 1].set(1e4)
    np.testing.assert_array_equal(eln_input(image, certain)[..., 3], 0)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("size", [(64, 64), (65, 48)])
def test_result_is_one_float32_logit_a_pixel_at_stride_4(variables, size, dtype):
    result = jax.eval_shape(TINY.clone(dtype=dtype).apply, variables, *inputs(size))
    assert result.shape == (2, *(-(-n // 4) for n in size))
    assert result.dtype == jnp.float32


def test_no_gradient_goes_back_to_the_logits(variables):
    image, logits = inputs()

    @jax.jit
    def gradients(params, logits):
        def loss(params, logits):
            return TINY.apply({**variables, "params": params}, image, logits).sum()

        return jax.grad(loss, (0, 1))(params, logits)

    by_params, by_logits = gradients(variables["params"], logits)
    np.testing.assert_array_equal(by_logits, 0)
    assert all(jnp.any(g != 0) for g in jax.tree.leaves(by_params["head"]))


@pytest.fixture(scope="module")
def frozen():
    eln = TINY.clone(frozen_encoder=True, sees="image_and_probabilities")
    return eln, jax.jit(eln.init)(jax.random.key(0, impl="rbg"), *inputs())


def test_a_frozen_encoder_sees_the_image_alone_and_stays(frozen):
    eln, variables = frozen
    image, logits = inputs()

    @jax.jit
    def differentiate(params):
        def loss(params):
            given = {**variables, "params": params}
            return eln.apply(given, image, logits, train=True, mutable=["batch_stats"])

        (result, moved), back = jax.vjp(loss, params)
        return moved["batch_stats"], back((result, jax.tree.map(jnp.zeros_like, moved)))[0]

    moved, gradients = differentiate(variables["params"])
    assert variables["params"]["encoder"]["conv1"]["kernel"].shape[2] == 3
    assert not any(g.any() for g in jax.tree.leaves(gradients["encoder"]))
    assert all(jnp.any(g != 0) for g in jax.tree.leaves(gradients["head"]))
    same = jax.tree.map(jnp.array_equal, moved, variables["batch_stats"])
    assert all(jax.tree.leaves(same["encoder"]))
    assert not any(jax.tree.leaves(same["aspp"]))


@pytest.mark.parametrize("is_frozen", [False, True])
def test_several_predictions_of_an_image_are_judged_as_one_by_one(frozen, variables, is_frozen):
    eln, weights = frozen if is_frozen else (TINY, variables)
    judge = jax.jit(eln.apply)
    image, logits = inputs()
    others = jnp.flip(logits, -1)
    both = judge(weights, image, jnp.concatenate([logits, others]))
    one_by_one = [judge(weights, image, x) for x in (logits, others)]
    assert not np.allclose(*one_by_one)
    np.testing.assert_allclose(both, jnp.concatenate(one_by_one), rtol=1e-4, atol=1e-5)


def test_parameters_of_the_paper():
    eln = ErrorLocalizationNetwork(ENCODERS["resnet34"](dilated=False))
    params = jax.eval_shape(eln.init, jax.random.key(0), *inputs((64, 64), 21))["params"]
    assert params["encoder"]["conv1"]["kernel"].shape == (7, 7, 25, 64)
    assert params["fusion"]["low_conv"]["kernel"].shape == (1, 1, 64, 48)
    assert params["head"]["conv2"]["kernel"].shape == (1, 1, 256, 1)
    assert sorted(params) == ["aspp", "encoder", "fusion", "head"]


@pytest.fixture(scope="module")
def opinionated():
    eln = TINY.clone(second_opinion=True)
    return eln, jax.jit(eln.init)(jax.random.key(0, impl="rbg"), *inputs())


def test_a_second_opinion_is_of_the_image_alone_and_counts_as_much_as_the_prediction(opinionated):
    eln, weights = opinionated
    image, logits = inputs()
    others = jnp.flip(logits, -1)
    judge = jax.jit(partial(eln.apply, method="judge"))
    right, opinion = judge(weights, image, jnp.concatenate([logits, others]))
    assert opinion.shape == logits.shape
    np.testing.assert_allclose(judge(weights, image, others).opinion, opinion, rtol=1e-6)
    for part, seen in zip(np.split(right, 2), (logits, others), strict=True):
        np.testing.assert_allclose(part, sum(odds_by_hand(seen, opinion)) / 2, rtol=1e-3, atol=1e-4)


def odds_by_hand(logits, opinion):
    """The log odds of the predicted class by each."""
    predicted = np.asarray(logits).argmax(-1)[..., None]
    chances = [softmax(np.float64(x), -1) for x in (logits, opinion)]
    chosen = [np.take_along_axis(p, predicted, -1)[..., 0] for p in chances]
    return [np.log(p / (1 - p)) for p in chosen]


def test_an_opinion_is_compared_at_the_size_asked_for(opinionated):
    eln, weights = opinionated
    image, logits = inputs()
    _, opinion = jax.jit(partial(eln.apply, method="judge"))(weights, image, logits)
    found = jax.jit(partial(eln.apply, size=(33, 32)))(weights, image, logits)
    larger = [resize_bilinear(x, (33, 32)) for x in (logits, opinion)]
    expected = Comparison().apply(
        {"batch_stats": weights["batch_stats"]["comparison"]}, larger[0], larger[1]
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_judgement_teaches_nothing(opinionated):
    eln, weights = opinionated

    @jax.jit
    def gradients(params):
        return jax.grad(lambda p: eln.apply({**weights, "params": p}, *inputs()).sum())(params)

    assert "comparison" not in weights["params"]
    assert not any(g.any() for g in jax.tree.leaves(gradients(weights["params"])))


def test_comparison_weighs_the_odds_of_the_predicted_class_by_both():
    _, logits = inputs()
    opinion = jnp.flip(logits, -1) / 2
    own, other = odds_by_hand(logits, opinion)
    features = comparison_features(logits, opinion)
    np.testing.assert_allclose(features, np.stack([np.ones_like(own), own, other], -1), atol=1e-4)
    weights = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    given = {"batch_stats": {"weights": jnp.asarray(weights)}}
    chosen = weights[np.asarray(logits).argmax(-1)]
    expected = chosen[..., 0] + chosen[..., 1] * own + chosen[..., 2] * other
    np.testing.assert_allclose(
        Comparison().apply(given, logits, opinion), expected, rtol=1e-4, atol=1e-4
    )


def test_comparison_of_certain_logits_is_finite():
    _, logits = inputs()
    certain = jnp.zeros_like(logits).at[..., 1].set(1e4)
    comparison = Comparison()
    weights = comparison.init(jax.random.key(0), certain, certain)
    np.testing.assert_array_equal(comparison.apply(weights, certain, certain), 16)
