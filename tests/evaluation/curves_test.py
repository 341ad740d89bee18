import numpy as np
import pytest
from PIL import Image

from eln_jax.errors import UserError
from eln_jax.evaluation import curves


def row(step, phase="supervised", split="train", **figures):
    return {"step": step, "phase": phase, "split": split, **figures}


def long_run():
    rng = np.random.default_rng(0)
    for step in range(10, 1000, 10):
        phase = "supervised" if step <= 200 else "eln" if step <= 400 else "semi_supervised"
        yield row(step, phase, supervised_loss=9 * np.exp(-step / 200), eln_loss=rng.random())
        if step % 50 == 0:
            figures = {"student/mean_iou": rng.random(), "eln/auroc": None, "max_prob/auroc": 0.8}
            yield row(step, phase, "val", **figures)


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [row(50, supervised_loss=1.0)],
        [row(50, split="val", **{"teacher/mean_iou": 0.5})],
        [row(50, supervised_loss=None), row(60, loss=3.0)],
        [row(0, supervised_loss=1.0)],
        list(long_run()),
    ],
    ids=["no row", "one train row", "one val row", "null and unknown", "step 0", "long run"],
)
def test_any_rows_give_a_picture(rows, tmp_path):
    curves.write_curves(tmp_path / "curves.png", rows)
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == (1380, 912)
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 10


def pixels_of(path, color):
    with Image.open(path) as picture:
        wanted = tuple(int(color[i : i + 2], 16) for i in (1, 3, 5))
        return (np.asarray(picture.convert("RGB")) == wanted).all(-1)


def test_each_phase_is_shaded_in_proportion(tmp_path):
    curves.write_curves(tmp_path / "curves.png", list(long_run()))
    areas = [pixels_of(tmp_path / "curves.png", c).sum() for c in curves.PHASE_SHADES.values()]
    assert areas[0] == pytest.approx(areas[1], rel=0.15)
    assert areas[2] == pytest.approx(areas[0] * 590 / 200, rel=0.15)


def test_a_line_is_drawn_in_its_plot_only(tmp_path):
    rows = [row(step, split="val", **{"teacher/mean_iou": step / 100}) for step in (10, 20, 30)]
    curves.write_curves(tmp_path / "curves.png", rows)
    found = np.argwhere(pixels_of(tmp_path / "curves.png", curves.ORANGE))
    assert len(found) > 200
    assert found[:, 0].max() < 912 / 2  # the upper row
    assert found[:, 1].min() > 1380 / 2 - 60  # the right column


def test_running_mean_keeps_a_straight_line_and_its_ends():
    line = np.linspace(0, 1, 600)
    smooth = curves.running_mean(line)
    np.testing.assert_allclose(smooth[20:-20], line[20:-20], atol=1e-12)
    assert abs(smooth[0] - line[0]) < 0.02


def test_metrics_are_read_up_to_an_unfinished_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "phase": "eln", "split": "train", "x": null}\n{"step": 2, "ph')
    assert curves.read_metrics(path) == [row(1, "eln", x=None)]


@pytest.mark.parametrize("bad", ["nonsense", "[1, 2]", "3", '{"step": 1}', ""])
def test_a_broken_line_in_between_is_refused(bad, tmp_path):
    path = tmp_path / "metrics.jsonl"
    good = '{"step": 1, "phase": "eln", "split": "train"}\n'
    path.write_text(f"{good}{bad}\n{good}")
    with pytest.raises(UserError, match=r"Line 2 of .*metrics.jsonl is not a row"):
        curves.read_metrics(path)
