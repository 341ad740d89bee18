import numpy as np
import pytest
from PIL import Image

from eln_jax.data.builders import camvid, cityscapes, voc
from eln_jax.data.doctor.listing import (
    find_classes_among,
    list_folder,
    list_voc,
    masks_without_image,
    read_entries,
)
from eln_jax.data.folder import open_folder
from eln_jax.data.labels import make_code
from eln_jax.errors import UserError

FOLDERS = {"images": "images", "masks": "masks", "split": ""}


def write(path, values=0, suffix_format=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.broadcast_to(np.asarray(values, np.uint8), (6, 8, *np.shape(values)))
    Image.fromarray(np.ascontiguousarray(array)).save(path, suffix_format)


def found(faults):
    return sorted((fault.fault, fault.file) for fault in faults)


def test_a_sound_folder_is_that_of_training(tmp_path):
    for name in ("a", "b/c"):
        write(tmp_path / f"images/{name}.png")
    write(tmp_path / "masks/b/c.png")
    source, faults = list_folder(tmp_path, make_code(3), **FOLDERS)
    strict = open_folder(tmp_path, make_code(3))
    assert (source.examples, source.describe()) == (strict.examples, strict.describe())
    assert faults == []


def test_all_doubled_names_and_all_jpeg_masks_are_told(tmp_path):
    for name in ("a.png", "a.jpg", "a.tif", "b.png", "c.png", "d.png"):
        write(tmp_path / "images" / name)
    for name in ("a.png", "a.bmp", "b.jpg", "c.JPEG", "d.jpg", "d.png"):
        write(tmp_path / "masks" / name)
    source, faults = list_folder(tmp_path, make_code(3), **FOLDERS)
    images, masks = tmp_path / "images", tmp_path / "masks"
    assert found(faults) == [
        ("duplicate name", str(images / "a.png")),
        ("duplicate name", str(images / "a.tif")),
        ("duplicate name", str(masks / "a.png")),
        ("mask format", str(masks / "b.jpg")),
        ("mask format", str(masks / "c.JPEG")),
    ]
    assert [example.mask for example in source.examples] == [
        masks / name for name in ("a.bmp", "b.jpg", "c.JPEG", "d.png")
    ]
    assert source.examples[0].image == images / "a.jpg"


def test_folders_that_hold_nothing_are_refused_as_by_training(tmp_path):
    with pytest.raises(UserError, match="no folder"):
        list_folder(tmp_path / "nowhere", make_code(3), **FOLDERS)
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match="no images below"):
        list_folder(tmp_path, make_code(3), **FOLDERS)


def test_masks_without_an_image_are_told_below_nested_folders(tmp_path):
    write(tmp_path / "in/pictures/train/town/a.v2.png")
    write(tmp_path / "out/train/town/a.v2.png")
    write(tmp_path / "out/train/town/a.v3.png")
    names = {"images": "in/pictures", "masks": "out", "split": "train"}
    source = open_folder(tmp_path, make_code(3), **names)
    stray = str(tmp_path / "out/train/town/a.v3.png")
    assert found(masks_without_image(source)) == [("mask without image", stray)]


@pytest.mark.parametrize("dataset", ["voc", "cityscapes", "camvid"])
def test_masks_without_an_image_are_told_in_published_layouts(tmp_path, dataset):
    if dataset == "voc":
        devkit = tmp_path / "VOC2012"
        write(devkit / "JPEGImages/a.jpg")
        write(devkit / "JPEGImages/of_val.jpg")
        for name in ("a", "of_val", "stray"):
            write(devkit / f"SegmentationClassAug/{name}.png")
        (devkit / "ImageSets/Segmentation").mkdir(parents=True)
        (devkit / "ImageSets/Segmentation/train.txt").write_text("a\n")
        source, stray = voc.open_split(tmp_path, "train"), "SegmentationClassAug/stray.png"
        stray = devkit / stray
    elif dataset == "cityscapes":
        write(tmp_path / "leftImg8bit/train/ulm/ulm_0_leftImg8bit.png")
        for name in ("ulm_0", "ulm_1"):
            write(tmp_path / f"gtFine/train/ulm/{name}_gtFine_labelIds.png")
        source = cityscapes.open_split(tmp_path, "train")
        stray = tmp_path / "gtFine/train/ulm/ulm_1_gtFine_labelIds.png"
    else:
        write(tmp_path / "train/a.png")
        for name in ("a", "b"):
            write(tmp_path / f"trainannot/{name}.png")
        source, stray = camvid.open_split(tmp_path, "train"), tmp_path / "trainannot/b.png"
    assert found(masks_without_image(source)) == [("mask without image", str(stray))]


def test_all_images_that_voc_lists_in_vain_are_told(tmp_path):
    lists = tmp_path / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\nb\nc\n")
    write(tmp_path / "JPEGImages/b.jpg")
    write(tmp_path / "SegmentationClassAug/b.png")
    source, faults = list_voc(tmp_path, "train", 255)
    assert source.ids == ["b"]
    assert source.has_label(0)
    images = tmp_path / "JPEGImages"
    assert found(faults) == [("missing image", str(images / f"{name}.jpg")) for name in "ac"]
    (images / "b.jpg").unlink()
    with pytest.raises(UserError, match="is missing"):
        list_voc(tmp_path, "train", 255)


def test_all_lines_that_name_no_image_are_told(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / f"images/{name}.png")
    source = open_folder(tmp_path, make_code(3))
    path = tmp_path / "list.txt"
    path.write_text("# a comment\nbb\n\nimages/b.png\nnowhere/c.png\na\n")
    indices, faults = read_entries(path, source)
    assert indices == [1, 0]
    assert [fault.detail.split(".")[0] for fault in faults] == [
        "line 2, 'bb'",
        "line 5, 'nowhere/c",
    ]
    assert "Did you mean b?" in faults[0].detail
    with pytest.raises(UserError, match="cannot be read"):
        read_entries(tmp_path / "none.txt", source)


def test_classes_are_found_among_the_masks_that_can_be_read(tmp_path):
    masks = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(masks):
        write(path, number)
    broken, colored, photo = (tmp_path / f"{name}.png" for name in ("broken", "colored", "photo"))
    broken.write_bytes(b"")
    write(colored, (128, 0, 0))
    noise = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    Image.fromarray(noise).save(photo)
    write(tmp_path / "smooth.jpg", 200)
    everything = [broken, photo, colored, tmp_path / "smooth.jpg", *masks]
    assert find_classes_among(everything, (255,)).names == ("class 0", "class 1", "class 2")
    write(tmp_path / "other.png", (0, 0, 0))
    colors = [photo, masks[0], colored, tmp_path / "other.png"]
    assert find_classes_among(colors, (255,)).names == ("#000000", "#800000")
    with pytest.raises(UserError, match="the masks hold fewer than two classes"):
        find_classes_among([broken], ())
