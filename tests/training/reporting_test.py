"""Which sections a folder's files give, from whole runs to those of older versions."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from eln_jax import configuration
from eln_jax.training import reporting
from tests.evaluation.samples import NAMES, PALETTE, collected
from tests.tiny import tiny_config

ROWS = [
    {"step": step, "phase": phase, "split": "train", "supervised_loss": 1.0 / step}
    for step, phase in ((3, "supervised"), (6, "eln"), (9, "semi_supervised"))
] + [{"step": 9, "phase": "semi_supervised", "split": "val", "student/mean_iou": 0.5}]
WITH_FINDINGS = ("Confusion", "Finding wrong pixels", "Images")


def lay_run(workdir, *, mean_iou=0.5, wrong_pixels=2, **changes):
    """Lays out a finished run's files, without training."""
    workdir.mkdir(exist_ok=True)
    last = {"step": 9, "student/mean_iou": mean_iou, "student/iou/ground": mean_iou}
    summary = {"last": last, "class_names": NAMES, "labeled": 4, "unlabeled": 8, "val": 2}
    summary |= {"seconds": 61.0, "peak_memory_bytes": 2e9, "devices": ["abacus"], "jax": "0"}
    (workdir / "summary.json").write_text(json.dumps(summary | changes))
    (workdir / "metrics.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    collected(workdir / "last_evaluation", wrong_pixels, network="student")


def report(workdir, **fields):
    config = tiny_config(**fields)
    path = reporting.write_run_report(workdir, config, configuration.to_json(config))
    assert sorted(workdir.glob("report*")) == [path]  # nothing is left over
    return path.read_text()


def sections(html):
    return re.findall("<h2>(.*?)</h2>", html)


def test_a_compared_run_has_all_sections(tmp_path):
    lay_run(tmp_path, mean_iou=0.625)
    lay_run(tmp_path / "supervised_only", mean_iou=0.5, wrong_pixels=6)
    html = report(tmp_path, compare_supervised="true")
    assert sections(html) == [
        "Training",
        "IoU of each class, %",
        "Confusion matrix of the student",
        "Finding wrong pixels",
        "Images",
        "Time, device, versions",
        "Configuration",
    ]
    assert "+12.5 points against supervised only" in html
    assert "Most improved" in html
    assert "1\N{NO-BREAK SPACE}min\N{NO-BREAK SPACE}01\N{NO-BREAK SPACE}s" in html
    # Against the defaults, not against the quickstart.
    assert "<td>crop_<wbr>size</td><td>[32, 32]</td><td>[512, 512]</td>" in html


def test_without_comparison_its_words_are_absent(tmp_path):
    lay_run(tmp_path)
    html = report(tmp_path)
    for words in ("supervised only", "Most improved", "points"):
        assert words not in html


def test_a_run_of_before_findings_were_kept_has_a_report_without_them(tmp_path):
    lay_run(tmp_path)
    for file in (tmp_path / "last_evaluation").iterdir():
        file.unlink()
    shown = sections(report(tmp_path))
    assert "Training" in shown
    assert not any(heading.startswith(WITH_FINDINGS) for heading in shown)


def test_findings_of_another_run_in_the_same_folder_are_not_shown(tmp_path):
    lay_run(tmp_path, last={"step": 12, "student/mean_iou": 0.5})
    assert not any(heading.startswith(WITH_FINDINGS) for heading in sections(report(tmp_path)))


def test_a_comparison_without_kept_findings_still_has_its_figures(tmp_path):
    lay_run(tmp_path)
    lay_run(tmp_path / "supervised_only", mean_iou=0.25)
    (tmp_path / "supervised_only" / "last_evaluation" / "thumbnails.zip").unlink()
    html = report(tmp_path, compare_supervised="true")
    assert "+25.0 points against supervised only" in html
    assert "Images" in sections(html)
    assert "Most improved" not in html


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (lambda d: (d / "summary.json").write_text("{"), "JSONDecodeError"),
        (lambda d: (d / "metrics.jsonl").write_text("no row\n{}\n"), "UserError"),
        (lambda d: (d / "last_evaluation/thumbnails.zip").write_bytes(b"PK"), "BadZipFile"),
        (lambda d: (d / "last_evaluation/metrics.json").write_text(""), "JSONDecodeError"),
        (lambda d: (d / "report.tmp").symlink_to("/dev/full"), "No space left on device"),
    ],
)
def test_why_there_is_no_report_is_told_in_a_sentence(tmp_path, spoil, kind):
    if kind.startswith("No space") and not Path("/dev/full").exists():
        pytest.skip("no device that is always full")
    lay_run(tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    spoil(tmp_path)
    told = reporting.report_or_reason(lambda: Path(report(tmp_path)))
    assert told.startswith("not written (")
    assert kind in told
    assert "\n" not in told
    assert not (tmp_path / "report.html").exists()
    assert sum(p.read_bytes() == before[p] for p in before) >= len(before) - 1


def evaluated(output, folder):
    names = SimpleNamespace(class_names=NAMES, palette=PALETTE, description="a model")
    config_json = configuration.to_json(tiny_config())
    path = reporting.write_evaluation_report(output, folder, names, 2.0, config_json)
    return path.read_text()


def test_an_evaluation_is_compared_with_what_was_judged_alike_only(tmp_path):
    run, output = tmp_path / "run", tmp_path / "output"
    lay_run(run)
    lay_run(run / "supervised_only", wrong_pixels=6)
    collected(output, 2)
    html = evaluated(output, run)
    assert "a model; 2 images (val) at original size<" in html
    assert "Most improved" in html
    views = {"scales": [0.5, 1.0], "flip": True, "window": [64, 96], "protocol": "warp"}
    collected(output, 2, views=views)
    html = evaluated(output, run)
    words = (
        "warped to the crop size, at scales 0.5, 1, with the mirror image, in windows of 64 x 96"
    )
    assert words in html
    assert "supervised only" not in html


def test_a_model_that_was_not_trained_here_has_no_curves(tmp_path):
    collected(tmp_path / "output", 2)
    shown = sections(evaluated(tmp_path / "output", tmp_path))
    assert "Training" not in shown
    assert "Confusion matrix of the teacher" in shown


def test_an_interrupted_run_shows_the_phases_it_had(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(json.dumps(ROWS[0]) + '\n{"step": 4, "pha')
    collected(tmp_path / "output", 2, network="student", step=3)
    html = evaluated(tmp_path / "output", tmp_path)
    (training,) = re.findall("<h2>Training</h2>(.*?)<h2>", html, re.DOTALL)
    assert "supervised" in training
    assert "semi-supervised" not in training
    assert training.count("<svg") == 1
