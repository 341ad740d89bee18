"""The report: what it says, that it needs nothing beside itself, and what it leaves out."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from eln_jax.evaluation import findings
from eln_jax.evaluation.findings import Collector
from eln_jax.evaluation.line_charts import Line, Span, line_chart
from eln_jax.evaluation.maps import PixelMaps
from eln_jax.evaluation.report import Subject, make_report
from eln_jax.evaluation.scoring import score_image

NAMES = ("ground", "<b>cat & dog")
PALETTE = np.array([[10, 20, 30], [200, 100, 0]], np.uint8)
HEAD = {"network": "teacher", "step": 9, "class_names": NAMES}


class Reader(HTMLParser):
    """Checks that tags close in order; collects what a browser would fetch, and the words."""

    SINGLE = ("meta", "img", "path", "rect", "circle")

    def __init__(self, page):
        super().__init__()
        self.open, self.fetched, self.text = [], [], ""
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.fetched += [value for name, value in attrs if name in ("src", "href")]
        if tag not in self.SINGLE:
            self.open.append(tag)

    def handle_startendtag(self, *_):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data + " "


def image_maps(prediction, *, with_eln=True):
    score = np.where(prediction == 0, 0.9, 0.6).astype(np.float32)
    p_right = score if with_eln else None
    return PixelMaps(prediction.astype(np.uint8), score, score, score, p_right)


def collected(folder, wrong_pixels, *, with_eln=True):
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
    collector.write(folder, HEAD, {"mean_iou": 0.5, "eln/auroc": float("nan")}, total)
    return findings.read(folder)


def page(subject, alone=None, rows=()):
    return make_report(
        "Training: <i>mine",
        subject,
        alone,
        words="2 labelled",
        time="5 min",
        class_names=NAMES,
        palette=PALETTE,
        rows=rows,
        facts=[("devices", "1 x <cpu>")],
        changes=[("data.root", "", "a & b")],
        config_json='{"seed": 0}',
    )


FIGURES = {
    "student/mean_iou": 0.6127,
    "teacher/mean_iou": 0.6432,
    "teacher/iou/ground": 0.9,
    "teacher/iou/<b>cat & dog": 0.3864,
    "eln/auroc": 0.915,
    "max_prob/auroc": 0.92,
}
ALONE = {"student/mean_iou": 0.5632, "student/iou/ground": 0.8, "student/iou/<b>cat & dog": 0.3264}
ROWS = [
    {"step": step, "phase": phase, "split": split, **figures}
    for step, phase in ((1, "supervised"), (2, "supervised"), (4, "semi_supervised"))
    for split, figures in (
        ("train", {"supervised_loss": 1.0 / step, "seconds_per_step": 0.25}),
        ("val", {"student/mean_iou": 0.1 * step}),
    )
]


def test_findings_are_read_back_as_they_were_written(tmp_path):
    found = collected(tmp_path, wrong_pixels=3)
    # Of 2 x 19 pixels that count, 10 + 10 are of class 1, three of them taken for class 0.
    assert found.metrics["confusion_matrix"] == [[18, 0], [3, 17]]
    assert found.metrics["eln/auroc"] is None
    assert found.metrics["network"] == "teacher"
    assert found.metrics["risk_coverage"]["coverage"][-1] == 1.0
    assert found.metrics["risk_coverage"]["max_prob"][-1] == pytest.approx(3 / 38)
    assert [row["id"] for row in found.images] == ["b", "a"]  # the worst first
    assert found.images[0]["wrong"] == pytest.approx(3 / 19)
    assert found.images[1]["predicted_wrong"] == pytest.approx((9 * 0.1 + 10 * 0.4) / 19, abs=1e-6)
    pictures = found.thumbnails["b"]
    assert pictures.keys() == {"image", "label", "prediction", "p_wrong"}
    assert pictures["label"][0, 0] == 1
    assert pictures["label"][3, 4] == 255
    assert pictures["prediction"][0].tolist() == [0, 0, 0, 1, 1]
    assert pictures["image"].shape == (4, 5, 3)


def test_large_images_are_kept_small_and_their_ids_whole(tmp_path):
    collector, label = Collector(255), np.zeros((300, 480), np.uint8)
    label[:, 240:] = 1
    example = {"id": "large", "image": np.zeros((300, 480, 3), np.uint8)}
    counts = score_image(image_maps(label), label, 2, 255)
    collector.add(example, image_maps(label), label, counts)
    collector.write(tmp_path, HEAD, {}, counts)
    small = findings.read(tmp_path).thumbnails["large"]["label"]
    assert small.shape == (150, 240)
    assert np.unique(small).tolist() == [0, 1]


def test_nothing_was_kept(tmp_path):
    assert findings.read(tmp_path) is None


def test_the_page_needs_nothing_and_says_the_figures(tmp_path):
    subject = Subject(FIGURES, collected(tmp_path / "here", wrong_pixels=1))
    alone = Subject(ALONE, collected(tmp_path / "alone", wrong_pixels=3))
    html = page(subject, alone, ROWS)
    reader = Reader(html)
    assert reader.fetched
    assert all(address.startswith("data:image/jpeg;base64,") for address in reader.fetched)
    assert not re.search(r"<script|@import|url\(|http", html)
    text = " ".join(reader.text.split())
    for words in (
        "Training: <i>mine",
        "mean IoU, student 61.3 % +4.9 points against supervised only",
        "mean IoU, teacher 64.3 % +8.0 points",
        "mean IoU, supervised only 56.3 %",
        "AUROC of errors, ELN 91.5 % maximum probability 92.0 %",
        "wall time 5 min",
        "<b>cat & dog 32.6 38.6",  # bars: without and with unlabelled images
        "Confusion matrix of the teacher",
        "Finding wrong pixels",
        "Most improved against supervised only b: mean IoU",
        "devices 1 x <cpu>",
        "data.root a & b",
        '"seed": 0',
    ):
        assert words in text, words
    assert "<b>cat" not in html  # escaped
    # Of class 1's 20 pixels 19 are found.
    assert "<b>cat & dog 5 95" in text
    assert text.count("mean IoU 100.0 %") == 1  # image a is shown once, among few
    assert html.count("<svg") == 3  # losses, mean IoU, risk-coverage


def test_what_was_not_measured_has_no_section():
    reader = Reader(page(Subject({"student/mean_iou": 0.5}, None)))
    for words in ("Training ", "Confusion", "wrong pixels", "Images", "supervised only", "ELN"):
        assert words not in reader.text.replace("Training: ", ""), words
    assert "50.0" in reader.text
    assert not reader.fetched


def test_without_an_eln_its_pictures_are_left_out(tmp_path):
    found = collected(tmp_path, wrong_pixels=2, with_eln=False)
    reader = Reader(page(Subject({"student/mean_iou": 0.5}, found)))
    assert "ELN" not in reader.text
    assert "maximum probability" in reader.text
    assert "Worst" in reader.text


def test_a_chart_puts_points_where_they_belong():
    line = Line("loss", "blue", np.array([0.0, 10.0]), np.array([2.0, 4.0]))
    html = line_chart("Loss", [line], x_name="step", spans=[Span("only", 0, 10)])
    (points,) = re.findall(r'<path d="M([\d. L]+)" fill="none"', html)
    (x0, y0), (x1, y1) = (map(float, point.split()) for point in points.split("L"))
    ticks = re.findall(r'y="([\d.]+)" text-anchor="end">([\d.]+)<', html)
    heights = {float(value): float(y) - 4 for y, value in ticks}
    assert (y0, y1) == pytest.approx((heights[2.0], heights[4.0]), abs=0.11)
    assert x1 > x0
    steps = dict(re.findall(r'text x="([\d.]+)" y="[\d.]+" text-anchor="middle">([\d]+)<', html))
    assert {value: float(x) for x, value in steps.items()}.items() >= {"0": x0, "10": x1}.items()


def test_values_far_apart_have_a_logarithmic_scale():
    line = Line("loss", "blue", np.arange(3.0), np.array([0.01, 0.1, 1.0]))
    html = line_chart("Loss", [line], x_name="step", log_if_wide=True)
    (points,) = re.findall(r'<path d="M([\d. L]+)" fill="none"', html)
    low, middle, high = (float(point.split()[1]) for point in points.split("L"))
    assert low - middle == pytest.approx(middle - high, abs=0.2)


def test_the_shown_configuration_is_json():
    html = page(Subject({"student/mean_iou": 0.5}, None))
    (shown,) = re.findall(r"<pre>(.*?)</pre>", html, re.DOTALL)
    assert json.loads(shown.replace("&quot;", '"')) == {"seed": 0}
