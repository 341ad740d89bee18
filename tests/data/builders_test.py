import numpy as np
import pytest
from PIL import Image

from eln_jax.data.builders import DATASETS, camvid, cityscapes, voc
from eln_jax.errors import UserError

SHAPE = (6, 8)


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, np.uint8)).save(path)


def picture(seed):
    return np.random.default_rng(seed).integers(0, 256, (*SHAPE, 3))


def ids(*values):
    return np.resize(np.array(values), SHAPE)


@pytest.fixture
def devkit(tmp_path):
    folder = tmp_path / "VOCdevkit" / "VOC2012"
    for number, key in enumerate(("2007_1", "2007_2", "2008_3", "2008_4")):
        write(folder / f"JPEGImages/{key}.jpg", picture(number))
        write(folder / f"SegmentationClassAug/{key}.png", ids(number))
    write(folder / "SegmentationClass/2007_1.png", ids(0, 255))
    lists = folder / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_1\n")
    (lists / "val.txt").write_text("2008_4\n")
    return folder


@pytest.mark.parametrize("above", [0, 1, 2])
def test_voc_is_found_from_the_folder_and_from_those_above(devkit, above):
    root = [devkit, *devkit.parents][above]
    source = voc.open_split(root, "train")
    assert source.ids == ["2007_1"]
    assert source.num_classes == 21
    np.testing.assert_array_equal(source.read_label(0), ids(0, 255))  # not the augmented one


def test_vocs_augmented_set_is_all_masks_but_those_of_val_unless_listed(devkit):
    assert voc.open_split(devkit, "trainaug").ids == ["2007_1", "2007_2", "2008_3"]
    np.testing.assert_array_equal(voc.open_split(devkit, "trainaug").read_label(1), ids(1))
    # Some published lists name an image twice.
    lists = devkit / "ImageSets/Segmentation"
    (lists / "train_aug.txt").write_text("2008_3\n2007_1\n2008_3\n")
    assert voc.open_split(devkit, "trainaug").ids == ["2007_1", "2008_3"]
    # Others have a column for the masks as well, or a mark of their encoding before all.
    lists.joinpath("train_aug.txt").write_text(
        "/JPEGImages/2008_3.jpg /SegmentationClassAug/2008_3.png\n", "utf-8-sig"
    )
    assert voc.open_split(devkit, "trainaug").ids == ["2008_3"]


def test_vocs_missing_parts_are_named(devkit, tmp_path):
    with pytest.raises(UserError, match="is not VOC 2012"):
        voc.open_split(tmp_path / "nowhere", "train")
    with pytest.raises(UserError, match=r"no list test\.txt: .*train, val"):
        voc.open_split(devkit, "test")
    (devkit / "JPEGImages/2008_4.jpg").unlink()
    with pytest.raises(UserError, match=r"names '2008_4', but .*2008_4\.jpg is missing"):
        voc.open_split(devkit, "val")


def test_cityscapes_label_ids_become_train_ids(tmp_path):
    # The benchmark's table, from its public description: 7 road -> 0, 8 -> 1, 11 -> 2, ...
    stored = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    void = [0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30, 255]
    key = "aachen/aachen_000000_000019"
    write(tmp_path / f"leftImg8bit/train/{key}_leftImg8bit.png", np.zeros((1, 35, 3)))
    write(tmp_path / f"gtFine/train/{key}_gtFine_labelIds.png", [stored + void])
    write(tmp_path / f"gtFine/train/{key}_gtFine_instanceIds.png", [stored + void])
    source = cityscapes.open_split(tmp_path, "train")
    assert source.ids == [key]
    np.testing.assert_array_equal(source.read_label(0), [[*range(19), *[255] * len(void)]])
    assert source.class_names[0] == "road"
    with pytest.raises(UserError, match=r"is not Cityscapes: there is no .*val"):
        cityscapes.open_split(tmp_path, "val")


def test_camvid_is_read_in_both_layouts(tmp_path):
    write(tmp_path / "CamVid/train/0001TP_1.png", picture(0))
    write(tmp_path / "CamVid/trainannot/0001TP_1.png", ids(0, 10, 11))
    write(tmp_path / "own/images/train/0001TP_1.png", picture(0))
    write(tmp_path / "own/masks/train/0001TP_1.png", ids(0, 10, 11))
    segnet, own = (camvid.open_split(tmp_path / name, "train") for name in ("", "own"))
    assert segnet.ids == own.ids == ["0001TP_1"]
    np.testing.assert_array_equal(segnet.read_label(0), ids(0, 10, 255))
    np.testing.assert_array_equal(segnet.read_label(0), own.read_label(0))
    with pytest.raises(UserError, match="is not CamVid"):
        camvid.open_split(tmp_path / "own", "test")


def test_every_data_set_says_what_it_is():
    for name, module in DATASETS.items():
        assert name == module.NAME
        assert len(set(module.CLASS_NAMES)) == len(module.CLASS_NAMES) == {
            "voc": 21, "cityscapes": 19, "camvid": 11
        }[name]  # fmt: skip
        assert "val" in module.SPLITS
