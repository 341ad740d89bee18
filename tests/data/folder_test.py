import os
import pickle

import numpy as np
import pytest
from PIL import Image

from eln_jax.data.folder import open_folder
from eln_jax.data.labels import make_code
from eln_jax.errors import UserError

SHAPE = (8, 10)


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def picture(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def mask(value=0, shape=SHAPE):
    return np.full(shape, value, np.uint8)


@pytest.fixture
def root(tmp_path):
    """Builds three images, nested and in several formats; the second has no mask."""
    write(tmp_path / "images/b.png", picture(1))
    write(tmp_path / "images/town/a.PNG", picture(2))
    write(tmp_path / "images/a.v2.bmp", picture(3))
    write(tmp_path / "masks/town/a.png", mask(1))
    write(tmp_path / "masks/a.v2.png", mask(2))
    return tmp_path


def test_ids_are_sorted_relative_stems_and_pairs_match(root):
    source = open_folder(root, make_code(3))
    assert source.ids == ["a.v2", "b", "town/a"]
    assert len(source) == 3
    assert [source.has_label(index) for index in range(3)] == [True, False, True]
    np.testing.assert_array_equal(source.read_image(2), picture(2))
    np.testing.assert_array_equal(source.read_label(0), mask(2))
    assert source.class_names == ("class 0", "class 1", "class 2")


def test_other_files_and_hidden_files_are_passed_over(root):
    (root / "images/Thumbs.db").write_bytes(b"x")
    (root / "images/._b.png").write_bytes(b"x")
    write(root / "images/.ipynb_checkpoints/b-checkpoint.png", picture())
    assert len(open_folder(root, make_code(3))) == 3


def test_linked_folders_are_followed_and_loops_end(root, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    write(other / "c.png", picture())
    (root / "images/linked").symlink_to(other, target_is_directory=True)
    (root / "images/loop").symlink_to(root / "images", target_is_directory=True)
    assert open_folder(root, make_code(3)).ids == ["a.v2", "b", "linked/c", "town/a"]


def test_split_and_folder_names(root):
    source = open_folder(root, make_code(3), split="town")
    assert source.ids == ["a"]
    np.testing.assert_array_equal(source.read_label(0), mask(1))
    write(root / "JPEGImages/x.jpg", picture())
    write(root / "SegmentationClassAug/x.png", mask(1))
    voc = open_folder(root, make_code(3), images="JPEGImages", masks="SegmentationClassAug")
    assert voc.ids == ["x"]
    assert voc.has_label(0)


def test_void_labels_become_the_ignore_label(tmp_path):
    ids = np.array([[0, 1, 11], [255, 12, 2]], np.uint8)
    write(tmp_path / "images/a.png", picture(shape=(2, 3)))
    write(tmp_path / "masks/a.png", ids)
    source = open_folder(tmp_path, make_code(3, void_labels=(11, 12)))
    np.testing.assert_array_equal(source.read_label(0), [[0, 1, 255], [255, 255, 2]])
    other = open_folder(tmp_path, make_code(3, void_labels=(11, 12, 255), ignore_label=254))
    np.testing.assert_array_equal(other.read_label(0), [[0, 1, 254], [254, 254, 2]])


def test_a_label_out_of_range_is_named_with_place_and_remedy(root):
    values = mask(1)
    values[3, 7] = 9
    write(root / "masks/town/a.png", values)
    with pytest.raises(UserError, match=r"a\.png holds the label 9 .*row 3, column 7.*void_labels"):
        open_folder(root, make_code(3)).read_label(2)


def test_a_mask_of_another_size_is_named(root):
    write(root / "masks/town/a.png", mask(1, (8, 9)))
    with pytest.raises(UserError, match=r"a\.png has 9x8 pixels .*its image has 10x8"):
        open_folder(root, make_code(3)).read_label(2)


def test_a_missing_mask_is_named_when_asked_for(root):
    with pytest.raises(UserError, match=r"b\.png has no mask"):
        open_folder(root, make_code(3)).read_label(1)


def test_a_corrupt_image_is_named(root):
    (root / "images/b.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(UserError, match=r"b\.png cannot be read"):
        open_folder(root, make_code(3)).read_image(1)


def test_missing_and_empty_folders_say_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"no folder .*nowhere"):
        open_folder(tmp_path / "nowhere", make_code(3))
    (tmp_path / "pictures").mkdir()
    with pytest.raises(UserError, match=r"no folder .*images.*it has pictures"):
        open_folder(tmp_path, make_code(3))
    (tmp_path / "images/train").mkdir(parents=True)
    with pytest.raises(UserError, match=r"no split 'trian' in .*train"):
        open_folder(tmp_path, make_code(3), split="trian")
    with pytest.raises(UserError, match="no images below"):
        open_folder(tmp_path, make_code(3), split="train")


def test_one_folder_for_images_and_masks_is_refused(root):
    # Each image would be a mask of its own.
    with pytest.raises(UserError, match=r"one within the other: give each a folder"):
        open_folder(root, make_code(3), masks="images")


@pytest.mark.parametrize("names", [{"images": "."}, {"masks": "images/town"}])
def test_masks_among_the_images_would_be_images_themselves(root, names):
    with pytest.raises(UserError, match="one within the other"):
        open_folder(root, make_code(3), **names)


def test_masks_that_no_image_has_are_told_of(root):
    write(root / "masks/B.png", mask(1))
    assert open_folder(root, make_code(3)).stray_masks == (root / "masks/B.png",)


def test_a_folder_that_cannot_be_listed_is_no_empty_one(root, monkeypatch):
    scandir = os.scandir

    def refusing(path):
        if str(path).endswith("town"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(UserError, match=r"town cannot be read \(Permission denied\)"):
        open_folder(root, make_code(3))


def test_two_images_of_one_name_are_refused(root):
    write(root / "images/b.jpg", picture())
    with pytest.raises(UserError, match="two images share the name 'b'"):
        open_folder(root, make_code(3))


def test_another_number_of_names_than_of_classes_is_refused(root):
    with pytest.raises(UserError, match="2 class_names for 3 classes"):
        open_folder(root, make_code(3), class_names=("a", "b"))


@pytest.mark.parametrize("suffix", ["jpg", "webp", "gif"])
def test_a_mask_that_is_a_jpeg_or_so_is_refused_unless_a_true_one_stands_beside_it(root, suffix):
    write(root / f"masks/b.{suffix}", mask(1))
    with pytest.raises(UserError, match=rf"b\.{suffix} is of a format whose writing changes"):
        open_folder(root, make_code(3))
    write(root / "masks/b.png", mask(1))
    assert open_folder(root, make_code(3)).has_label(1)


def test_masks_of_colours_are_read_by_a_colour_map(root):
    colors = np.zeros((*SHAPE, 3), np.uint8)
    colors[2, 3], colors[4, 5] = (128, 0, 64), (224, 224, 192)
    write(root / "masks/b.png", colors)
    code = make_code(2, colors=[(0, 0, 0), (128, 0, 64)], void_colors=[(224, 224, 192)])
    label = open_folder(root, code).read_label(1)
    assert (label[2, 3], label[4, 5], label[0, 0]) == (1, 255, 0)
    assert label.sum() == 1 + 255
    with pytest.raises(UserError, match=r"b\.png holds colours, .*classes\.txt"):
        open_folder(root, make_code(2)).read_label(1)
    with pytest.raises(UserError, match=r"colour #e0e0c0 \(first at row 4, column 5\)"):
        open_folder(root, make_code(2, colors=[(0, 0, 0), (128, 0, 64)])).read_label(1)


CODE = make_code(3, colors=[(0, 0, 0), (128, 0, 0), (0, 128, 0)])


def colored(ids):
    return np.array([color for color, _ in sorted(CODE.colors.items(), key=lambda x: x[1])])[ids]


def test_a_palette_that_numbers_the_colours_anew_is_refused(root):
    ids = np.zeros(SHAPE, np.uint8)
    ids[2:4] = 2
    drawn = Image.fromarray(colored(ids).astype(np.uint8))
    drawn.quantize(2).save(root / "masks/b.png")
    assert set(np.unique(Image.open(root / "masks/b.png"))) == {0, 1}
    with pytest.raises(UserError, match=r"b\.png stores the id \d as #\w+, the colour of another"):
        open_folder(root, CODE).read_label(1)
    # The palette may have the colours of the list, or others.
    for palette in (colored([0, 1, 2]), 255 - colored([0, 1, 2])):
        same = Image.fromarray(ids)
        same.putpalette(palette.astype(np.uint8).tobytes())
        same.save(root / "masks/b.png")
        np.testing.assert_array_equal(open_folder(root, CODE).read_label(1), ids)


def test_greys_that_are_colours_of_the_list_and_no_ids_are_refused(root):
    code = make_code(2, colors=[(0, 0, 0), (255, 255, 255)])
    write(root / "masks/b.png", np.resize(np.array([0, 255], np.uint8), SHAPE))
    with pytest.raises(UserError, match="stores the id 255 as #ffffff"):
        open_folder(root, code).read_label(1)
    write(root / "masks/b.png", np.resize(np.array([0, 1], np.uint8), SHAPE))
    assert open_folder(root, code).read_label(1).sum() == 40


def test_a_source_survives_the_way_to_a_worker(root):
    source = pickle.loads(pickle.dumps(open_folder(root, make_code(3))))
    np.testing.assert_array_equal(source.read_image(2), picture(2))
