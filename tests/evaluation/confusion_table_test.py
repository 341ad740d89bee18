"""The confusion matrix as a table: shares of each true class, or the largest confusions."""

import re

import numpy as np

from eln_jax.evaluation.confusion_table import confusion_table
from tests.evaluation.samples import Reader


def rows(html):
    lines = re.findall("<tr>(.*?)</tr>", html)
    return [re.findall("<t[hd][^>]*>(.*?)</t[hd]>", line) for line in lines]


def test_each_row_is_the_share_of_its_class():
    counts = np.array([[750.0, 246, 4], [0, 0, 0], [1, 1, 2]])
    assert rows(confusion_table(counts, ["sky", "sea", "<car>"])) == [
        ["", "sky", "sea", "&lt;car&gt;"],
        ["sky", "75", "25", "·"],  # 0.4 %; the sea has no pixel, and no row
        ["&lt;car&gt;", "25", "25", "50"],
    ]


def test_of_many_classes_the_largest_confusions_are_listed():
    names = [f"class {i}" for i in range(50)]
    counts = np.eye(50) * 100
    counts[3, 7], counts[8, 2] = 100, 25
    html = confusion_table(counts, names)
    assert rows(html) == [
        ["class", "taken for", "of its pixels, %"],
        ["class 3", "class 7", "50.0"],
        ["class 8", "class 2", "20.0"],
    ]
    Reader(html)
    assert "No class is taken for another" in confusion_table(np.eye(50), names)
