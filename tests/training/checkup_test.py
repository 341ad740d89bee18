import numpy as np
import pytest
from PIL import Image

from eln_jax.configuration import complete
from eln_jax.data.builders import camvid
from eln_jax.defaults import default_config
from eln_jax.errors import UserError
from eln_jax.training import opening
from eln_jax.training.checkup import find_classes, open_all


@pytest.fixture
def config(tmp_path):
    """Of a folder of six images to train and two to validate; c, f have no mask."""
    for split, names in {"train": "abcdef", "val": "xy"}.items():
        for name in names:
            for kind in ("images", "masks"):
                path = tmp_path / kind / split / f"{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                if kind == "images" or name not in "cf":
                    Image.fromarray(np.resize(np.uint8([0, 1, 2]), (6, 8))).save(path)
    config = default_config()
    block = config.data
    block.root, block.num_classes, block.labeled_count = str(tmp_path), 3, 2
    return config


@pytest.fixture
def data(config):
    return config.data


def kinds(opened):
    return [fault.fault for fault in opened.faults]


def listed(data, name, text):
    path = f"{data.root}/{name}.txt"
    with open(path, "w") as file:  # noqa: PTH123 - a path made of text
        file.write(text)
    return path


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"labeled_balanced": True},
        {"num_classes": 0, "labeled_balanced": True},
        {"val_fraction": 0.4, "train_split": "none"},
        {"source": "synthetic", "root": "", "labeled_count": 5},
    ],
)
def test_what_training_would_read_is_opened(config, change):
    data = config.data
    for name, value in change.items():
        data[name] = value
    complete(config, find_classes)
    opened = open_all(data)
    train, val = opening.open_sources(data)
    assert (opened.train.ids, opened.val.ids) == (train.ids, val.ids)
    assert opened.train.describe() == train.describe()
    assert opened.partition == opening.choose_partition(data, train, val)
    assert opened.faults == []


def test_masks_tell_the_classes_or_a_list_does(data, tmp_path):
    (tmp_path / "masks/train/b.png").write_bytes(b"")  # passed over: a fault tells it later
    assert find_classes(data)[0].names == ("class 0", "class 1", "class 2")
    listed(data, "classes", "0 ground\n1 cat\n2 dog\n9 void\n")
    assert find_classes(data)[0].names == ("ground", "cat", "dog")
    data.classes = f"{data.root}/nowhere.txt"
    with pytest.raises(UserError, match=r"nowhere\.txt cannot be read"):
        find_classes(data)


def test_masks_of_other_names_are_told_as_a_training_tells_them(data, tmp_path):
    data.num_classes, data.val_split = 0, "train"
    for mask in list((tmp_path / "masks/train").iterdir()):
        mask.rename(mask.with_stem(f"{mask.stem}_mask"))
    for find in (find_classes, opening.find_classes):
        with pytest.raises(
            UserError,
            match=r"^none of .* 4 mask\(s\) have the name of no image, such as .*/a_mask\.png: "
            r"give a mask the name of its image, as a\.png for .*/a\.png\.$",
        ):
            find(data)
    for mask in (tmp_path / "masks/train").iterdir():
        mask.unlink()
    for find in (find_classes, opening.find_classes):
        with pytest.raises(UserError, match="none of the training images has a mask: add masks"):
            find(data)


def test_a_missing_split_does_not_hide_the_other(data):
    data.val_split = "test"
    opened = open_all(data)
    assert kinds(opened)[0] == "empty split"
    assert opened.faults[0].detail == f"there is no split 'test' in {data.root}/images"
    assert opened.faults[0].remedy.startswith("choose one of its folders (train, val), or keep")
    assert len(opened.val) == 0
    assert opened.train.class_names == opened.val.class_names
    assert len(opened.partition.labeled) == 2
    data.val_split, data.train_split = "val", "test"
    opened = open_all(data)
    assert kinds(opened) == ["empty split"]
    assert opened.partition == ((), (), (0, 1))


def test_where_nothing_can_be_opened_it_is_a_mistake(data):
    data.val_split = data.train_split = "test"
    with pytest.raises(UserError, match="no split 'test'"):
        open_all(data)
    data.root += "/nowhere"
    with pytest.raises(UserError, match="no folder"):
        open_all(data)


def test_published_layouts_go_through_the_same_doors(data):
    data.source, data.num_classes = "camvid", len(camvid.CLASS_NAMES)
    assert kinds(open_all(data)) == []
    data.num_classes = 3
    with pytest.raises(UserError, match="has 11 classes"):  # nothing of which a fault would tell
        open_all(data)
    data.num_classes, data.val_split = len(camvid.CLASS_NAMES), "test"
    assert kinds(open_all(data)) == ["empty split"]
    data.source = "voc"
    with pytest.raises(UserError, match="is not VOC"):
        open_all(data)


def test_lists_are_read_to_their_end(data):
    data.partition = listed(data, "1_labeled_0", "a\nnone\nb\nc\n").removesuffix(".txt")
    listed(data, "1_unlabeled_0", "b\nd\nnever\n")
    opened = open_all(data)
    assert sorted(kinds(opened)) == ["image in two parts", "unknown id", "unknown id"]
    assert opened.partition == ((0, 1, 2), (3,), (0, 1))
    data.partition += ".txt"  # all the others are unlabelled
    assert open_all(data).partition == ((0, 1, 2), (3, 4, 5), (0, 1))
    data.partition = "nowhere.txt"
    with pytest.raises(UserError, match=r"no list of labelled images nowhere\.txt"):
        open_all(data)


def test_a_list_of_validation_images_is_read_to_its_end(data):
    data.val_list = listed(data, "val", "a\nnone\nf\n")
    opened = open_all(data)
    assert kinds(opened) == ["unknown id"]
    assert opened.partition.val == (0, 5)
    assert not {0, 5} & set(opened.partition.labeled + opened.partition.unlabeled)
    data.partition = listed(data, "labeled", "a\nb\n")
    opened = open_all(data)
    assert kinds(opened) == ["unknown id", "image in two parts"]
    assert opened.partition == ((0, 1), (2, 3, 4), (5,))
    data.partition = listed(data, "labeled", "# none yet\n")
    opened = open_all(data)
    assert kinds(opened) == ["unknown id", "empty split"]
    assert opened.partition == ((), (1, 2, 3, 4), (0, 5))


def lay_as_voc(data, tmp_path):
    """The training images as a devkit that has no lists yet; returns the folder for them."""
    data.source, data.num_classes, data.root = "voc", 21, str(tmp_path / "VOC2012")
    lists = tmp_path / "VOC2012/ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (tmp_path / "images/train").rename(tmp_path / "VOC2012/JPEGImages")
    (tmp_path / "masks/train").rename(tmp_path / "VOC2012/SegmentationClass")
    for path in (tmp_path / "VOC2012/JPEGImages").iterdir():
        path.rename(path.with_suffix(".jpg"))
    return lists


def test_an_image_of_both_splits_is_told(data, tmp_path):
    lists = lay_as_voc(data, tmp_path)
    (lists / "train.txt").write_text("a\nb\nd\n")
    (lists / "val.txt").write_text("d\ne\n")
    with pytest.raises(UserError, match=r"1 image\(s\) would be both trained and scored.*d\.jpg"):
        opening.choose_partition(data, *opening.open_sources(data))
    (fault,) = open_all(data).faults
    image = str(tmp_path / "VOC2012/JPEGImages/d.jpg")
    assert (fault.fault, fault.file) == ("image in two parts", image)


def test_a_list_that_voc_lacks_becomes_a_fault_with_its_remedy(data, tmp_path):
    (lay_as_voc(data, tmp_path) / "train.txt").write_text("a\n")
    data.val_split = "vall"
    (fault,) = [fault for fault in open_all(data).faults if "vall.txt" in fault.detail]
    assert fault.detail.endswith("no list vall.txt")
    assert fault.remedy == "choose one of its lists (train)"


def test_a_draw_that_fails_becomes_a_fault(data, tmp_path):
    data.labeled_count = 5
    opened = open_all(data)
    assert kinds(opened) == ["empty split"]
    assert opened.partition == ((), (0, 1, 2, 3, 4, 5), (0, 1))
    data.labeled_balanced = True
    assert kinds(open_all(data)) == ["empty split"]  # of which no mask is to blame
    data.labeled_count = 2
    (tmp_path / "masks/train/a.png").write_bytes(b"")
    opened = open_all(data)
    assert kinds(opened) == ["draw failed"]
    assert len(opened.partition.labeled) == 2


def test_validation_without_masks_is_empty(data, tmp_path):
    for name in "xy":
        (tmp_path / f"masks/val/{name}.png").unlink()
    opened = open_all(data)
    assert kinds(opened) == ["empty split"]
    assert opened.partition.val == ()
