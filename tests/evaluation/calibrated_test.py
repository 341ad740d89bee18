import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special

from eln_jax.evaluation import calibrated
from eln_jax.evaluation.calibrated import Calibration, Pixels
from eln_jax.evaluation.inference import Predictor
from eln_jax.method.calibration import num_features


def labelled(count=3000, sharpness=2.5, classes=4):
    """Pixels whose logits are too sharp by a factor; of class 3 most predictions are wrong."""
    rng = np.random.default_rng(0)
    true_logits = rng.normal(size=(count, classes))
    chance = special.softmax(true_logits, 1)
    label = (chance.cumsum(1) > rng.random((count, 1))).argmax(1)
    logits = (sharpness * true_logits).astype(np.float32)
    often_wrong = (logits.argmax(1) == 3) & (rng.random(count) < 0.8)
    label = np.where(often_wrong, 0, label)
    right = logits.argmax(1) == label
    p_right = special.expit(rng.normal(size=count) + 2 * right - 1).astype(np.float32)
    return Pixels(logits, p_right, label, np.arange(count) % 10)


def test_the_temperature_is_what_a_general_optimiser_finds():
    pixels = labelled()

    def loss(temperature):
        chance = special.log_softmax(pixels.logits.astype(np.float64) / temperature, 1)
        return -chance[np.arange(len(chance)), pixels.label].mean()

    expected = optimize.minimize_scalar(loss, bounds=(0.05, 20), method="bounded").x
    found = calibrated.fit_temperature(pixels.logits, pixels.label)
    assert found == pytest.approx(expected, rel=1e-3)
    assert 1.5 < found < 5


def scores_of(pixels, calibration):
    planes = jnp.asarray(pixels.logits.T)
    p_right = None if pixels.p_right is None else jnp.asarray(pixels.p_right)
    found = calibrated.calibrated_scores(planes, p_right, calibration)
    return {name: np.asarray(score) for name, score in found.items()}


def test_each_calibration_knows_more_than_the_one_before():
    pixels = labelled()
    right = pixels.logits.argmax(1) == pixels.label
    scores = scores_of(pixels, calibrated.fit(pixels))
    assert list(scores) == ["temperature", "class_confidence", "logistic", "logistic_eln"]

    def log_loss(p):
        return -np.log(np.where(right, p, 1 - p)).mean()

    uncalibrated = special.softmax(pixels.logits, 1).max(1)
    losses = [log_loss(p) for p in (uncalibrated, *scores.values())]
    assert losses == sorted(losses, reverse=True)
    for name in ("class_confidence", "logistic", "logistic_eln"):
        for c in range(4):
            of_class = pixels.logits.argmax(1) == c
            assert scores[name][of_class].mean() == pytest.approx(right[of_class].mean(), abs=0.03)


def test_scores_are_what_numpy_says():
    rng = np.random.default_rng(1)
    pixels = labelled(50)
    coefficients = rng.normal(size=(4, num_features(4) + 1)).astype(np.float32)
    calibration = Calibration(
        np.float32(2.0), coefficients[:, :2], coefficients[:, :-1], coefficients
    )
    found = scores_of(pixels, calibration)
    probability = special.softmax(pixels.logits.astype(np.float64), 1)
    first = probability.argmax(1)
    entropy = special.entr(probability).sum(1) / np.log(4)
    features = np.column_stack(
        [
            np.ones(50),
            special.logit(probability.max(1)),
            entropy,
            probability,
            special.logit(pixels.p_right.astype(np.float64)),
        ]
    )
    for name, width in (("class_confidence", 2), ("logistic", 7), ("logistic_eln", 8)):
        logit = (coefficients[first, :width] * features[:, :width]).sum(1)
        np.testing.assert_allclose(found[name], special.expit(logit), atol=1e-4, err_msg=name)
    tempered = special.softmax(pixels.logits / 2, 1).max(1)
    np.testing.assert_allclose(found["temperature"], tempered, rtol=1e-5)


def test_without_an_eln_its_calibration_is_left_out():
    pixels = labelled(200)._replace(p_right=None)
    calibration = calibrated.fit(pixels)
    assert calibration.logistic_eln is None
    assert "logistic_eln" not in scores_of(pixels, calibration)
    assert calibrated.calibrated_scores(jnp.zeros((2, 1)), None, None) is None


def test_the_elns_feature_is_finite_where_it_is_certain():
    feature = calibrated.eln_feature(jnp.array([0.0, 0.5, 1.0]))
    np.testing.assert_allclose(feature, [-16, 0, 16], atol=1)


def test_a_predictor_gives_the_scores_as_maps():
    rng = np.random.default_rng(2)
    logits = jnp.asarray(rng.normal(size=(1, 8, 8, 4)), jnp.float32)
    eln_logits = jnp.asarray(rng.normal(size=(1, 8, 8)), jnp.float32)
    flat = Pixels(np.asarray(logits).reshape(-1, 4), special.expit(np.asarray(eln_logits).ravel()),
                  rng.integers(0, 4, 64), np.arange(64) % 8)  # fmt: skip
    calibration = calibrated.fit(flat)
    predictor = Predictor(
        lambda outputs, _: outputs, (logits, eln_logits), pad_multiple=8, calibration=calibration
    )
    maps = predictor.predict(np.zeros((7, 5, 3), np.uint8))
    expected = scores_of(flat, calibration)
    assert set(maps.scores()) == {"max_prob", "entropy", "margin", "eln", *expected}
    for name, score in expected.items():
        cut = score.reshape(8, 8)[:7, :5]
        np.testing.assert_allclose(maps.scores()[name], cut, rtol=1e-4, atol=1e-5)
