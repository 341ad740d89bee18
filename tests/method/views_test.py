import colorsys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from eln_jax.method import views

NONE = views.ViewSettings(
    jitter_probability=0.0,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    grey_probability=0.0,
    blur_probability=0.0,
    blur_sigma=(0.1, 2.0),
    cutmix_probability=0.0,
)


@pytest.fixture
def image():
    return jnp.array(np.random.default_rng(0).random((3, 12, 10, 3), np.float32))


def test_no_probability_changes_nothing(image):
    np.testing.assert_array_equal(views.strong_view(jax.random.key(0), image, NONE), image)


def test_strong_view_stays_in_range_and_differs_by_image(image):
    settings = replace(NONE, jitter_probability=1.0, blur_probability=1.0)
    same = jnp.repeat(image[:1], 3, axis=0)
    out = views.strong_view(jax.random.key(1), same, settings)
    assert out.shape == same.shape
    assert out.min() >= 0
    assert out.max() <= 1
    assert np.abs(out[0] - out[1]).mean() > 0.01


def test_grey_has_equal_channels(image):
    out = views.strong_view(jax.random.key(0), image, replace(NONE, grey_probability=1.0))
    np.testing.assert_allclose(out[..., 0], out[..., 2])
    expected = np.asarray(image) @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(out[..., 1], expected, rtol=1e-5)


def test_hue_shift_agrees_with_the_standard_library(image):
    turns = 0.3
    out = views.shift_hue(image, jnp.full((1, 1, 1, 1), turns))
    for pixel, shifted in zip(
        np.asarray(image).reshape(-1, 3)[:50], np.asarray(out).reshape(-1, 3)[:50], strict=True
    ):
        h, s, v = colorsys.rgb_to_hsv(*pixel)
        np.testing.assert_allclose(shifted, colorsys.hsv_to_rgb((h + turns) % 1, s, v), atol=1e-5)


def test_hue_of_grey_is_kept():
    grey = jnp.full((1, 2, 2, 3), 0.4)
    np.testing.assert_allclose(views.shift_hue(grey, jnp.full((1, 1, 1, 1), 0.2)), grey)


def test_blur_agrees_with_scipy(image):
    sigma = jnp.array([0.8, 1.2, 1.6])
    out = views.gaussian_blur(image, sigma, radius=4)
    for i, s in enumerate(np.asarray(sigma)):
        expected = ndimage.gaussian_filter(
            np.asarray(image[i]), (s, s, 0), mode="nearest", radius=(4, 4, 0)
        )
        np.testing.assert_allclose(out[i], expected, atol=1e-5)


def test_dropped_channels_are_zero_and_the_mean_stays():
    rng = np.random.default_rng(0)
    maps = {
        "low": jnp.asarray(rng.normal(size=(40, 2, 3, 50)) + 1, jnp.float32),
        "high": jnp.ones((40, 1, 1, 50)),
    }
    out = views.drop_channels(jax.random.key(0), maps, 0.25)
    for name, x in maps.items():
        ratio = np.asarray(out[name] / x).round(4)
        np.testing.assert_array_equal(ratio, np.broadcast_to(ratio[:, :1, :1], ratio.shape))
        assert set(np.unique(ratio)) == {0.0, np.float32(1.3333)}
        assert abs((ratio == 0).mean() - 0.25) < 0.05
    pattern = {name: np.asarray(out[name][:, 0, 0] == 0) for name in maps}
    assert not np.array_equal(pattern["low"], pattern["high"])
    assert not np.array_equal(pattern["low"][0], pattern["low"][1])


def test_normalize_gives_zero_mean_at_the_mean():
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.5, 0.25)
    out = views.normalize(jnp.broadcast_to(jnp.array(mean), (1, 2, 2, 3)), mean, std)
    np.testing.assert_allclose(out, 0.0, atol=1e-7)


def test_cutmix_pastes_the_same_box_at_every_resolution():
    boxes = jnp.array([[0.25, 0.5, 0.75, 1.0], [0.0, 0.0, 0.0, 0.0]])
    fine = jnp.stack([jnp.zeros((17, 17, 3)), jnp.ones((17, 17, 3))])
    coarse = fine[:, ::4, ::4, 0].astype(jnp.int32)  # the corners of both coincide
    expected = np.zeros((17, 17))
    expected[4:13, 8:17] = 1
    np.testing.assert_array_equal(views.paste_boxes(fine, boxes)[0, :, :, 1], expected)
    np.testing.assert_array_equal(views.paste_boxes(coarse, boxes)[0], expected[::4, ::4])
    np.testing.assert_array_equal(views.paste_boxes(fine, boxes)[1], fine[1])


def test_cutmix_boxes_lie_inside_and_follow_the_probability():
    boxes = np.asarray(views.cutmix_boxes(jax.random.key(0), 2000, 0.5))
    assert boxes.min() >= 0
    assert boxes.max() <= 1
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    assert 0.45 < (area > 0).mean() < 0.55
    assert area.max() <= 0.4 + 1e-6


def test_nearest_sampling_keeps_the_corners():
    x = jnp.arange(25).reshape(1, 5, 5)
    np.testing.assert_array_equal(
        views.sample_nearest(x, (3, 3))[0], [[0, 2, 4], [10, 12, 14], [20, 22, 24]]
    )
