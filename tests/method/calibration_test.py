import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special, stats

from eln_jax.method import calibration


def pixels(seed=0, count=400, classes=3):
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2, size=(count, classes)).astype(np.float32)
    prediction, features = calibration.prediction_features(jnp.asarray(logits.T))
    prediction, features = np.asarray(prediction), np.asarray(features).T
    chance = special.expit(0.5 * features[:, 1] - 0.5 + (prediction == 1))
    return logits, prediction, features, rng.random(count) < chance


def test_features_are_what_scipy_says():
    logits, prediction, features, _ = pixels()
    probability = special.softmax(logits.astype(np.float64), 1)
    highest = probability.max(1)
    np.testing.assert_array_equal(prediction, probability.argmax(1))
    np.testing.assert_array_equal(features[:, 0], 1.0)
    np.testing.assert_allclose(features[:, 1], special.logit(highest), rtol=1e-4, atol=1e-5)
    entropy = stats.entropy(probability, axis=1) / np.log(3)
    np.testing.assert_allclose(features[:, 2], entropy, atol=1e-6)
    np.testing.assert_allclose(features[:, 3:], probability, atol=1e-6)
    assert features.shape[1] == calibration.num_features(3)


def test_features_stay_finite_where_a_class_is_certain_or_impossible():
    for logits in ([300.0, 0.0, -300.0], [0.0, -np.inf, -np.inf], [0.0, 0.0, 0.0]):
        _, features = calibration.prediction_features(jnp.array(logits)[:, None])
        assert np.isfinite(features).all()
        assert -16 <= features[1, 0] <= 16


def test_newton_finds_what_a_general_optimiser_finds():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(60, 4)), rng.random(60) < 0.3
    prior, strength = rng.normal(size=4), np.array([0.1, 1.0, 3.0, 10.0])

    def objective(w):
        margin = x @ w
        loss = -np.log(special.expit(np.where(y, margin, -margin))).sum()
        return loss + 0.5 * (strength * (w - prior) ** 2).sum()

    expected = optimize.minimize(objective, np.zeros(4), tol=1e-12).x
    found = calibration.fit_logistic(x, y.astype(float), prior, strength)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_separable_pixels_do_not_run_away():
    x = np.stack([np.ones(20), np.linspace(-1, 1, 20)], 1)
    found = calibration.fit_logistic(x, (x[:, 1] > 0) * 1.0, np.zeros(2), np.array([1.0, 0.1]))
    assert np.isfinite(found).all()
    assert found[1] > 3


def test_a_class_never_predicted_gets_what_all_have_in_common():
    _, prediction, features, right = pixels()
    seen = prediction != 2
    rows = calibration.fit_by_class(features[seen], prediction[seen], right[seen], 3, 50.0)
    # A regression of all pixels at once, in units of the features' deviations.
    x = features[seen].astype(np.float64)
    mean, deviation = x.mean(0), x.std(0)
    mean[0], deviation[0] = 0, 1
    common = calibration.fit_logistic(
        (x - mean) / deviation, right[seen] * 1.0, np.zeros(6), np.array([1.0] + [50.0] * 5)
    )
    np.testing.assert_allclose(
        features[seen] @ rows[2], (x - mean) / deviation @ common, rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize(("strength", "apart"), [(0.01, True), (1e9, False)])
def test_the_strength_decides_how_far_classes_part(strength, apart):
    _, prediction, features, right = pixels(count=2000)
    rows = calibration.fit_by_class(features, prediction, right, 3, strength)
    assert (np.abs(rows[0] - rows[1]).max() > 0.1) == apart


def test_the_logit_is_the_dot_product_with_the_predicted_class():
    _, prediction, features, right = pixels()
    rows = calibration.fit_by_class(features, prediction, right, 3, 10.0)
    found = calibration.logit_of_right(
        jnp.asarray(prediction), jnp.asarray(features.T), jnp.asarray(rows)
    )
    expected = [f @ rows[c] for f, c in zip(features, prediction, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_strength_that_foretells_images_left_out_is_chosen():
    # In each image another random class is always wrong: what parts the classes does not transfer.
    rng = np.random.default_rng(0)
    image = np.repeat(np.arange(10), 60)
    _, prediction, features, _ = pixels(count=600)
    right = prediction != rng.integers(0, 3, 10)[image]
    chosen = calibration.choose_strength(features, prediction, right, image, 3, (0.01, 1e6))
    assert chosen == 1e6
    # And where a class is always wrong, the weakest restraint is.
    right = prediction != 1
    chosen = calibration.choose_strength(features, prediction, right, image, 3, (0.01, 1e6))
    assert chosen == 0.01
    assert calibration.choose_strength(features, prediction, right, image * 0, 3, (1, 2)) == 2


def test_what_holds_for_neighbouring_images_alone_asks_for_the_strongest_restraint():
    # Five videos of two images, each with a feature that tells which it is, all right or all wrong:
    # the twin of an image that is left out knows it all, the other videos know nothing of it.
    image = np.repeat(np.arange(10), 60)
    video = image // 2
    features = np.concatenate([np.ones((600, 1)), np.eye(5)[video]], axis=1)
    right, prediction = video < 2, np.zeros(600, int)
    chosen = calibration.choose_strength(features, prediction, right, image, 1, (0.01, 1e6))
    assert chosen == 1e6
