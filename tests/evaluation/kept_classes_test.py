"""Classes that a gate loses are named, in words that stay short, and shown class by class."""

import math

import pytest

from eln_jax.evaluation import kept_classes
from tests.evaluation.samples import Reader

NAMES = ("sky", "<pole>", "car", "cow")
FIGURES = {
    "pseudo_label/kept": 0.7,
    "pseudo_label/accuracy": 0.95,
    "pseudo_label/kept/sky": 0.9,
    "pseudo_label/accuracy/sky": 0.99,
    "pseudo_label/kept/<pole>": 0.09,
    "pseudo_label/accuracy/<pole>": 0.5,
    "pseudo_label/kept/car": 0.1,
    "pseudo_label/accuracy/car": 0.875,
    "pseudo_label/kept/cow": math.nan,
    "pseudo_label/accuracy/cow": None,
}


def test_a_class_is_lost_below_a_tenth_and_not_where_nothing_is_predicted_as_it():
    assert kept_classes.lost_classes(FIGURES) == ["<pole>"]
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
    assert kept_classes.listed([f"c{i}" for i in range(count)]) == words


def test_the_section_shows_each_class_and_warns():
    html = kept_classes.section(FIGURES, NAMES)
    text = Reader(html).text
    for row in ("sky 90.0 99.0", "<pole> 9.0 50.0", "car 10.0 87.5", "cow – –", "all 70.0 95.0"):
        assert row in text, row
    assert '<article class="warning">' in html
    assert "less than 10 % of the pixels predicted as <pole>:" in text


def test_without_a_lost_class_it_does_not_warn():
    html = kept_classes.section(FIGURES | {"pseudo_label/kept/<pole>": 0.2}, NAMES)
    assert "predicted class" in html
    assert "warning" not in html


@pytest.mark.parametrize("kept", [{}, {"pseudo_label/kept": None}, {"pseudo_label/kept": 1.0}])
def test_where_nothing_is_rejected_there_is_no_section(kept):
    assert kept_classes.section(kept, NAMES) == ""


def test_a_gate_that_keeps_nothing_has_one():
    nothing = dict.fromkeys(FIGURES, 0.0)
    assert "sky, <pole>, car and cow" in Reader(kept_classes.section(nothing, NAMES)).text
