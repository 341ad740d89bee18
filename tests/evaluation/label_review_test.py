import jax
import numpy as np
import pytest

from eln_jax.data.simulated_errors.maps import number_regions
from eln_jax.data.synthetic import SyntheticSource
from eln_jax.errors import UserError
from eln_jax.evaluation.inference import Predictor
from eln_jax.evaluation.label_review import review
from eln_jax.evaluation.planted_errors import HIT, Planting, planted_figures

SIZE = 64


def seen_in_red(sharpness):
    """A judge whose class of a pixel is its red value; `sharpness` is how sure it is."""

    def network(variables, image):
        del variables
        return sharpness * jax.nn.one_hot(image[..., 0], 3), None

    return Predictor(network, {}, batch_size=2, doubt_labels=True)


SURE = seen_in_red(15.0)


def scene(truth, label, id_="a", **more):
    """An example whose image shows the true classes to the judge."""
    image = np.zeros((*truth.shape, 3), np.uint8)
    image[..., 0] = truth
    return {"id": id_, "image": image, "label": label, **more}


def plain():
    """Class 0 with a square of class 1 in it."""
    label = np.zeros((SIZE, SIZE), np.uint8)
    label[8:24, 8:24] = 1
    return label


def found(examples, judge=SURE):
    return review(judge, examples, num_classes=3, ignore_label=255)


def test_a_right_mask_is_not_doubted():
    result = found([scene(plain(), plain())])
    assert result.regions == []
    assert result.image_scores.tolist() == [0.0]


def test_a_swapped_object_comes_first_with_all_that_can_be_said_of_it():
    swapped, fuzzy = plain(), plain()
    swapped[8:24, 8:24] = 2
    fuzzy[40:46, 30:38] = 1
    examples = [scene(plain(), fuzzy, "fuzzy"), scene(plain(), swapped, "swapped")]
    first, second = found(examples).regions
    assert (first.id, first.image, first.pixels) == ("swapped", 1, 256)
    assert first.box == (slice(8, 24), slice(8, 24))
    assert (first.labelled, first.suggested) == (2, 1)
    assert first.inside.all()
    assert (second.id, second.pixels, second.labelled, second.suggested) == ("fuzzy", 48, 1, 0)


def test_the_score_is_the_sum_of_p_wrong():
    """By hand: 48 of 304 pixels labelled 1 are seen as 0, each 12 (in logits) against the label."""
    label = plain()
    label[40:46, 30:38] = 1
    (region,) = found([scene(plain(), label)], seen_in_red(12.0)).regions
    odds = np.exp(12.125) / (48 / 304) * np.exp(-10.0)  # 12 lies in the step from 12 to 12.25
    assert region.score == pytest.approx(48 * odds / (1 + odds), rel=1e-6)


def test_what_the_judge_confuses_all_the_time_is_doubted_less():
    """Two equal regions; the judge takes 2 for 1 in most of the masks' pixels, 2 for 0 in few."""
    label = plain()
    label[40:48, 8:16] = label[40:48, 30:38] = 2
    truth = plain()
    truth[40:48, 8:16] = 1
    confused = scene(np.full((SIZE, SIZE), 1, np.uint8), np.full((SIZE, SIZE), 2, np.uint8), "b")
    rare, common = (
        region
        for region in found([scene(truth, label), confused], seen_in_red(9.0)).regions
        if region.id == "a"
    )
    assert (rare.suggested, common.suggested) == (0, 1)
    assert rare.pixels == common.pixels == 64
    assert rare.score > 2 * common.score


def test_a_sliver_is_not_listed_however_long():
    label = plain()
    label[8:24, 24:26] = 1  # the outline is two pixels off
    label[50:52, :] = 2
    assert found([scene(plain(), label)]).regions == []


def test_a_region_is_cut_off_from_the_sliver_that_it_hangs_on():
    label = plain()
    label[30:32, :] = 2
    label[32:44, 40:52] = 2
    (region,) = found([scene(plain(), label)]).regions
    assert region.box == (slice(30, 44), slice(40, 52))


def test_void_is_never_doubted():
    label = plain()
    label[8:24, 8:24] = 255
    label[40:60, 40:60] = 2
    label[45:55, 45:55] = 255
    (region,) = found([scene(plain(), label)]).regions
    assert region.pixels == 20 * 20 - 10 * 10
    inside = np.zeros(label.shape, bool)
    inside[region.box] = region.inside
    assert not (label[inside] == 255).any()


def test_a_label_that_is_no_class_is_refused():
    with pytest.raises(UserError, match="7"):
        found([scene(plain(), np.full((SIZE, SIZE), 7, np.uint8))])


def test_sizes_may_differ_and_images_come_back_in_order():
    small = np.zeros((40, 50), np.uint8)
    wrong = small.copy()
    wrong[20:40, 30:50] = 2
    examples = [scene(plain(), plain(), "a"), scene(small, wrong, "b"), scene(small, small, "c")]
    result = found(examples)
    assert result.ids == ["a", "b", "c"]
    assert [region.box for region in result.regions] == [(slice(20, 40), slice(30, 50))]
    assert result.image_scores[1] == pytest.approx(400, rel=0.01)
    assert result.image_scores[[0, 2]].tolist() == [0.0, 0.0]


def test_planted_errors_are_counted_as_hits_by_their_overlap():
    label, planted = plain(), np.zeros((SIZE, SIZE), bool)
    label[32:48, 32:48] = 2
    planted[32:48, 32:40] = planted[0:4, 0:4] = True  # half of it
    (region,) = found([scene(plain(), label, planted=planted)]).regions
    assert region.planted_overlap == pytest.approx(0.5)


def test_the_figures_of_what_was_planted():
    label = plain()
    label[32:48, 32:48] = 2
    none = np.zeros(label.shape, bool)
    examples = [
        scene(plain(), label, "hit", planted=label != plain()),
        scene(plain(), label, "the mask's own error", planted=none),
        scene(plain(), plain(), "right", planted=none),
        scene(plain(), plain(), "missed", planted=label != plain()),
    ]
    figures = planted_figures(found(examples))
    assert figures["images"] == 4
    assert figures["planted_images"] == 2
    assert figures["precision_at_10"] == 1 / 2
    # hit against own: tie, hit against right: 1, missed against own: 0, missed against right: tie
    assert figures["image_auroc"] == pytest.approx((0.5 + 1 + 0 + 0.5) / 4)
    nothing = planted_figures(found([scene(plain(), plain(), planted=none)]))
    assert np.isnan([nothing["precision_at_10"], nothing["image_auroc"]]).all()


def test_planting_is_the_same_whenever_asked_and_spares_the_others():
    source = SyntheticSource(12, (48, 48))
    planting = Planting(source.ids, 0.25, seed=3)

    def read(order):
        examples = (
            {"id": source.ids[i], "image": source.read_image(i), "label": source.read_label(i)}
            for i in order
        )
        return {e["id"]: e for e in planting.plant(examples, source.num_classes, 255)}

    forwards, backwards = read(range(12)), read(range(11, 5, -1))
    for id_, example in backwards.items():
        np.testing.assert_array_equal(example["label"], forwards[id_]["label"])
    for i, example in enumerate(forwards.values()):
        truth = source.read_label(i)
        np.testing.assert_array_equal(example["planted"], example["label"] != truth)
        np.testing.assert_array_equal(example["label"] == 255, truth == 255)
    assert 1 <= sum(e["planted"].any() for e in forwards.values()) <= 3


def test_a_perfect_judge_finds_what_is_planted_in_real_scenes():
    source = SyntheticSource(12, (SIZE, SIZE), num_classes=3)
    planting = Planting(source.ids, 0.5)
    examples = [
        scene(np.where(label == 255, 0, label), label, source.ids[i])
        for i, label in enumerate(map(source.read_label, range(12)))
    ]
    planted = list(planting.plant(examples, 3, 255))
    result = found(planted)
    for region in result.regions:
        errors = number_regions(planted[region.image]["planted"])
        assert errors[region.box][region.inside].all()  # nothing else is doubted
    assert planted_figures(result)["precision_at_10"] >= 0.8
    assert result.regions[0].planted_overlap > HIT
    assert [r.score for r in result.regions] == sorted(r.score for r in result.regions)[::-1]
