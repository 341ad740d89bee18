import jax.numpy as jnp
import numpy as np
import pytest

from eln_jax.config_fields import CHOICES
from eln_jax.errors import UserError
from eln_jax.evaluation import scoring
from eln_jax.evaluation.calibrated import Calibration
from eln_jax.evaluation.inference import Predictor
from eln_jax.evaluation.maps import PixelMaps
from eln_jax.method.gates import GATES, Evidence, GateSettings, pseudo_labels

NAMES = ("sky", "road", "car")


def maps_of(prediction, p_right, max_prob=None):
    prediction = np.asarray(prediction, np.uint8)
    p_right = np.asarray(p_right, np.float32)
    flat = np.full(prediction.shape, 0.75, np.float32)
    max_prob = flat if max_prob is None else np.asarray(max_prob, np.float32)
    return PixelMaps(prediction, max_prob, flat, flat, p_right)


#     right  void   wrong  right  wrong
ELN = scoring.make_gate(GateSettings(gate="eln"))
LABEL = np.array([[0, 255, 1, 2, 2]], np.uint8)
MAPS = maps_of([[0, 1, 2, 2, 0]], [[0.9, 0.9, 0.8, 0.7, 0.1]])


def test_one_image_by_hand():
    result = scoring.score_image(MAPS, LABEL, 3, 255, ELN)
    np.testing.assert_array_equal(result.confusion, [[1, 0, 0], [0, 0, 1], [1, 0, 1]])
    # Of class 0: one right kept, one wrong rejected; of class 2: one wrong and one right kept.
    np.testing.assert_array_equal(
        result.gated, [[[1, 0], [0, 1]], [[0, 0], [0, 0]], [[0, 1], [0, 1]]]
    )
    figures = result.figures(NAMES)
    assert figures["pseudo_label/kept"] == pytest.approx(3 / 4)
    assert figures["pseudo_label/accuracy"] == pytest.approx(2 / 3)
    assert figures["pseudo_label/kept/sky"] == pytest.approx(1 / 2)
    assert figures["pseudo_label/accuracy/sky"] == 1.0
    assert np.isnan(figures["pseudo_label/kept/road"])
    assert figures["pseudo_label/accuracy/car"] == pytest.approx(1 / 2)
    assert figures["eln/auroc"] == pytest.approx(3 / 4)
    assert figures["max_prob/auroc"] == pytest.approx(1 / 2)
    assert figures["iou/sky"] == pytest.approx(1 / 2)
    assert figures["iou/road"] == 0.0
    assert figures["mean_iou"] == pytest.approx((1 / 2 + 0 + 1 / 3) / 3)
    assert {"eln/aupr", "max_prob/aupr", "entropy/auroc", "margin/auroc"} <= set(figures)
    assert all(type(value) is float for value in figures.values())


def test_images_add_up():
    rng = np.random.default_rng(0)
    label = rng.choice([0, 1, 2, 255], (6, 8)).astype(np.uint8)
    maps = maps_of(rng.integers(0, 3, (6, 8)), rng.random((6, 8)), rng.random((6, 8)))

    def part(rows):
        return scoring.score_image(
            PixelMaps(*(m[rows] for m in maps[:5])), label[rows], 3, 255, ELN
        )

    whole, total = part(np.s_[:]), part(np.s_[:2]) + part(np.s_[2:])
    assert total.num_images == 2
    np.testing.assert_equal(total.figures(NAMES), whole.figures(NAMES))


def test_an_image_of_void_alone_counts_nothing():
    void = np.full_like(LABEL, 255)
    result = scoring.score_image(MAPS, void, 3, 255, ELN)
    assert all(np.isnan(value) for value in result.figures(NAMES).values())
    assert (result + result).num_images == 2


def test_without_eln_or_gate_their_figures_are_left_out():
    maps = MAPS._replace(p_right=None)
    figures = scoring.score_image(maps, LABEL, 3, 255).figures(NAMES)
    assert not [key for key in figures if key.startswith(("eln/", "pseudo_label/"))]


@pytest.mark.parametrize("mode", CHOICES["method.gate_mode"])
@pytest.mark.parametrize(
    ("name", "threshold"),
    [
        ("none", 0.0),
        ("confidence", 0.6),
        ("entropy", 0.3),
        ("margin", 0.4),
        ("eln", 0.5),
        ("eln_and_confidence", 0.4),
        ("class_calibrated", 0.5),
        ("oracle", 0.5),
    ],
)
def test_gates_agree_with_those_of_the_method(name, threshold, mode):
    if name in ("none", "oracle"):
        mode = "threshold"
    rng = np.random.default_rng(1)
    logits = jnp.asarray(2 * rng.normal(size=(1, 8, 8, 4)), jnp.float32)
    # The last class is predicted at one pixel: 0.3 of it are none.
    logits = logits.at[..., 3].add(-100.0).at[0, 2, 5, 3].add(200.0)
    eln_logits = jnp.asarray(rng.normal(size=(1, 8, 8)), jnp.float32)
    coefficients = jnp.asarray(rng.normal(size=(4, 7)), jnp.float32)
    truth = rng.integers(0, 4, (1, 8, 8))
    # 8x8 images that the network answers at full size, padded to 8: no resizing, no cut.
    predictor = Predictor(
        lambda outputs, _: outputs,
        (logits, eln_logits),
        pad_multiple=8,
        calibration=Calibration(logistic=coefficients),
    )
    settings = GateSettings(
        gate=name, gate_mode=mode, gate_threshold=threshold, gate_confidence=0.5, gate_fraction=0.3
    )
    maps = predictor.predict(np.zeros((8, 8, 3), np.uint8))
    kept = scoring.make_gate(settings)(maps, truth[0])
    seen = Evidence(logits, eln_logits, coefficients, jnp.asarray(truth))
    _, expected = pseudo_labels(seen, jnp.ones((1, 8, 8), bool), settings)
    np.testing.assert_allclose(kept, expected[0], atol=1e-6)
    assert name == "none" or 0 < expected.mean() < 1


def test_soft_weights_count_in_part():
    soft = scoring.make_gate(GateSettings(gate="eln", gate_mode="soft"))
    figures = scoring.score_image(MAPS, LABEL, 3, 255, soft).figures(NAMES)
    weights, right = np.array([0.9, 0.8, 0.7, 0.1]), np.array([1, 0, 1, 0])
    assert figures["pseudo_label/kept"] == pytest.approx(weights.mean())
    accuracy = (weights * right).sum() / weights.sum()
    assert figures["pseudo_label/accuracy"] == pytest.approx(accuracy)


def brightness(variables, image):
    """Class 0 where dark, 1 where bright; the ELN trusts the bright; full resolution."""
    gray = (image.astype(jnp.float32).sum(-1) - 384.5) / 400.0
    return jnp.stack([-gray, gray], -1) * variables, gray


def examples(count=5):
    rng = np.random.default_rng(2)
    for i in range(count):
        image = rng.integers(0, 256, (8 + i % 2, 9, 3)).astype(np.uint8)
        label = (image[..., 0] > 128).astype(np.uint8)
        label[0] = 255
        yield {"id": f"image {i}", "image": image, "label": label}


PREDICTOR = Predictor(brightness, jnp.float32(1.0), batch_size=2, pad_multiple=4)


def test_evaluate_counts_every_image_once():
    done = []
    result = scoring.evaluate(PREDICTOR, examples(), 2, 255, progress=done.append)
    expected = np.zeros((2, 2), int)
    for example in examples():
        prediction = example["image"].sum(-1, dtype=int) > 384
        for truth, found in zip(example["label"][1:].flat, prediction[1:].flat, strict=True):
            expected[truth, int(found)] += 1
    np.testing.assert_array_equal(result.confusion, expected)
    assert result.num_images == 5
    assert done == [1, 2, 3, 4, 5]
    assert result.histograms["eln"].counts.sum() == expected.sum()


def test_evaluate_gives_up_when_asked_to():
    done = []
    result = scoring.evaluate(
        PREDICTOR, examples(), 2, 255, should_stop=lambda: len(done) == 2, progress=done.append
    )
    assert result is None
    assert done == [1, 2]


def test_warped_evaluation_counts_the_warped_pixels():
    predictor = Predictor(brightness, jnp.float32(1.0), warp_size=(12, 10))
    bright = [{**e, "label": np.ones_like(e["label"])} for e in examples(3)]
    result = scoring.evaluate(predictor, bright, 2, 255)
    assert result.confusion.sum(1).tolist() == [0, 3 * 12 * 10]


def test_wrong_input_is_refused_in_one_sentence():
    with pytest.raises(UserError, match="no image to evaluate"):
        scoring.evaluate(PREDICTOR, [], 2, 255)
    unknown = [{**e, "label": e["label"] + 7} for e in examples(1)]
    with pytest.raises(UserError, match=r"image 0.*value 8, but classes are 0 to 1"):
        scoring.evaluate(PREDICTOR, unknown, 2, 6)
    small = [{**e, "label": e["label"][:4]} for e in examples(1)]
    with pytest.raises(UserError, match="mask of 'image 0' is 9x4 pixels but its image is 9x8"):
        scoring.evaluate(PREDICTOR, small, 2, 255)
    diverged = Predictor(brightness, jnp.float32(np.nan), pad_multiple=4)
    with pytest.raises(UserError, match="output for 'image 0' is not finite"):
        scoring.evaluate(diverged, examples(1), 2, 255)


def test_every_gate_is_known_everywhere():
    assert set(scoring.GATE_SCORES) == set(GATES) == set(CHOICES["method.gate"])
