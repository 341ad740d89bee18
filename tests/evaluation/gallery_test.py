"""Which images the report shows, and with which pictures."""

import re

import numpy as np

from eln_jax.evaluation.findings import Findings
from eln_jax.evaluation.gallery import gallery
from tests.evaluation.samples import NAMES, PALETTE


def found(scores, **pictures):
    """Findings of images of 2x2 pixels with these mean IoUs, None where one is undefined."""
    pixels = {name: np.zeros((2, 2), np.uint8) for name in ("label", "prediction")} | pictures
    pixels["image"] = np.zeros((2, 2, 3), np.uint8)
    rows = [{"id": name, "mean_iou": score} for name, score in scores.items()]
    rows.sort(key=lambda row: (row["mean_iou"] is None, row["mean_iou"]))
    return Findings({}, rows, dict.fromkeys(scores, pixels))


def shown(html):
    """Heading -> ids of its images."""
    sections = re.split("<h3>", html)[1:]
    return {s.split("</h3>")[0]: re.findall(r"<p>(\w+): mean IoU", s) for s in sections}


def test_worst_best_and_most_improved_are_shown():
    scores = {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4, "e": 0.5, "f": 0.9, "void": None}
    before = {"a": 0.2, "b": 0.1, "c": 0.0, "d": 0.39, "e": None, "f": 0.0}
    html = gallery(found(scores), found(before), NAMES, PALETTE)
    assert shown(html) == {
        "Most improved against supervised only": ["f", "c", "b"],
        "Worst": ["a", "b", "c"],
        "Best": ["f", "e", "d"],
    }
    assert "f: mean IoU 90.0 %, +90.0 points" in html
    assert "a: mean IoU 10.0 %, −10.0 points" in html
    assert "e: mean IoU 50.0 %<" in html  # was undefined before


def test_without_a_run_to_compare_with_nothing_has_improved():
    html = gallery(found({"a": 0.5}), None, NAMES, PALETTE)
    assert shown(html) == {"Worst": ["a"]}
    assert "supervised only" not in html
    assert "points" not in html
    assert re.findall("<figcaption>(.*?)<", html) == [
        "image",
        "truth",
        "prediction",
        "wrong pixels",
    ]


def test_the_error_map_of_the_eln_is_shown_where_there_is_one():
    html = gallery(found({"a": 0.5}, p_wrong=np.full((2, 2), 9, np.uint8)), None, NAMES, PALETTE)
    assert html.count("ELN: P(wrong)") == 1


def test_without_a_pixel_that_counts_there_is_nothing_to_show():
    assert gallery(found({"a": None}), None, NAMES, PALETTE) == ""
