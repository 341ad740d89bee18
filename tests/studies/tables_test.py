"""Means, deviations and differences by hand, and how they are written down."""

import math

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from eln_jax.studies import plots, tables
from eln_jax.studies.results import Spread, final_mean_iou, gated_arms, over_seeds, paired

MINUS, PLUS_MINUS = "\N{MINUS SIGN}", "\N{PLUS-MINUS SIGN}"


def seed(student, teacher=None, **figures):
    found = {"student/mean_iou": student} | figures
    if teacher is not None:
        found["teacher/mean_iou"] = teacher
    last = student if teacher is None else teacher
    return {"figures": found, "best": 0.7, "seconds": 1.0, "curve": [[1, 0.1], [3, 0.2], [7, last]]}


def arm(seeds, gate="none"):
    return {
        "overrides": {},
        "gate": gate,
        "steps": {"supervised": 3, "eln": 0, "semi_supervised": 4},
        "labeled": 5,
        "unlabeled": 6,
        "val": 7,
        "seeds": seeds,
    }


def detectors(**aurocs):
    return {
        "step": 9,
        "error_rate": 0.2,
        "fitted_to": {"images": 5, "pixels": 50},
        "figures": {f"{name}/auroc": value for name, value in aurocs.items()},
        "risk_coverage": {"coverage": [0.5, 1.0]} | {name: [0.1, 0.2] for name in aurocs},
    }


KEPT = {"pseudo_label/kept": 0.5, "pseudo_label/kept/sky": 0.25, "pseudo_label/kept/car": None}
FOUND = {
    "reference": "none",
    "seeds": [0, 1],
    "class_names": ["sky", "car"],
    "arms": {
        "none": arm({"0": seed(0.50, 0.52), "1": seed(0.60, 0.58)}),
        "eln": arm({"0": seed(0.5, 0.55, **KEPT), "1": seed(0.6, 0.61, **KEPT)}, "eln"),
        "alone": arm({"1": seed(0.57)}),
        "oracle": arm({"0": seed(0.5, 0.60), "1": seed(0.5, 0.50)}, "oracle"),
    },
    "detectors": {
        "eln": {
            "0": detectors(max_prob=0.80, logistic=0.9, eln=0.86),
            "1": detectors(max_prob=0.82, logistic=0.9, eln=0.88),
        }
    },
}


def test_the_spread_is_the_samples():
    spread = Spread([0.1, 0.2, 0.6])
    assert spread.mean == pytest.approx(0.3)
    assert spread.deviation == pytest.approx(math.sqrt((0.04 + 0.01 + 0.09) / 2))
    assert spread.is_noise
    assert not Spread([0.1, 0.11, 0.12]).is_noise
    assert math.isnan(Spread([]).mean)
    assert math.isnan(Spread([0.3]).deviation)
    assert Spread([0.3]).is_noise  # one seed tells nothing


def test_differences_are_taken_seed_by_seed():
    arms = FOUND["arms"]
    difference = paired(arms["eln"]["seeds"], arms["none"]["seeds"], final_mean_iou)
    assert difference.values == pytest.approx([0.03, 0.03])
    alone = paired(arms["alone"]["seeds"], arms["none"]["seeds"], final_mean_iou)
    assert alone.values == pytest.approx([-0.01])
    assert over_seeds(arms["none"]["seeds"], final_mean_iou).values == [0.52, 0.58]


def rows(text, name):
    """The cells after the name of each row that begins with it."""
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    return [row[1:] for row in cells if row[:1] == [name]]


def test_the_tables_say_what_was_found(tmp_path):
    drawn = plots.draw(FOUND, tmp_path)
    names = ["mean_iou_by_arm.png", "risk_coverage.png", "pseudo_labels.png"]
    assert [path.name for path in drawn] == names
    for path in drawn:
        with Image.open(path) as picture:
            assert picture.width > 800
    text = tables.write(FOUND, tmp_path, "python -m eln_jax.study --x", drawn).read_text()
    assert "`python -m eln_jax.study --x`" in text
    assert rows(text, "alone") == [["5", "3 + 4", "57.0", "-", "70.0", f"{MINUS}1.0", "1"]]
    iou = [f"55.0 {PLUS_MINUS} 7.1", f"55.0 {PLUS_MINUS} 4.2"]
    assert rows(text, "none")[0][2:4] == iou
    oracle = rows(text, "oracle (reads the truth)")[0]
    assert oracle[5] == f"+0.0 {PLUS_MINUS} 11.3 (no difference seen)"
    assert "The oracle reads the masks of the unlabelled images" in text
    of_eln = rows(text, "eln")
    assert of_eln[0][5] == f"+3.0 {PLUS_MINUS} 0.0"
    assert of_eln[1] == [f"50.0 {PLUS_MINUS} 0.0", f"25.0 {PLUS_MINUS} 0.0", "-"]
    figures, differences = rows(text, "ELN")
    assert figures[0] == f"87.0 {PLUS_MINUS} 1.4"
    # AUROC, AUPR and AUROC within class less the maximum probability's, then less the control's.
    assert differences[0] == f"+6.0 {PLUS_MINUS} 0.0"
    assert differences[3] == f"{MINUS}3.0 {PLUS_MINUS} 1.4"
    assert differences[1] == differences[5] == "-"
    assert rows(text, "logistic control")[1][3:] == ["", "", ""]
    for name in names:
        assert f"]({name})" in text


def test_an_arm_that_learns_from_no_pseudo_labels_is_not_said_to_keep_some():
    averaged = arm({"0": seed(0.5, 0.5, **KEPT)})
    averaged["overrides"] = {"method.pseudo_label_weight": "0.0"}
    assert set(gated_arms({"arms": FOUND["arms"] | {"averaged": averaged}})) == {"eln"}


def test_arms_are_drawn_from_where_they_part_and_with_what_they_gain(tmp_path, monkeypatch):
    drawn = []
    plot = Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda *a, **k: drawn.append((a, k)) or plot(*a, **k))
    plots.draw(FOUND | {"detectors": {}}, tmp_path)
    means = {k["label"]: a[1:3] for a, k in drawn if k.get("markersize") == 3.5}
    assert means["eln"][0] == [3, 7]
    assert means["eln"][1] == pytest.approx([20, 58])
    gains = [a[2] for a, k in drawn if k.get("alpha") == 0.6]
    expected = [[3, 3], [-1], [8, -8]]  # eln, alone, oracle less none
    assert [pytest.approx(values) for values in expected] == gains


def test_the_legend_of_many_long_names_is_on_the_picture_and_tells_all_apart(tmp_path, monkeypatch):
    legends = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda *a, **k: legends.append(a[0]) or save(*a, **k))
    arms = {f"an_arm_with_a_name_as_long_as_this_{i}": FOUND["arms"]["eln"] for i in range(14)}
    plots.draw(FOUND | {"arms": arms, "detectors": {}, "reference": next(iter(arms))}, tmp_path)
    assert len(legends) == 2
    for picture in legends:
        (legend,) = picture.legends
        assert legend.get_window_extent().x1 <= picture.bbox.x1
        looks = [
            (line.get_color(), line.get_linestyle(), line.get_marker())
            for line in legend.get_lines()
        ]
        assert len(set(looks)) == len(arms)


def test_every_detector_is_drawn_and_those_without_an_eln_once(tmp_path, monkeypatch):
    drawn = []
    plot = Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda *a, **k: drawn.append(k["label"]) or plot(*a, **k))
    seeds = FOUND["detectors"]["eln"]
    plots.draw(FOUND | {"arms": {}, "detectors": {"eln": seeds, "other": seeds}}, tmp_path)
    assert drawn == ["maximum probability", "logistic control", "ELN, eln", "ELN, other"]


def test_scores_of_another_network_are_drawn_beside_its_eln(tmp_path, monkeypatch):
    drawn = []
    plot = Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda *a, **k: drawn.append(k["label"]) or plot(*a, **k))
    seeds = FOUND["detectors"]["eln"]
    other = {"1": detectors(max_prob=0.7, eln=0.8)}
    other["1"]["risk_coverage"]["max_prob"] = [0.2, 0.3]
    plots.draw(FOUND | {"arms": {}, "detectors": {"eln": seeds, "other": other}}, tmp_path)
    assert drawn[3:] == ["maximum probability, other (seed 1)", "ELN, other (seed 1)"]


def test_a_study_without_a_finished_arm_says_so(tmp_path):
    empty = FOUND | {"arms": {}, "detectors": {}}
    assert plots.draw(empty, tmp_path) == []
    path = tables.write(empty, tmp_path, "x", [])
    assert "No arm is finished yet" in path.read_text()


def test_curves_of_fewer_seeds_say_which():
    arms = {"all": {"seeds": {"0": {}, "10": {}, "2": {}}}, "one": {"seeds": {"2": {}}}}
    arms["two"] = {"seeds": {"10": {}, "2": {}}}
    named = {"all": "all", "one": "one (seed 2)", "two": "two (seeds 2, 10)"}
    assert plots.arm_labels(arms) == named
