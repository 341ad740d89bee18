import io
import json
import pickle
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("tensorflow_datasets")

from eln_jax.data.builders import record_builder, shards
from eln_jax.data.folder import open_folder
from eln_jax.data.labels import make_code
from eln_jax.data.partitions import make_partition, shared_images
from eln_jax.data.pipeline import fingerprint, train_stream
from eln_jax.data.records import open_records
from eln_jax.data.transforms import Augmentation
from eln_jax.errors import UnreadableFileError, UserError
from tests.data.layouts import ids, picture, save

SETTINGS = {
    "batch_size": 2,
    "crop_size": (24, 20),
    "augmentation": Augmentation(),
    "seed": 5,
    "with_labels": True,
}


def open_files(folder, ignore_label=255):
    code = make_code(3, ignore_label, void_labels=(7,))
    return open_folder(folder, code, class_names=("sky", "road", "tree"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five images of several kinds, one turned by its EXIF mark, one without a mask."""
    folder = tmp_path_factory.mktemp("files")
    for number, name in enumerate(("b.png", "a.jpg", "town/c.png", "d.webp")):
        save(folder / "images" / name, picture(number))
        save(folder / "masks" / f"{name.split('.')[0]}.png", ids(number, [0, 1, 2, 7, 255]))
    exif = Image.Exif()
    exif[0x0112] = 6
    save(folder / "images/turned.jpg", picture(5), exif=exif)
    save(folder / "masks/turned.png", ids(5, [0, 1, 2], (40, 30)))  # as the upright image lies
    (folder / "masks/d.png").unlink()
    return folder


@pytest.fixture(scope="module")
def built(folder, tmp_path_factory):
    sources = {"train": open_files(folder), "twin": open_files(folder)}
    # A shard an image, or nearly: their order counts.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "_SHARD_BYTES", 1500)
        place = record_builder.build("mine", sources, tmp_path_factory.mktemp("data"), "somewhere")
    assert len(list(place.glob("*train.array_record*"))) > 2
    return place


def test_splits_that_share_a_picture_say_so(built):
    train, twin = (open_records(built, split) for split in ("train", "twin"))
    partition = make_partition(train, [0, 1], unlabeled=[3])._replace(val=(1, 4))
    assert shared_images(train, twin, partition) == [1]


def test_records_give_what_the_files_give(folder, built):
    files, records = open_files(folder), open_records(built, "train")
    assert records.ids == files.ids == ["a", "b", "d", "town/c", "turned"]
    assert len(records) == 5
    assert (records.num_classes, records.ignore_label) == (3, 255)
    assert records.class_names == files.class_names
    for index in range(5):
        np.testing.assert_array_equal(records.read_image(index), files.read_image(index))
        assert records.has_label(index) == files.has_label(index) == (index != 2)
        if index != 2:
            np.testing.assert_array_equal(records.read_label(index), files.read_label(index))
    assert records.read_label(4).shape == (40, 30)  # upright
    with pytest.raises(UserError, match=r"'d' of .*1\.0\.0 \(train\) has no label"):
        records.read_label(2)


def test_the_bytes_of_an_image_are_those_of_its_file(folder, built):
    record = open_records(built, "train")._read(4)
    assert record["image"] == (folder / "images/turned.jpg").read_bytes()
    with Image.open(io.BytesIO(record["label"])) as label:
        assert (label.format, label.mode) == ("PNG", "L")


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same(folder, built, workers):
    kept = [0, 1, 3, 4]
    batches = []
    for source, count in ((open_files(folder), 0), (open_records(built, "train"), workers)):
        stream = iter(train_stream(source, kept, **SETTINGS, num_workers=count))
        batches.append([next(stream) for _ in range(3)])
        stream.close()
    for first, second in zip(*batches, strict=True):
        assert first.keys() == second.keys()
        for name in first:
            np.testing.assert_array_equal(first[name], second[name])


def test_any_reader_of_tfds_finds_pairs_of_one_size(built):
    import tensorflow_datasets as tfds

    examples = tfds.builder_from_directory(built).as_data_source("train")
    sizes = [(e["image"].shape[:2], e["label"].shape) for e in examples]
    assert sizes[2] == ((30, 40), (30, 40, 1))
    assert [bool(example["has_label"]) for example in examples] == [True, True, False, True, True]
    assert (examples[2]["label"] == 255).all()  # type: ignore[index]


def test_void_may_have_another_value(folder, built):
    label = open_files(folder).read_label(0)
    assert (label == 255).any()
    other = open_records(built, "train", ignore_label=3).read_label(0)
    np.testing.assert_array_equal(other, np.where(label == 255, 3, label))
    with pytest.raises(UserError, match="ignore_label is 2"):
        open_records(built, "train", ignore_label=2)


def test_a_pickled_source_opens_its_files_again(built):
    source = open_records(built, "twin")
    image = source.read_image(1)
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy.read_image(1), image)


def test_the_fingerprint_knows_the_data_set_and_not_its_place(built, tmp_path):
    moved = tmp_path / "elsewhere"
    moved.symlink_to(built)
    first, second = (
        fingerprint(open_records(place, "train"), [0, 1], **SETTINGS) for place in (built, moved)
    )
    assert first == second == json.loads(json.dumps(first))
    other = fingerprint(open_records(built, "twin"), [0, 1], **SETTINGS)
    assert other != first


def test_what_is_no_data_set_of_records_says_so(built, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"is no data set of records \(metadata\.json.*data\.root"):
        open_records(built.parent, "train")
    with pytest.raises(UserError, match=r"no split 'twim' \(it has train, twin\)\. Did you"):
        open_records(built, "twim")
    (tmp_path / "metadata.json").write_text('{"format": 99}')
    with pytest.raises(UserError, match=r"records of format 99.*reads format 1"):
        open_records(tmp_path, "train")
    with pytest.raises(UserError, match=r"of buckets only those of Google Cloud.*copy"):
        open_records("s3://bucket/voc/1.0.0", "train")
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UserError, match=r"gs://bucket.*cannot be reached.*pip install gcsfs"):
        open_records("gs://bucket/voc/1.0.0", "train")
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UserError, match=r"pip install tensorflow-datasets"):
        open_records(built, "train")


def test_an_incomplete_copy_is_refused(built, tmp_path):
    shutil.copytree(built, tmp_path / "copy")
    (tmp_path / "copy/mine-train.array_record-00001-of-00005").unlink()
    open_records(tmp_path / "copy", "twin")
    with pytest.raises(UserError, match=r"lacks 1 of the 5 files of the split 'train'.*00001-of"):
        open_records(tmp_path / "copy", "train")


def test_damaged_records_are_named_and_may_be_replaced(built, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in built.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    shards = sorted(copy.glob("*train.array_record*"))
    shards[0].write_bytes(b"")
    content = bytearray(shards[-1].read_bytes())
    content[len(content) // 2] ^= 255
    shards[-1].write_bytes(content)
    source = open_records(copy, "train")
    for index, key in ((0, "a"), (4, "turned")):
        with pytest.raises(UnreadableFileError, match=f"the record '{key}' of .*cannot be read"):
            source.read_image(index)
    source.read_image(1)
    (copy / "train.index.json").write_text(
        (copy / "train.index.json").read_text().replace("town/c", "town/x")
    )
    with pytest.raises(UnreadableFileError, match=r"'town/x' .*\(it is 'town/c'\)"):
        open_records(copy, "train").read_image(3)
