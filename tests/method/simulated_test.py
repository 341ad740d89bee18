import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eln_jax.method import simulated

# Two halves, and a stripe of void below.
LABEL = np.zeros((2, 64, 64), np.uint8)
LABEL[:, :, 32:] = 2
LABEL[:, 56:] = 255


@pytest.fixture(scope="module")
def logits():
    return np.asarray(simulated.soft_logits(jax.random.key(0), jnp.array(LABEL), 3, (17, 17)))


def entropy(logits):
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    return -(p * np.log(p)).sum(-1)


def test_away_from_borders_the_label_is_predicted(logits):
    assert logits.shape == (2, 17, 17, 3)
    prediction = logits.argmax(-1)
    assert (prediction[:, :12, :5] == 0).all()
    assert (prediction[:, :12, 12:] == 2).all()


def test_it_is_less_sure_near_borders_and_on_void(logits):
    unsure = entropy(logits).mean(0)
    inside = unsure[:12, [2, 3, 13, 14]].mean()
    assert unsure[:12, 8].mean() > 2 * inside
    assert unsure[16].mean() > 2 * inside


def test_another_key_is_another_prediction_of_the_same_label(logits):
    again = simulated.soft_logits(jax.random.key(0), jnp.array(LABEL), 3, (17, 17))
    np.testing.assert_array_equal(again, logits)
    other = simulated.soft_logits(jax.random.key(1), jnp.array(LABEL), 3, (17, 17))
    assert np.abs(np.asarray(other) - logits).max() > 0.1
    # Each image of a batch draws for itself.
    assert np.abs(logits[0] - logits[1]).max() > 0.1
