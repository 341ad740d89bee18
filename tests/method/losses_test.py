import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eln_jax.method import losses


def random_case(seed, pixels=24, num_classes=4):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(pixels, num_classes)).astype(np.float32)
    label = rng.integers(0, num_classes, pixels)
    mask = rng.random(pixels) < 0.6
    return logits, label, mask


def test_masked_cross_entropy_equals_the_loss_of_the_subset():
    logits, label, mask = random_case(0)
    masked = losses.mean(losses.cross_entropy(logits, np.where(mask, label, 255), mask))
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -log_p[np.arange(len(label)), label][mask].mean()
    np.testing.assert_allclose(masked, expected, rtol=1e-6)


def test_class_weights_give_the_weighted_mean():
    logits, label, mask = random_case(1)
    weights = np.array([0.5, 1.0, 2.0, 4.0], np.float32)
    value = losses.mean(losses.cross_entropy(logits, label, mask, jnp.array(weights)))
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    picked, w = -log_p[np.arange(len(label)), label][mask], weights[label][mask]
    np.testing.assert_allclose(value, (picked * w).sum() / w.sum(), rtol=1e-6)


def test_every_term_without_pixels_is_zero_with_finite_gradients():
    logits, label, _ = random_case(2)
    none = np.zeros(len(label), bool)

    def total(x):
        contrast = [
            losses.contrastive_loss(
                x, x + 1, label, none, num_classes=4, temperature=0.5, form=form
            )
            for form in ("info_nce", "official")
        ]
        eln = losses.eln_loss(x[:, 0], none, none, 0.0)
        return losses.mean(losses.cross_entropy(x, label, none)) + eln + sum(contrast)

    value, gradient = jax.value_and_grad(total)(logits)
    assert value == 0
    np.testing.assert_array_equal(gradient, np.zeros_like(logits))


def test_eln_loss_by_hand():
    # Three right pixels, one wrong, one void: the wrong one weighs 3; the mean is over four.
    eln_logits = jnp.array([2.0, -1.0, 0.0, 1.0, 9.0])
    correct = jnp.array([True, True, True, False, False])
    counted = jnp.array([True, True, True, True, False])
    right = np.log1p(np.exp([-2.0, 1.0, 0.0])).sum()
    wrong = np.log1p(np.exp(1.0))
    np.testing.assert_allclose(
        losses.eln_loss(eln_logits, correct, counted, 0.0), (right + 3 * wrong) / 4, rtol=1e-6
    )
    np.testing.assert_allclose(
        losses.eln_loss(eln_logits, correct, counted, 2.0), (right + 2 * wrong) / 4, rtol=1e-6
    )


def test_eln_loss_of_a_perfect_prediction_is_finite():
    eln_logits, everything = jnp.array([3.0, -2.0]), jnp.array([True, True])
    loss, gradient = jax.value_and_grad(losses.eln_loss)(eln_logits, everything, everything, 0.0)
    np.testing.assert_allclose(loss, np.log1p(np.exp([-3.0, 2.0])).mean(), rtol=1e-6)
    assert np.isfinite(gradient).all()


def test_an_auxiliary_decoder_learns_only_above_its_ceiling():
    assert losses.below_ceiling_only(jnp.array(3.0), jnp.array(1.0), 2.0) == 3.0
    assert losses.below_ceiling_only(jnp.array(1.5), jnp.array(1.0), 2.0) == 0.0
    gradient = jax.grad(lambda x: losses.below_ceiling_only(x, 2.0 * x, 1.0))(jnp.array(1.0))
    assert gradient == 0.0


def contrast_with_loops(anchors, keys, label, mask, temperature, form):
    """The definition, pair by pair."""
    anchors = anchors / np.linalg.norm(anchors, axis=1, keepdims=True)
    keys = keys / np.linalg.norm(keys, axis=1, keepdims=True)
    e = np.exp(anchors @ keys.T / temperature)
    kept = np.flatnonzero(mask)
    per_class = []
    for c in sorted(set(label[kept])):
        inside = [i for i in kept if label[i] == c]
        others = [i for i in kept if label[i] != c]
        if form == "info_nce":
            values = [
                -np.log(e[i, inside].sum() / (e[i, inside].sum() + e[i, others].sum()))
                for i in inside
            ]
            per_class.append(np.mean(values))
        else:  # teacher pixels are the rows
            positive = sum(e[j, i] for i in inside for j in inside)
            negative = sum(e[j, i] for i in inside for j in others)
            per_class.append(-np.log(positive / (positive + negative)) / len(inside))
    return np.mean(per_class)


@pytest.mark.parametrize("form", ["info_nce", "official"])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_contrastive_loss_equals_its_definition_with_loops(form, seed):
    _, label, mask = random_case(seed)
    mask[0] = True
    rng = np.random.default_rng(seed + 1)
    anchors, keys = rng.normal(size=(2, len(label), 8)).astype(np.float32)
    value = losses.contrastive_loss(
        anchors, keys, label, mask, num_classes=4, temperature=0.5, form=form
    )
    expected = contrast_with_loops(anchors, keys, label, mask, 0.5, form)
    np.testing.assert_allclose(value, expected, rtol=2e-4, atol=1e-6)


def test_windows_that_cover_the_map_give_the_loss_of_the_whole_map():
    rng = np.random.default_rng(0)
    anchors, keys = rng.normal(size=(2, 2, 5, 6, 8)).astype(np.float32)
    label = rng.integers(0, 3, (2, 5, 6))
    mask = rng.random((2, 5, 6)) < 0.7
    common = {"num_classes": 3, "temperature": 0.5, "form": "info_nce"}
    windowed = losses.windowed_contrastive_loss(
        anchors, keys, label, mask, jax.random.key(0), num_windows=3, window_size=32, **common
    )
    whole = losses.contrastive_loss(
        anchors.reshape(-1, 8), keys.reshape(-1, 8), label.ravel(), mask.ravel(), **common
    )
    np.testing.assert_allclose(windowed, whole, rtol=1e-6)


def test_zero_embeddings_have_finite_gradients():
    label, mask = np.array([0, 1]), np.array([True, True])
    gradient = jax.grad(
        lambda x: losses.contrastive_loss(
            x, jnp.ones((2, 3)), label, mask, num_classes=2, temperature=0.5, form="info_nce"
        )
    )(jnp.zeros((2, 3)))
    assert np.isfinite(gradient).all()


def test_a_gradient_that_nobody_asks_for_is_left_out_and_any_other_is_the_same():
    ran = []

    def loss(w, shift):
        y = jnp.sin(w + shift["by"]).sum()
        return y + watched(w), {"doubled": 2 * w}

    @jax.custom_vjp
    def watched(w):
        return (w**2).sum()

    def backward(w, given):
        jax.debug.callback(lambda: ran.append(1))
        return (2 * w * given,)

    watched.defvjp(lambda w: (watched(w), w), backward)

    @jax.jit
    def gradient(w, factor):
        def total(w):
            value, rest = losses.differentiated_if_needed(loss, w, {"by": jnp.float32(0)})
            return factor * value, (value, rest)

        return jax.grad(total, has_aux=True)(w)

    w = jnp.array([0.3, -2.0])
    found, (value, rest) = gradient(w, 3.0)
    jax.effects_barrier()
    assert len(ran) == 1
    np.testing.assert_allclose(found, 3 * (jnp.cos(w) + 2 * w), rtol=1e-6)
    np.testing.assert_allclose(value, jnp.sin(w).sum() + (w**2).sum(), rtol=1e-6)
    np.testing.assert_array_equal(rest["doubled"], 2 * w)
    none, _ = gradient(w, 0.0)
    jax.effects_barrier()
    assert len(ran) == 1  # not once more
    np.testing.assert_array_equal(none, jnp.zeros(2))
