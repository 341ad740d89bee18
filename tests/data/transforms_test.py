from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import maximum_filter, minimum_filter

from eln_jax.data.transforms import (
    MEAN_COLOR,
    Augmentation,
    View,
    augment,
    crop,
    horizontal_flip,
    random_crop,
    random_flip,
    random_scale_crop,
    scale_crop,
    warp,
)
from eln_jax.errors import UserError

modest = settings(max_examples=40, deadline=None)
sides = st.integers(3, 60)
offsets = st.integers(-30, 70)


def example(height, width, seed=0):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return image, rng.integers(0, 20, (height, width), dtype=np.uint8)


def blocks(height, width, seed=0, side=16):
    """Returns a label of large squares and an image that shows each id as a grey value."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 12, (-(-height // side), -(-width // side)), dtype=np.uint8)
    label = ids.repeat(side, axis=0).repeat(side, axis=1)[:height, :width]
    return np.repeat((label * 20)[..., None], 3, axis=2), label


@modest
@given(sides, sides, sides, sides, sides, sides, offsets, offsets)
def test_scale_crop_is_scaling_the_whole_and_cutting(h, w, sh, sw, ch, cw, top, left):
    image, label = example(h, w)
    view = scale_crop(
        image, label, scaled_size=(sh, sw), offset=(top, left), crop_size=(ch, cw), ignore_label=99
    )
    room = 160
    whole = np.full((sh + 2 * room, sw + 2 * room, 3), MEAN_COLOR, np.uint8)
    ids = np.full(whole.shape[:2], 99, np.uint8)
    inside = np.zeros(ids.shape, bool)
    middle = (slice(room, room + sh), slice(room, room + sw))
    whole[middle] = Image.fromarray(image).resize((sw, sh), Image.Resampling.BILINEAR)
    # By exact fractions: the source pixel that holds the centre of a scaled one.
    rows = [int(Fraction(2 * row + 1, 2) * h / sh) for row in range(sh)]
    columns = [int(Fraction(2 * column + 1, 2) * w / sw) for column in range(sw)]
    ids[middle] = label[np.ix_(rows, columns)]
    inside[middle] = True
    cut = (slice(room + top, room + top + ch), slice(room + left, room + left + cw))
    assert view.image.shape == (ch, cw, 3)
    assert np.abs(view.image.astype(int) - whole[cut].astype(int)).max() <= 1
    np.testing.assert_array_equal(view.label, ids[cut])
    np.testing.assert_array_equal(view.inside, inside[cut])


@modest
@given(sides, sides, sides, sides, offsets, offsets)
def test_crop_copies_pixels_and_pads_only_outside(h, w, ch, cw, top, left):
    image, label = example(h, w)
    view = crop(image, label, offset=(top, left), crop_size=(ch, cw))
    rows = np.arange(top, top + ch)[:, None]
    columns = np.arange(left, left + cw)[None, :]
    inside = (rows >= 0) & (rows < h) & (columns >= 0) & (columns < w)
    np.testing.assert_array_equal(view.inside, inside)
    expected = image[np.clip(rows, 0, h - 1), np.clip(columns, 0, w - 1)]
    np.testing.assert_array_equal(view.image[inside], expected[inside])
    assert (view.image[~inside] == MEAN_COLOR).all()
    assert view.label is not None
    assert (view.label[~inside] == 255).all()
    assert (view.label[inside] < 20).all()


@modest
@given(st.integers(16, 60), st.integers(16, 60), st.integers(0, 1000))
def test_random_windows_lie_inside_or_around_the_image(h, w, seed):
    image, label = example(h, w)
    rng = np.random.default_rng(seed)
    view = random_crop(image, label, rng, crop_size=(32, 40))
    # All that fits is shown: the window never leaves an image that is larger than it.
    assert view.inside.sum() == min(h, 32) * min(w, 40)
    view = random_scale_crop(image, label, rng, crop_size=(16, 16), scale_range=(1.0, 2.0))
    assert view.inside.all()
    assert (view.label < 20).all()


@pytest.mark.parametrize("geometry", ["scale_crop", "crop", "warp"])
def test_image_and_label_stay_aligned(geometry):
    image, label = blocks(90, 70)
    for seed in range(20):
        view = augment(
            image,
            label,
            np.random.default_rng(seed),
            crop_size=(64, 80),
            augmentation=Augmentation(geometry),
        )
        assert view.label is not None
        shown = (view.image[..., 0].astype(float) / 20).round()
        np.testing.assert_array_equal(view.inside, view.label != 255)
        # Bilinear blends at the edges of the squares, also with a square just out of view.
        highest = maximum_filter(view.label, 7, mode="constant", cval=254)
        flat = view.inside & (highest == minimum_filter(view.label, 7))
        assert flat.sum() > 300
        np.testing.assert_array_equal(shown[flat], view.label[flat])


def test_a_scaled_label_does_not_drift_from_its_image():
    """The centre of mass of a square is the same in image and label at any scale."""
    label = np.zeros((61, 61), np.uint8)
    label[17:32, 23:44] = 1
    image = np.repeat((label * 255)[..., None], 3, axis=2)
    for size in ((122, 122), (183, 244), (40, 33), (31, 31)):
        view = warp(image, label, crop_size=size)
        assert view.label is not None
        grey, ids = view.image[..., 0].astype(float), view.label.astype(float)
        for axis in (0, 1):
            place = np.arange(size[axis]).reshape((-1, 1) if axis == 0 else (1, -1))
            in_image, in_label = ((place * mass).sum() / mass.sum() for mass in (grey, ids))
            assert abs(in_image - in_label) < 0.35


def test_shrinking_does_not_alias():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    view = warp(stripes, None, crop_size=(16, 16))
    assert np.abs(view.image.astype(int) - 127).max() <= 12


def test_flips_mirror_and_undo_themselves():
    image, label = example(5, 7)
    view = View(image, label, np.ones((5, 7), bool))
    once = horizontal_flip(view)
    np.testing.assert_array_equal(once.image[:, 0], image[:, -1])
    np.testing.assert_array_equal(once.label[:, 0], label[:, -1])
    for back, start in zip(horizontal_flip(once), view, strict=True):
        np.testing.assert_array_equal(back, start)
    assert horizontal_flip(View(image, None, view.inside)).label is None


def test_flips_come_with_their_probability():
    view = View(*example(2, 2), np.ones((2, 2), bool))
    rng = np.random.default_rng(0)
    flipped = sum(random_flip(view, rng, probability=0.25) is not view for _ in range(2000))
    assert 430 < flipped < 570
    assert random_flip(view, rng, probability=0.0) is view


def test_scales_and_places_fill_their_range():
    """Squares of 10 pixels show the scale drawn; a marked pixel shows where the window lies."""
    rng = np.random.default_rng(0)
    image = np.zeros((40, 40, 3), np.uint8)
    image[..., 0] = np.arange(40) * 6
    starts = [crop_start(image, rng) for _ in range(300)]
    assert (min(starts), max(starts)) == (0, 24)
    heights = []
    for _ in range(300):
        view = random_scale_crop(image, None, rng, crop_size=(100, 100), scale_range=(0.5, 2.0))
        heights.append(view.inside.any(axis=1).sum())
    assert min(heights) < 24
    assert max(heights) > 76


def crop_start(image, rng):
    return int(random_crop(image, None, rng, crop_size=(16, 16)).image[0, 0, 0]) // 6


def test_the_same_generator_state_gives_the_same_view():
    image, label = example(40, 50)
    first, second, other = (
        augment(
            image,
            label,
            np.random.default_rng(seed),
            crop_size=(32, 32),
            augmentation=Augmentation(),
        )
        for seed in (5, 5, 6)
    )
    for one, two in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, two)
    assert (first.image != other.image).any()
    unlabeled = augment(
        image, None, np.random.default_rng(5), crop_size=(32, 32), augmentation=Augmentation()
    )
    assert unlabeled.label is None
    np.testing.assert_array_equal(unlabeled.image, first.image)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"geometry": "zoom"}, "geometry 'zoom' does not exist"),
        ({"scale_range": (2.0, 0.5)}, "scale_range"),
        ({"scale_range": (0.0, 1.0)}, "scale_range"),
        ({"flip": 1.5}, "flip is 1.5"),
    ],
)
def test_meaningless_augmentations_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        Augmentation(**values)
