"""The doors as a user opens them: exit codes and one clear sentence for each mistake."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eln_jax import (
    benchmark,
    check_data,
    command_line,
    convert,
    evaluate,
    export,
    main,
    predict,
    review_labels,
    study,
)
from eln_jax.data import prepare
from eln_jax.errors import UserError
from tests.tiny import QUICKSTART, tiny_overrides

ROOT = Path(__file__).parent.parent
CONFIGS = ROOT / "configs"


def command(name, *arguments, **kwargs):
    """Starts `python -m eln_jax.NAME` as a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    return subprocess.Popen(
        [sys.executable, "-m", f"eln_jax.{name}", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **kwargs,
    )


def refusal(name, *arguments):
    """The sentence with which a command refuses; checks that it is one, and the exit code."""
    process = command(name, *arguments)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2, errors
    lines = errors.strip().splitlines()
    assert len(lines) == 1, errors
    assert lines[0].startswith("eln_jax: ")
    return lines[0]


def overrides(pairs):
    return [f"--config.{name}={value}" for name, value in pairs]


@pytest.fixture
def folder(tmp_path):
    """A folder data set with four training images, two of them labelled, and one to validate."""
    rng = np.random.default_rng(0)
    for split, names in {"train": "abcd", "val": "e"}.items():
        for name in names:
            image = tmp_path / "images" / split / f"{name}.png"
            image.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (40, 48, 3), np.uint8)).save(image)
            if name in "abe":
                mask = tmp_path / "masks" / split / f"{name}.png"
                mask.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 3, (40, 48), np.uint8)).save(mask)
    return tmp_path


def train_folder(folder, *arguments):
    fields = dict(tiny_overrides()) | {
        "data.source": "folder",
        "data.root": str(folder),
        "data.num_classes": "3",
        "data.labeled_count": "2",
    }
    return refusal(
        "main",
        f"--config={QUICKSTART}",
        f"--workdir={folder / 'run'}",
        *overrides(fields.items()),
        *arguments,
    )


@pytest.mark.parametrize("name", ["main", "convert", "benchmark", "study"])
def test_help_teaches_and_is_quick_to_import(name):
    process = command(name, "--help")
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert not errors
    assert "example" in output
    probe = f"import sys, eln_jax.{name}; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", probe], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--workdir=w"], "--config"),
        ([f"--config={QUICKSTART}"], "--workdir"),
        ([f"--config={QUICKSTART}", "--workdir=w", "--confg.seed=1"], "--confg.seed=1"),
        (["--config=configs/quikstart.py", "--workdir=w"], "Did you mean"),
        (
            [f"--config={QUICKSTART}", "--workdir=w", "--config.sed=1"],
            "There is no field sed. Did you mean seed?",
        ),
        ([f"--config={QUICKSTART}", "--workdir=w", "--config.seed=one"], "whole number"),
        (
            [f"--config={CONFIGS / 'folder.py'}", "--workdir=w", "--config.data.root=nowhere"],
            "nowhere",
        ),
    ],
)
def test_a_mistaken_command_line_is_refused(arguments, words):
    assert words in refusal("main", *arguments)
    assert not Path("w").exists()


@pytest.mark.parametrize(
    ("door", "flags"),
    [
        (main, ["--config", "--workdir"]),
        (study, ["--config", "--output"]),
        (benchmark, ["--config", "--json", "--profile"]),
        (check_data, ["--config", "--output"]),
        (evaluate, ["--model", "--output"]),
        (predict, ["--model", "--input", "--output"]),
        (review_labels, ["--model", "--output"]),
        (export, ["--model", "--output"]),
        (convert, ["--input", "--output", "--classes"]),
        (prepare, ["--source", "--data_dir"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_an_empty_path_is_not_the_current_folder(door, flags):
    for flag in flags:
        with pytest.raises(UserError, match=f"{flag}: it is empty"):
            door.main([f"{flag}="])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("afile", "afile:? (is no folder|exists already)"),
        ("afile/below", "lies below .*afile, which is no folder"),
        ("closed/below", "cannot be made"),
    ],
)
@pytest.mark.parametrize(
    ("door", "arguments"),
    [
        (main, [f"--config={CONFIGS / 'folder.py'}", "--config.data.root=x", "--workdir"]),
        (study, [f"--config={CONFIGS / 'study_synthetic.py'}", "--output"]),
        (check_data, ["--config=nowhere", "--output"]),
        (predict, ["--model=nowhere", "--input=nowhere", "--output"]),
        (review_labels, ["--model=nowhere", "--output"]),
        (export, ["--model=nowhere", "--output"]),
        (convert, ["--input=nowhere", "--output"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_place_that_cannot_be_written_to_is_told_first(
    door, arguments, name, words, tmp_path, monkeypatch
):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    (tmp_path / "afile").touch()
    if name.startswith("closed"):  # to root no folder is
        monkeypatch.setattr("tempfile.mkdtemp", refuse)
    with pytest.raises(UserError, match=words):
        door.main([*arguments, str(tmp_path / name)])
    assert [path.name for path in tmp_path.iterdir()] == ["afile"]


def test_a_folder_without_images(folder):
    for image in (folder / "images" / "train").iterdir():
        image.unlink()
    assert "no images" in train_folder(folder)


def test_a_mask_of_another_size(folder):
    mask = folder / "masks" / "train" / "a.png"
    Image.fromarray(np.zeros((10, 10), np.uint8)).save(mask)
    sentence = train_folder(folder)
    assert "a.png" in sentence
    assert "10" in sentence


def test_a_label_out_of_range(folder):
    mask = folder / "masks" / "train" / "b.png"
    Image.fromarray(np.full((40, 48), 7, np.uint8)).save(mask)
    sentence = train_folder(folder)
    assert "b.png" in sentence
    assert "7" in sentence


def test_a_corrupt_image(folder):
    (folder / "images" / "train" / "a.png").write_bytes(b"not a picture")
    assert "a.png" in train_folder(folder, "--config.data.max_unreadable=0")


def test_more_labelled_images_than_masks(folder):
    assert "2 training image" in train_folder(folder, "--config.data.labeled_count=3")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_no_mistake_of_the_command(number, capsys):
    def door(_):
        raise OSError(number, os.strerror(number))

    with pytest.raises(SystemExit) as ending:
        command_line.run(door)
    assert ending.value.code == 3
    assert "make room, and give the same command again" in capsys.readouterr().err
