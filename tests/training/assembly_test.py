import numpy as np
import pytest

from eln_jax.training import assembly
from tests.tiny import tiny_config


def test_class_weights_are_inverse_roots_of_mean_one():
    # Shares 1/4, 1/16, absent: roots 2 and 4, mean 3 over the two that occur.
    weights = assembly._sqrt_weights(np.array([0.25, 0.0625, 0.0]))
    assert weights == pytest.approx((2 / 3, 4 / 3, 0.0))


def test_weights_come_from_the_labelled_images_alone():
    config = tiny_config(method__class_balance="sqrt")
    parts = assembly.build(config)
    counts = np.zeros(6)
    for index in parts.data.partition.labeled:
        label = parts.data.train.read_label(index)
        counts += [(label == value).sum() for value in range(6)]
    roots = np.where(counts > 0, np.sqrt(counts.sum() / np.maximum(counts, 1)), 0)
    settings = parts.steps["supervised"].__wrapped__.keywords["args"].settings
    np.testing.assert_allclose(settings.class_weights, roots / roots[counts > 0].mean(), rtol=1e-6)


def test_the_description_says_what_is_trained_on():
    parts = assembly.build(tiny_config())
    for words in ("4 labelled and 8 unlabelled", "validating on 4", "3 eln", "4 x cpu"):
        assert words in parts.description


def test_labelled_images_stand_in_where_none_is_unlabelled():
    parts = assembly.build(tiny_config(data__labeled_count="12"))
    assert "serve as unlabelled too" in parts.description
    iterator = iter(parts.data.streams["unlabeled"])
    assert set(next(iterator)) == {"image", "inside"}
    iterator.close()
