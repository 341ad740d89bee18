"""The door of the data doctor: exit codes, what it prints and what it writes."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from eln_jax import check_data, command_line
from eln_jax.data.doctor import examine
from eln_jax.data.doctor.report import print_faults
from eln_jax.defaults import default_config
from eln_jax.training.checkup import open_all
from tests.data.doctor.spoiled import World, stray_id

ROOT = Path(__file__).parent.parent


@pytest.fixture
def folder(tmp_path):
    """Four labelled images and two to validate, larger than the crop, with all classes in each."""
    root = tmp_path / "data"
    rng = np.random.default_rng(0)
    for split, names in {"train": "abcd", "val": "ef"}.items():
        for name in names:
            for kind, shape in (("images", (40, 48, 3)), ("masks", (40, 48))):
                path = root / kind / split / f"{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                values = rng.integers(0, 255 if kind == "images" else 2, shape, np.uint8)
                Image.fromarray(values).save(path)
    return root


def arguments(folder, **fields):
    fields = {"data.root": folder, "crop_size": "(32, 32)", "data.num_classes": 2, **fields}
    return [
        f"--config={ROOT / 'configs' / 'folder.py'}",
        f"--output={folder.parent / 'report' / 'new'}",
        *(f"--config.{name}={value}" for name, value in fields.items()),
    ]


def leave(monkeypatch, argv):
    """The code with which the command exits."""
    monkeypatch.setattr(sys, "argv", ["check_data", *argv])
    with pytest.raises(SystemExit) as ending:
        command_line.run(check_data.main)
    return ending.value.code


def test_clean_data_end_with_zero_and_the_place_of_the_report(folder, capsys):
    assert check_data.main(arguments(folder)) == 0
    out = capsys.readouterr().out
    report = folder.parent / "report" / "new"
    assert out.splitlines()[-1].endswith(
        f"0 errors, 0 warnings. Report: {report / 'data_report.html'} and "
        f"{report / 'data_report.json'}"
    )
    assert "labelled" in out
    found = json.loads((report / "data_report.json").read_text())
    assert set(found) == {"counts", "sizes", "classes", "faults"}
    assert found["faults"] == []
    assert found["counts"]["labeled"] == 4
    page = (report / "data_report.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == 6
    assert "width=device-width" in page
    for remote in ("http:", "https:", "<script", "<link"):
        assert remote not in page


def test_classes_that_are_left_open_are_found_and_told(folder, capsys):
    assert check_data.main(arguments(folder, **{"data.num_classes": 0})) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "2 classes, found in 6 masks: class 0, class 1."
    assert lines[1].startswith("Reading: 6 images in ")


def test_a_stray_id_that_makes_many_classes_is_told(tmp_path, capsys):
    world = World(tmp_path / "data")
    stray_id(world, "x")
    fields = {"data.num_classes": 0, "data.partition": world.data().partition}
    assert check_data.main(arguments(world.root, **fields)) == 0
    out = capsys.readouterr().out
    told = (
        "warning: unused ids: masks/val/x.png (the id 9 makes 10 classes, of which 3 to 8 occur in "
        "no mask): repaint the mask"
    )
    assert out.count(told) == 1
    rows = json.loads((tmp_path / "report/new/data_report.json").read_text())["faults"]
    found = {(row["file"], row["fault"]) for row in rows}
    assert {pair for pair in found if pair[1] != "smaller than the crop"} == world.expected


def test_warnings_alone_end_with_zero(folder):
    assert check_data.main(arguments(folder, crop_size="(48, 48)")) == 0
    found = json.loads((folder.parent / "report/new/data_report.json").read_text())
    assert {row["fault"] for row in found["faults"]} == {"smaller than the crop"}
    # A warped image is scaled to the crop, however small it is.
    fields = {"crop_size": "(48, 48)", "data.geometry": "warp"}
    assert check_data.main(arguments(folder, **fields)) == 0
    assert not json.loads((folder.parent / "report/new/data_report.json").read_text())["faults"]


def test_errors_end_with_one_and_are_on_the_screen_and_in_the_page(folder, monkeypatch, capsys):
    (folder / "images/train/b.png").write_bytes(b"")
    (folder / "images/train/a.jpg").write_bytes(b"")
    assert leave(monkeypatch, arguments(folder)) == 1
    out = capsys.readouterr().out
    # The first file of a doubled name is taken for the image, and this one is empty as well.
    assert "error: corrupt image, 2 times, such as images/train/a.jpg (not a picture): " in out
    assert "error: duplicate name: images/train/a.png (" in out
    page = (folder.parent / "report/new/data_report.html").read_text(encoding="utf-8")
    for name in ("a.jpg", "a.png", "b.png"):
        assert str(folder / "images/train" / name) in page


def test_wrong_use_ends_with_two_and_a_sentence(folder, monkeypatch, capsys):
    assert leave(monkeypatch, arguments(folder / "nowhere")) == 2
    assert capsys.readouterr().err.startswith("eln_jax: there is no folder")
    assert not (folder / "report").exists()
    done = subprocess.run(
        [sys.executable, "-m", "eln_jax.check_data"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "--config" in done.stderr


def test_scenes_without_files_are_checked_too(tmp_path):
    config = f"--config={ROOT / 'configs' / 'quickstart.py'}"
    sizes = [f"--config.data.synthetic.{name}_size=3" for name in ("train", "val")]
    count = "--config.data.labeled_count=2"
    assert check_data.main([config, f"--output={tmp_path}", *sizes, count]) == 0
    counts = json.loads((tmp_path / "data_report.json").read_text())["counts"]
    assert (counts["labeled"], counts["unlabeled"], counts["val"]) == (2, 1, 3)


def test_help_says_what_exit_codes_mean(capsys):
    with pytest.raises(SystemExit):
        check_data.main(["--help"])
    out = capsys.readouterr().out
    for words in ("exit codes:", "0  no errors", "1  errors", "2  a mistake", "configs/voc.py"):
        assert words in out


def test_a_terminal_gets_a_table(folder):
    (folder / "images/train/b.png").write_bytes(b"")
    data = default_config().data
    data.root, data.num_classes = str(folder), 2
    train, val, partition, found = open_all(data)
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100, highlight=False)
    report = examine(train, val, partition, found=found)
    print_faults(report, console, str(folder))
    text = screen.getvalue()
    assert "images/train/b.png" in text
    assert "what to do" in text


def test_a_full_disk_is_told_with_the_folder_and_what_to_do(folder, monkeypatch, capsys, full):
    output = folder.parent / "report" / "new"
    output.mkdir(parents=True)
    (output / "data_report.html").symlink_to(full)
    assert leave(monkeypatch, arguments(folder)) == 3
    told = capsys.readouterr().err
    assert f"{output} cannot be written (No space left on device); make room" in told
