import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from eln_jax.training import summary
from eln_jax.training.bookkeeping import Bookkeeping
from eln_jax.training.logging import iou_table, print_table

# Student and, in the third phase, teacher at five evaluations; the best is neither last nor first.
SCORES = [
    {"step": 10, "phase": "supervised", "student/mean_iou": 0.2},
    {"step": 20, "phase": "supervised", "student/mean_iou": 0.9},
    {"step": 30, "phase": "eln", "student/mean_iou": 0.3, "eln/auroc": None},
    {"step": 40, "phase": "semi_supervised", "student/mean_iou": 0.1, "teacher/mean_iou": 0.95},
    {"step": 50, "phase": "semi_supervised", "student/mean_iou": 0.99, "teacher/mean_iou": 0.4},
]
ROW = {"step": 50, "phase": "semi_supervised", "split": "val", "teacher/mean_iou": 0.4}


def parts():
    """What a summary says about a run of 3 labelled, 5 unlabelled and 2 validation images."""
    return SimpleNamespace(
        data=SimpleNamespace(
            train=SimpleNamespace(class_names=("sky", "car")),
            partition=SimpleNamespace(labeled=(0, 4, 7), unlabeled=(1, 2, 3, 5, 6), val=(0, 1)),
        ),
        programs=SimpleNamespace(
            mesh=SimpleNamespace(devices=np.array([SimpleNamespace(device_kind="abacus")] * 2))
        ),
    )


def written(folder, scores):
    """Writes the summary of a run with these scores; returns the file and what was returned."""
    (folder / "metrics.jsonl").write_text(json.dumps(ROW) + "\n")
    returned = summary.write(Bookkeeping({}, {}, scores=scores, seconds=61.5), parts(), folder)
    return json.loads((folder / "summary.json").read_text()), returned


@pytest.fixture(scope="module")
def of_scores(tmp_path_factory):
    """A folder in which a summary has replaced another one, and what came of it."""
    folder = tmp_path_factory.mktemp("of_scores")
    (folder / "summary.json").write_text("of an earlier run")
    return folder, *written(folder, SCORES)


def test_it_holds_the_end_of_each_phase_the_last_and_the_best(of_scores):
    _, found, returned = of_scores
    assert found == returned
    steps = {name: row["step"] for name, row in found["phases"].items()}
    assert steps == {"supervised": 20, "eln": 30, "semi_supervised": 50}
    assert found["last"] == SCORES[4]
    assert found["best"] == SCORES[3]  # by the teacher, not by the student's 0.99 of step 50
    assert found["phases"]["eln"]["eln/auroc"] is None


def test_without_a_teacher_the_best_is_the_students(tmp_path, monkeypatch):
    monkeypatch.setattr(summary, "write_curves", lambda *_: None)  # they take their time
    found, _ = written(tmp_path, SCORES[:2])
    assert found["best"] == found["last"] == SCORES[1]
    assert set(found["phases"]) == {"supervised"}
    found, _ = written(tmp_path, [SCORES[1], SCORES[0] | {"step": 30}])
    assert (found["best"]["step"], found["last"]["step"]) == (20, 30)


def test_it_says_on_what_and_how_long_the_run_was(of_scores):
    _, found, _ = of_scores
    facts = {"labeled": 3, "unlabeled": 5, "val": 2, "seconds": 61.5, "class_names": ["sky", "car"]}
    assert {name: found[name] for name in facts} == facts
    assert found["devices"] == ["abacus", "abacus"]
    assert tuple(map(int, found["python"].split("."))) == sys.version_info[:3]


def test_started_again_after_its_end_a_run_keeps_what_its_training_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(summary, "write_curves", lambda *_: None)
    first, _ = written(tmp_path, SCORES)
    monkeypatch.setattr(summary, "peak_memory_bytes", lambda: 1)
    assert written(tmp_path, SCORES)[0] == first
    longer, _ = written(tmp_path, [*SCORES, SCORES[4] | {"step": 60}])
    assert longer["peak_memory_bytes"] == 1


def test_curves_lie_beside_it_and_nothing_is_left_over(of_scores):
    folder, *_ = of_scores
    files = sorted(path.name for path in folder.iterdir())
    assert files == ["curves.png", "metrics.jsonl", "summary.json"]
    with Image.open(folder / "curves.png") as picture:
        picture.verify()


@pytest.mark.parametrize(("network", "shown"), [("student", "62.5"), ("teacher", "25.0")])
def test_the_table_of_classes_shows_one_network_and_the_mean_of_what_is_defined(
    network, shown, tmp_path
):
    row = {"student/iou/sky": 1.0, "student/iou/car": 0.25, "student/iou/sea": None}
    row |= {"teacher/iou/sky": 0.5, "teacher/iou/car": 0.0, "teacher/iou/sea": None}
    names = ["sky", "car", "sea"]
    rows = cells(iou_table(names, {"run": summary.class_ious(row, network, names)}), tmp_path)
    assert ["mean", shown] in rows
    assert ["sea", "-"] in rows
    assert [line[0] for line in rows[-4:]] == ["sky", "car", "sea", "mean"]


def cells(table, tmp_path):
    """The cells of a printed table, line by line, without its rules."""
    lines = [line.split("|")[1:-1] for line in shown(table, tmp_path).splitlines()]
    return [[cell.strip() for cell in line] for line in lines if line]


def shown(table, tmp_path):
    with (tmp_path / "table.txt").open("w") as file:
        print_table(table, Console(file=file))
    return (tmp_path / "table.txt").read_text()


def test_classes_that_are_not_defined_are_nan():
    row = {"student/iou/sky": 0.5, "student/iou/car": None, "teacher/iou/sky": 0.25}
    found = summary.class_ious(row, "student", ["sky", "car"])
    np.testing.assert_array_equal(found, [0.5, np.nan])


def test_error_detection_and_time_stand_beside_the_network_that_was_judged(tmp_path):
    semi = {
        "last": {
            "student/mean_iou": 0.5,
            "teacher/mean_iou": 0.625,
            "eln/auroc": 0.75,
            "max_prob/auroc": 0.875,
        },
        "seconds": 61.0,
    }
    alone = {"last": {"student/mean_iou": 0.375, "max_prob/auroc": 0.8}, "seconds": 5.0}
    text = shown(summary.headline_table({"alone": alone, "semi": semi}), tmp_path)
    rows = [[cell.strip() for cell in line.split("|")] for line in text.splitlines()]
    rows = [row[1:7] for row in rows if len(row) > 6]
    assert ["alone", "student", "37.5", "", "80.0", "5 s"] in rows
    assert ["semi", "student", "50.0", "", "", ""] in rows
    assert ["semi", "teacher", "62.5", "75.0", "87.5", "1 min 01 s"] in rows
