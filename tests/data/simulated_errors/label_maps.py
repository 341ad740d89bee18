"""Label maps to make errors on, and what holds for every one with errors."""

import functools

import numpy as np
from hypothesis import strategies as st

from eln_jax.data.synthetic import SyntheticSource

CLASSES, VOID = 7, 200
SCENE = {"num_classes": CLASSES, "ignore_label": VOID}
seeds = st.integers(0, 2**32 - 1)


def rng(seed=0):
    return np.random.default_rng(seed)


@st.composite
def maps(draw):
    """Piecewise constant maps of any size, from a single pixel on, with patches of void."""
    sizes = st.one_of(
        st.sampled_from([(1, 1), (3, 5), (1, 40), (40, 1)]),
        st.tuples(st.integers(2, 70), st.integers(2, 70)),
    )
    height, width = draw(sizes)
    random = rng(draw(seeds))
    side = draw(st.sampled_from([1, 4, 16]))
    ids = random.integers(0, draw(st.integers(1, CLASSES)), (height // side + 1, width // side + 1))
    ids[random.random(ids.shape) < draw(st.sampled_from([0.0, 0.2, 1.0]))] = VOID
    return ids.repeat(side, 0).repeat(side, 1)[:height, :width].astype(np.uint8)


def square(size=40, side=8, at=(10, 20), value=3):
    """A background of class 0 with a square on it."""
    label = np.zeros((size, size), np.uint8)
    label[at[0] : at[0] + side, at[1] : at[1] + side] = value
    return label


def halves(size=64):
    label = np.zeros((size, size), np.uint8)
    label[:, size // 2 :] = 1
    return label


@functools.cache
def scenes():
    source = SyntheticSource(8, (128, 96), **SCENE, seed=5)
    return [source.read_label(index) for index in range(len(source))]


def wrong_rate(result, label):
    return (result != label)[label != VOID].mean()


def check_like(result, label):
    assert result.shape == label.shape
    assert result.dtype == label.dtype
    np.testing.assert_array_equal(result == VOID, label == VOID)
    assert (result[result != VOID] < CLASSES).all()
    assert not np.shares_memory(result, label)
