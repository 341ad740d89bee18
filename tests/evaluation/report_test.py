"""The report: what it says, that it needs nothing beside itself, and what it leaves out."""

import json
import re

import pytest

from eln_jax.evaluation import curves
from eln_jax.evaluation.report import Subject, _kept, make_report
from tests.evaluation.samples import NAMES, PALETTE, Reader, collected


def page(subject, alone=None, advice=""):
    return make_report(
        "Training: <i>mine",
        subject,
        alone,
        words="2 labelled",
        time="5 min",
        class_names=NAMES,
        palette=PALETTE,
        advice=advice,
        facts=[("devices", "1 x <cpu>")],
        changes=[("data.root", "", "a & b")],
        config_json='{"seed": 0}',
    )


def headings(html):
    return re.findall("<h2>(.*?)</h2>", html)


def charts(html):
    """Title -> names of the lines."""
    found = re.findall(r'<div class="chart"><h3>(.*?)</h3>.*?<div class="legend">(.*?)</div>', html)
    return {title: re.findall(r"</span>([^<]+)</span>", legend) for title, legend in found}


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


def test_the_page_needs_nothing_and_says_the_figures(tmp_path):
    subject = Subject(FIGURES, collected(tmp_path / "here", wrong_pixels=1), ROWS)
    alone = Subject(ALONE, collected(tmp_path / "alone", wrong_pixels=3), ROWS[:4])
    html = page(subject, alone)
    reader = Reader(html)
    assert reader.fetched
    assert all(address.startswith("data:image/jpeg;base64,") for address in reader.fetched)
    assert not re.search(r"<script|@import|url\(|http", html)
    for words in (
        "Training: <i>mine",
        "61.3 % mean IoU, student +4.9 points against supervised only",
        "64.3 % mean IoU, teacher +8.0 points",
        "56.3 % mean IoU, supervised only",
        "91.5 % AUROC of errors, ELN maximum probability: 92.0 %",
        "5 min wall time",
        "<b>cat & dog 32.6 38.6",  # bars: without and with unlabelled images
        "Confusion matrix of the teacher",
        "Finding wrong pixels",
        "Most improved against supervised only b: mean IoU",
        "devices 1 x <cpu>",
        'field here default data.root a & b ""',
        '"seed": 0',
    ):
        assert words in reader.text, words
    assert "<b>cat" not in html  # escaped
    # Of class 1's 20 pixels 19 are found.
    assert "<b>cat & dog 5 95" in reader.text
    assert reader.text.count("mean IoU 100.0 %") == 1  # image a is shown once, among few
    assert charts(html) == {
        "Losses": ["supervised"],
        "Mean IoU, %": ["student", "supervised only"],
        "Wrong pixels among those kept, %": ["ELN", "maximum probability", "entropy", "margin"],
    }


def test_what_was_not_measured_has_no_section():
    reader = Reader(page(Subject({"student/mean_iou": 0.5}, None, [])))
    assert headings(page(Subject({"student/mean_iou": 0.5}, None, []))) == [
        "IoU of each class, %",
        "Time, device, versions",
        "Configuration",
    ]
    for words in ("supervised", "ELN", "maximum probability"):
        assert words not in reader.text, words
    assert "50.0" in reader.text
    assert not reader.fetched


def test_every_figure_that_a_run_may_log_has_its_line():
    logged = [curves.LOSSES, curves.IOUS, curves.DETECTORS, curves.PSEUDO_LABELS]
    rows = [
        {"step": 1, "phase": "supervised", "split": split} | dict.fromkeys(keys, 0.5)
        for split in ("train", "val")
        for keys in logged
    ]
    drawn = charts(page(Subject(FIGURES, None, rows)))
    assert list(drawn.values()) == [[name for name, _ in keys.values()] for keys in logged]


def test_what_a_gate_keeps_of_each_class_follows_the_classes():
    kept = {"pseudo_label/kept": 0.5, "pseudo_label/kept/ground": 0.75}
    kept |= {"pseudo_label/accuracy": 0.875, "pseudo_label/kept/<b>cat & dog": 0.0625}
    html = page(Subject(FIGURES | kept, None, []), advice="less of <b>cat & dog")
    shown = headings(html)
    assert shown[shown.index("IoU of each class, %") + 1] == "Pseudo-labels of each class"
    assert '<article class="warning">less of &lt;b&gt;cat' in html
    for row in ("ground 75.0 –", "<b>cat & dog 6.2 –", "all 50.0 87.5"):
        assert row in Reader(html).text, row


def test_a_class_may_be_called_all():
    kept = {"pseudo_label/kept": 0.5, "pseudo_label/kept/all": 0.25}
    assert "all 25.0 – all 50.0 –" in Reader(_kept(kept, ["all"], "")).text


@pytest.mark.parametrize("kept", [None, 1.0])
def test_where_no_gate_rejects_anything_nothing_is_said_of_it(kept):
    html = page(Subject(FIGURES | {"pseudo_label/kept": kept}, None, []))
    assert "Pseudo-labels of each class" not in headings(html)
    assert "warning" not in html.partition("</style>")[2]


def test_without_an_eln_its_pictures_are_left_out(tmp_path):
    found = collected(tmp_path, wrong_pixels=2, with_eln=False)
    reader = Reader(page(Subject({"student/mean_iou": 0.5}, found, [])))
    assert "ELN" not in reader.text
    assert "maximum probability" in reader.text
    assert "Worst" in reader.text


def test_the_shown_configuration_is_json():
    html = page(Subject({"student/mean_iou": 0.5}, None, []))
    (shown,) = re.findall(r"<pre>(.*?)</pre>", html, re.DOTALL)
    assert json.loads(shown.replace("&quot;", '"')) == {"seed": 0}


def test_findings_of_an_older_version_leave_their_sections_out(tmp_path):
    found = collected(tmp_path, wrong_pixels=2)
    del found.metrics["confusion_matrix"], found.metrics["risk_coverage"]
    shown = headings(page(Subject(FIGURES, found, [])))
    assert "Images" in shown
    assert not any(words in heading for heading in shown for words in ("Confusion", "wrong pixels"))


def test_the_bars_are_as_long_as_the_figures():
    html = page(Subject(FIGURES, None, []), Subject(ALONE, None, []))
    widths = [float(width) for width in re.findall(r"<i style=\"width:([\d.]+)%", html)]
    expected = [ALONE["student/iou/ground"], FIGURES["teacher/iou/ground"]]
    expected += [ALONE["student/iou/<b>cat & dog"], FIGURES["teacher/iou/<b>cat & dog"]]
    longest = max(widths) / max(expected)
    assert longest <= 100
    assert [width / longest for width in widths] == pytest.approx(expected, abs=1e-3)


def test_a_class_that_is_not_defined_has_no_figure():
    figures = {"student/mean_iou": 0.5, "student/iou/ground": None}
    assert "ground –" in Reader(page(Subject(figures, None, []))).text
