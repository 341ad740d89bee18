"""Runs beside which the labelled images alone are trained on."""

import json

import pytest

from eln_jax import configuration
from eln_jax.training import comparison
from tests.tiny import tiny_config


def train(workdir):
    # Evaluated as the official code does, which no other test does from end to end.
    config = tiny_config(compare_supervised="true", eval__protocol="warp", eval__every="9")
    return comparison.train_all(config, configuration.to_json(config), workdir)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("compared")
    assert train(workdir) == 0
    return workdir


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def test_the_supervised_run_has_as_many_steps_of_one_kind(compared):
    alone = compared / "supervised_only"
    steps = json.loads((alone / "config.json").read_text())["steps"]
    assert steps == {"supervised": 9, "eln": 0, "semi_supervised": 0}
    assert set(summary(alone)["phases"]) == {"supervised"}
    assert summary(alone)["last"]["step"] == summary(compared)["last"]["step"] == 9
    assert "teacher/mean_iou" not in summary(alone)["last"]


def test_warped_evaluation_gives_figures(compared):
    last = summary(compared)["last"]
    for name in ("student/mean_iou", "teacher/mean_iou", "eln/auroc", "pseudo_label/kept"):
        assert 0 <= last[name] <= 1


def test_started_again_it_shows_the_results_without_training(compared, capsys):
    logs = [compared / "metrics.jsonl", compared / "supervised_only" / "metrics.jsonl"]
    before = [path.read_text() for path in logs]
    capsys.readouterr()
    assert train(compared) == 0
    assert [path.read_text() for path in logs] == before
    shown = capsys.readouterr().out
    for words in ("supervised only", "semi-supervised", "AUROC", "summary.json", "panels"):
        assert words in shown
    for run in (compared, compared / "supervised_only"):
        assert f"{100 * summary(run)['last']['student/mean_iou']:.1f}" in shown
