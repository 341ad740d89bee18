"""Findings of small images that can be counted by hand, and a reader of pages, for tests."""

from html.parser import HTMLParser

import numpy as np

from eln_jax.evaluation import findings
from eln_jax.evaluation.findings import Collector
from eln_jax.evaluation.maps import PixelMaps
from eln_jax.evaluation.scoring import score_image

NAMES = ("ground", "<b>cat & dog")
PALETTE = np.array([[10, 20, 30], [200, 100, 0]], np.uint8)
HEAD = {
    "network": "teacher",
    "step": 9,
    "split": "val",
    "images": 2,
    "views": {"scales": [1.0], "flip": False, "window": None, "protocol": "original"},
    "class_names": NAMES,
}


class Reader(HTMLParser):
    """Checks that tags close in order; collects what a browser would fetch, and the words."""

    SINGLE = ("meta", "img", "path", "rect", "circle", "wbr")

    def __init__(self, page):
        super().__init__()
        self.open, self.fetched, self.text = [], [], ""
        self.feed(page)
        assert not self.open
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attrs):
        self.fetched += [value for name, value in attrs if name in ("src", "href")]
        if tag != "wbr":
            self.text += " "
        if tag not in self.SINGLE:
            self.open.append(tag)

    def handle_startendtag(self, *_):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.text += " "

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data


def image_maps(prediction, *, with_eln=True):
    """Maps of a prediction, surer of class 0 than of others."""
    score = np.where(prediction == 0, 0.9, 0.6).astype(np.float32)
    p_right = score if with_eln else None
    return PixelMaps(prediction.astype(np.uint8), score, score, score, p_right)


def collected(folder, wrong_pixels, *, with_eln=True, **head):
    """Writes the findings of two images of 4x5 pixels, with so many pixels wrong in the second."""
    collector, total = Collector(255), None
    for name, wrong in (("a", 0), ("b", wrong_pixels)):
        label = np.zeros((4, 5), np.uint8)
        label[:2] = 1
        label[3, 4] = 255
        prediction = np.where(label == 255, 0, label)
        prediction.flat[:wrong] = 0
        example = {"id": name, "image": np.full((4, 5, 3), 90, np.uint8)}
        maps = image_maps(prediction, with_eln=with_eln)
        counts = score_image(maps, label, 2, 255)
        collector.add(example, maps, label, counts)
        total = counts if total is None else total + counts
    collector.write(folder, HEAD | head, {"mean_iou": 0.5, "eln/auroc": float("nan")}, total)
    return findings.read(folder)
