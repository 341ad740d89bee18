import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from eln_jax.evaluation.maps import SINGLE_VIEW, Views, pixel_maps, reduce_logits, starts

WEIGHT = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32) / 40
IMAGE = np.random.default_rng(1).integers(0, 256, (2, 32, 40, 3)).astype(np.uint8)
LABEL = np.random.default_rng(2).choice([0, 1, 2, 3, 255], (2, 32, 40)).astype(np.uint8)


def by_pixel(variables, image):
    """A network that judges each pixel by itself, at stride 1."""
    logits = image.astype(jnp.float32) @ variables
    return logits, logits[..., 0]


def by_column(variables, image):
    """A network whose answer depends on where in the image it looks: no two looks agree."""
    logits, _ = by_pixel(variables, image)
    logits = logits * jnp.linspace(0.5, 1.5, image.shape[2])[None, None, :, None]
    return logits, logits[..., 0]


def by_mean(variables, image):
    """A network that says the same of every pixel of what it sees."""
    mean = image.astype(jnp.float32).mean((1, 2), keepdims=True) @ variables
    logits = jnp.broadcast_to(mean, (*image.shape[:3], mean.shape[-1]))
    return logits, logits[..., 0]


def averaged(looks):
    """The expected maps of looks given as logits [..., classes], in float64."""
    looks = [np.asarray(look, np.float64) for look in looks]
    p = np.mean([np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in looks], 0)
    return p.argmax(-1), p.max(-1), np.mean([1 / (1 + np.exp(-x[..., 0])) for x in looks], 0)


def assert_maps(maps, label, max_prob, p_right):
    assert (np.asarray(maps.prediction) == label).mean() > 0.999  # a tie may fall either way
    np.testing.assert_allclose(maps.max_prob, max_prob, atol=1e-5)
    np.testing.assert_allclose(maps.p_right, p_right, atol=1e-5)


def test_scores_are_higher_where_the_prediction_is_surer():
    logits = jnp.array([[0.0, 0.0, 40.0], [0.0, 1.0, 0.0]])  # [classes, pixels]
    scores = reduce_logits(logits).scores()
    for score in scores.values():
        assert score[0] < score[1] < score[2]
    np.testing.assert_allclose(scores["max_prob"], [0.5, 1 / (1 + np.exp(-1)), 1.0], atol=1e-6)
    np.testing.assert_allclose(scores["entropy"][0], 0.0, atol=1e-6)
    np.testing.assert_allclose(scores["margin"][1], np.tanh(0.5), atol=1e-6)


def test_logarithms_of_probabilities_may_be_reduced_even_of_zero():
    probability = np.array([0.0, 0.75, 0.25], np.float32)[:, None]
    with np.errstate(divide="ignore"):
        maps = reduce_logits(jnp.asarray(np.log(probability)))
    np.testing.assert_allclose(maps.max_prob, [0.75], rtol=1e-6)
    np.testing.assert_allclose(maps.margin, [0.5], rtol=1e-6)
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25)) / np.log(3)
    np.testing.assert_allclose(maps.entropy, [entropy], rtol=1e-6)
    assert maps.prediction[0] == 1


def test_a_label_is_doubted_by_the_odds_of_the_prediction_against_it():
    probability = np.array([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1], [0.1, 0.2, 0.7], [0.2, 0.2, 0.6]])
    logits = jnp.asarray(np.log(probability).T)  # [classes, pixels]
    maps = reduce_logits(logits, jnp.array([2, 0, 1, 255], np.uint8))
    np.testing.assert_allclose(maps.label_doubt, np.log([7, 1, 3.5, 1]), rtol=1e-5, atol=1e-6)
    assert reduce_logits(logits).label_doubt is None


def test_the_first_of_equal_classes_wins():
    maps = reduce_logits(jnp.zeros((4, 2)))
    assert maps.prediction.tolist() == [0, 0]
    np.testing.assert_allclose(maps.entropy, 1.0, rtol=1e-6)
    np.testing.assert_allclose(maps.margin, 0.0)


def test_the_mirror_image_is_looked_at_and_mirrored_back():
    maps = pixel_maps(by_column, WEIGHT, IMAGE, Views(flip=True))
    mirrored = by_column(WEIGHT, IMAGE[:, :, ::-1])[0][:, :, ::-1]
    assert_maps(maps, *averaged([by_column(WEIGHT, IMAGE)[0], mirrored]))


def test_scales_are_averaged():
    """The image is a ramp, which stays one at every scale of aligned corners."""
    ramp = np.linspace(0, 240, 41)[None, None, :, None] * np.array([1.0, 0.5, 0.2])
    image = np.broadcast_to(ramp, (1, 25, 41, 3)).round().astype(np.uint8)
    maps = pixel_maps(by_column, WEIGHT, image, Views(scales=(1.0, 2.0)), 1)
    once = pixel_maps(by_column, WEIGHT, image, SINGLE_VIEW, 1)
    np.testing.assert_allclose(maps.max_prob, once.max_prob, atol=0.01)
    assert (maps.prediction == once.prediction).mean() > 0.98


def test_a_scaled_image_has_sides_that_the_network_takes():
    sizes = []

    def recording(variables, image):
        sizes.append(image.shape[1:3])
        return by_pixel(variables, image)

    pixel_maps(recording, WEIGHT, np.zeros((1, 97, 129, 3), np.uint8), Views((0.5, 1.5)), 1)
    assert sizes == [(49, 65), (145, 193)]  # 8n + 1, nearest to 48.5 x 64.5 and 145.5 x 193.5


def test_windows_are_blended_by_their_distance_to_the_border():
    """Two windows of 4 columns over 6: columns 2 and 3 belong to both."""
    image = np.zeros((1, 4, 6, 3), np.uint8)
    image[..., :] = (np.arange(6) * 40)[None, None, :, None]
    maps = pixel_maps(by_mean, WEIGHT, image, Views(window=(4, 4), overlap=0.5))
    left, right = (by_mean(WEIGHT, image[:, :, i : i + 4])[0][0, 0, 0] for i in (0, 2))
    p = [np.exp(x) / np.exp(x).sum() for x in (np.asarray(left), np.asarray(right))]
    # Weights of a window's columns are 1/4, 3/4, 3/4, 1/4.
    expected = [p[0], p[0], (3 * p[0] + p[1]) / 4, (p[0] + 3 * p[1]) / 4, p[1], p[1]]
    np.testing.assert_allclose(maps.max_prob[0, 0], [v.max() for v in expected], atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(
    window=st.tuples(st.integers(9, 50), st.integers(9, 50)),
    overlap=st.sampled_from([0.0, 0.3, 0.5]),
    flip=st.booleans(),
)
def test_windows_change_nothing_for_a_network_that_sees_single_pixels(window, overlap, flip):
    views = Views(window=window, overlap=overlap, flip=flip)
    found = pixel_maps(by_pixel, WEIGHT, IMAGE, views, 0, LABEL)
    whole = pixel_maps(by_pixel, WEIGHT, IMAGE, label=LABEL)
    assert found.calibrated is None
    for map_, expected in zip(found[:6], whole[:6], strict=True):
        np.testing.assert_allclose(map_, expected, atol=1e-4)


def test_one_window_over_the_image_is_the_whole_image():
    whole = pixel_maps(by_column, WEIGHT, IMAGE)
    for views in (Views(window=(32, 40)), Views(window=(64, 64)), Views(scales=(1.0,))):
        jax.tree.map(
            np.testing.assert_array_equal, pixel_maps(by_column, WEIGHT, IMAGE, views), whole
        )


@given(side=st.integers(1, 300), window=st.integers(1, 300), overlap=st.floats(0, 0.9))
def test_windows_cover_a_side_with_at_least_the_overlap(side, window, overlap):
    found = starts(side, window, overlap)
    assert found[0] == 0
    assert found[-1] == max(0, side - window)
    gaps = np.diff(found)
    assert (gaps > 0).all()
    assert (gaps <= max(1, window * (1 - overlap)) + 1e-9).all()


def test_without_an_eln_no_look_has_a_map_of_it():
    def without(variables, image):
        return by_pixel(variables, image)[0], None

    for views in (Views(flip=True), Views(window=(16, 16))):
        assert pixel_maps(without, WEIGHT, IMAGE, views).p_right is None
