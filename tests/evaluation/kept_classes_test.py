"""Classes that a gate loses are named, in words that stay short, with what may help."""

import math

import pytest

from eln_jax.evaluation import kept_classes

FIGURES = {
    "pseudo_label/kept": 0.7,
    "pseudo_label/accuracy": 0.95,
    "pseudo_label/kept/sky": 0.9,
    "pseudo_label/accuracy/sky": 0.05,
    "pseudo_label/kept/pole": 0.09,
    "pseudo_label/kept/car": 0.1,
    "pseudo_label/kept/cow": math.nan,
    "pseudo_label/kept/dog": None,
}
THRESHOLD = {"gate": "eln", "gate_mode": "threshold"}


def test_a_class_is_lost_below_a_tenth_and_not_where_nothing_is_predicted_as_it():
    assert kept_classes.lost_classes(FIGURES) == ["pole"]
    assert kept_classes.lost_classes({"pseudo_label/kept": 0.0, "teacher/iou/sky": 0.0}) == []


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (1, "c0"),
        (2, "c0 and c1"),
        (3, "c0, c1 and c2"),
        (7, "c0, c1, c2, c3, c4, c5 and c6"),
        (8, "c0, c1, c2, c3, c4, c5 and 2 more"),
    ],
)
def test_a_long_list_is_cut(count, words):
    figures = {f"pseudo_label/kept/c{i}": 0.0 for i in range(count)}
    assert kept_classes.lost_words(figures) == f"less than 10 % kept of {words}"


def test_without_a_lost_class_nothing_is_said():
    kept = FIGURES | {"pseudo_label/kept/pole": 0.2}
    assert kept_classes.lost_words(kept) == kept_classes.advice(kept, THRESHOLD) == ""


def test_a_remedy_is_given_where_it_can_be_taken():
    assert "class_floor" in kept_classes.advice(FIGURES, THRESHOLD)
    for other in ({"gate": "oracle"}, {"gate_mode": "class_floor"}, {"gate_mode": "soft"}):
        words = kept_classes.advice(FIGURES, THRESHOLD | other)
        assert words.endswith("less than 10 % kept of pole."), other


@pytest.mark.parametrize(
    ("kept", "expected"),
    [(None, False), (1.0, False), (math.nan, False), (0.99, True), (0.0, True)],
)
def test_a_gate_rejects_if_it_does_not_keep_all(kept, expected):
    assert kept_classes.rejects({"pseudo_label/kept": kept}) is expected
    assert not kept_classes.rejects({})
