import logging
from pathlib import Path

import numpy as np
import pytest

from eln_jax.data.folder import open_folder
from eln_jax.data.labels import make_code
from eln_jax.data.partitions import (
    draw_partition,
    make_partition,
    partition_files,
    read_list,
    shared_images,
)
from eln_jax.errors import UserError
from tests.data.layouts import ids, picture, save


class Listed:
    """A source of names alone; opening anything is an error."""

    num_classes = 2
    class_names = ("a", "b")
    ignore_label = 255

    def __init__(self, ids, unlabeled=()):
        self.ids = list(ids)
        self._unlabeled = set(unlabeled)

    def __len__(self):
        return len(self.ids)

    def has_label(self, index):
        return self.ids[index] not in self._unlabeled

    def read_image(self, index):
        raise AssertionError(index)

    read_label = read_image


TEN = Listed(f"town/{number:04d}" for number in range(10))


def write(path, text, encoding="utf-8"):
    path.write_text(text, encoding=encoding)
    return path


def test_lists_take_suffixes_paths_and_columns(tmp_path):
    lines = (
        "town/0003\n\n# a remark\n  town/0001.jpg  \r\nimages/train/town/0000.png\n"
        "/JPEGImages/town/0009.jpg /Masks/town/0009.png\nC:\\pictures\\town\\0004.JPG\n"
    )
    path = write(tmp_path / "list.txt", lines, "utf-8-sig")
    assert read_list(path, TEN) == [3, 1, 0, 9, 4]


def test_ids_with_spaces_and_dots_are_found_whole(tmp_path):
    source = Listed(["my picture", "my", "a.v2", "b.jpg"])
    assert read_list(write(tmp_path / "l.txt", "my picture\na.v2\na.v2.png\nb.jpg"), source) == [
        0,
        2,
        3,
    ]


def test_an_unknown_id_is_named_with_line_file_and_nearest(tmp_path):
    path = write(tmp_path / "list.txt", "town/0001\ntown/00003\n")
    with pytest.raises(UserError, match=r"list\.txt, line 2, lists 'town/00003'.*mean town/0003"):
        read_list(path, TEN)


def test_unreadable_lists_are_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.txt cannot be read"):
        read_list(tmp_path / "gone.txt", TEN)
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(UserError, match=r"binary\.txt cannot be read"):
        read_list(tmp_path / "binary.txt", TEN)


def test_an_id_listed_twice_counts_once_and_is_told(tmp_path, caplog):
    path = write(tmp_path / "list.txt", "town/0001\ntown/0002\ntown/0001\n")
    with caplog.at_level(logging.WARNING):
        assert read_list(path, TEN) == [1, 2]
    assert "1 image(s) more than once" in caplog.text


def test_the_rest_of_the_training_images_is_unlabelled():
    partition = make_partition(TEN, [7, 2], val=[0, 9])
    assert partition == ((2, 7), (1, 3, 4, 5, 6, 8), (0, 9))
    assert make_partition(TEN, [2], train=[1, 2, 3]).unlabeled == (1, 3)
    assert make_partition(TEN, [2], unlabeled=[5]).unlabeled == (5,)
    assert make_partition(TEN, range(10)).unlabeled == ()


@pytest.mark.parametrize(
    ("labeled", "unlabeled", "val", "message"),
    [
        ([1, 2], [2, 3], [], "both labelled and unlabelled, such as 'town/0002'.*no list"),
        ([1, 2], None, [2], "both labelled and validation, such as 'town/0002'"),
        ([1], [3, 4], [4], "both unlabelled and validation, such as 'town/0004'"),
        ([], None, [4], "no image is labelled"),
    ],
)
def test_leaks_and_empty_parts_are_refused(labeled, unlabeled, val, message):
    with pytest.raises(UserError, match=message):
        make_partition(TEN, labeled, unlabeled=unlabeled, val=val)


def test_labelled_and_validation_images_need_masks():
    source = Listed("abcd", unlabeled="bd")
    assert make_partition(source, [0], val=[2]).unlabeled == (1, 3)
    with pytest.raises(UserError, match=r"1 labelled .*'b'"):
        make_partition(source, [0, 1])
    with pytest.raises(UserError, match=r"1 validation .*'d'"):
        make_partition(source, [0], val=[3])


def test_draws_repeat_by_seed_and_small_ones_lie_in_large_ones():
    small, large = (draw_partition(TEN, seed=1, count=count) for count in (2, 6))
    assert small == draw_partition(TEN, seed=1, fraction=0.2)
    assert set(small.labeled) < set(large.labeled)
    assert sorted(small.labeled + small.unlabeled) == list(range(10))
    assert len({draw_partition(TEN, seed=seed, count=4).labeled for seed in range(20)}) > 10


def test_validation_is_drawn_first_and_the_rest_without_masks_is_unlabelled():
    ids = [f"{number:02d}" for number in range(30)]
    source = Listed(ids, unlabeled=ids[6:])
    partition = draw_partition(source, seed=0, fraction=1.0, val_fraction=1 / 3)
    assert len(partition.val) == 2
    assert len(partition.labeled) == 4
    assert partition.unlabeled == tuple(range(6, 30))
    assert draw_partition(source, seed=0, fraction=0.5, val_fraction=1 / 3).val == partition.val
    inside = draw_partition(source, seed=0, count=2, train=[0, 1, 2, 20])
    assert set(inside.labeled) < {0, 1, 2}
    assert sorted(inside.labeled + inside.unlabeled) == [0, 1, 2, 20]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fraction": 0.01}, "fraction 0.01 .*comes to 0, but 10"),
        ({"count": 11}, "count 11 .*comes to 11, but 10"),
        ({"count": 0}, "at least one"),
        ({"fraction": 1.5}, "fraction is 1.5"),
        ({"fraction": 0.5, "val_fraction": -1.0}, "val_fraction is -1.0"),
        ({"fraction": 0.5, "val_fraction": 1.0}, "takes 10 of the 10 .* for validation"),
        (
            {"fraction": 1.0, "val_fraction": 0.25, "train": [3]},
            "val_fraction=0.25 takes 1 of the 1 .*, which leaves none .*: add masks",
        ),
        ({}, "either"),
        ({"fraction": 0.5, "count": 3}, "either"),
    ],
)
def test_impossible_draws_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        draw_partition(TEN, seed=0, **settings)


def test_a_draw_without_masks_is_refused():
    with pytest.raises(UserError, match="none of the training images has a mask"):
        draw_partition(Listed("ab", unlabeled="ab"), seed=0, fraction=0.5)


def test_lists_that_name_whole_files_of_cityscapes_are_read(tmp_path):
    source = Listed(["jena/jena_000078_000019"])
    entry = "leftImg8bit/train/jena/jena_000078_000019"
    line = f"{entry}_leftImg8bit.png gtFine/train/jena/jena_000078_000019_gtFine_labelTrainIds.png"
    assert read_list(write(tmp_path / "list.txt", line), source) == [0]


def test_a_short_name_stands_for_a_pair_of_lists(tmp_path):
    for name in ("8_labeled_0", "8_unlabeled_0", "alone_labeled", "mine"):
        write(tmp_path / f"{name}.txt", "")
    pair = (tmp_path / "8_labeled_0.txt", tmp_path / "8_unlabeled_0.txt")
    assert partition_files(tmp_path / "8_labeled_0") == pair
    assert partition_files(str(pair[0])) == (pair[0], None)
    assert partition_files(tmp_path / "alone_labeled") == (tmp_path / "alone_labeled.txt", None)
    assert partition_files(tmp_path / "mine") == (tmp_path / "mine.txt", None)
    own = write(tmp_path / "my_labeled", "")
    assert partition_files(own) == (own, None)
    with pytest.raises(UserError, match=r"8_labeled_9\.txt.*Did you mean 8_labeled_0\.txt"):
        partition_files(tmp_path / "8_labeled_9")


def test_a_list_of_ones_own_goes_before_a_published_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = Path("unimatch/mine.txt")
    path.parent.mkdir()
    path.write_text("a\n")
    assert partition_files("unimatch/mine.txt") == partition_files("unimatch/mine") == (path, None)


def test_splits_that_link_to_one_picture_share_it(tmp_path):
    for name, number in (("a", 0), ("b", 1)):
        save(tmp_path / f"all/{name}.png", picture(number))
        for split in ("train", "val"):
            save(tmp_path / f"masks/{split}/{name}.png", ids(number, [0, 1]))
    for split, names in (("train", "ab"), ("val", "b")):
        (tmp_path / "images" / split).mkdir(parents=True)
        for name in names:
            link = tmp_path / "images" / split / f"{name}.png"
            link.symlink_to(tmp_path / f"all/{name}.png")
    train, val = (open_folder(tmp_path, make_code(3), split=split) for split in ("train", "val"))
    partition = make_partition(train, [0, 1])._replace(val=(0,))
    assert shared_images(train, val, partition) == [1]


def test_a_pair_of_lists_makes_a_partition(tmp_path):
    write(tmp_path / "2_labeled_0.txt", "\n".join(TEN.ids[:5]))
    write(tmp_path / "2_unlabeled_0.txt", "\n".join(TEN.ids[5:8]))
    labeled, unlabeled = partition_files(tmp_path / "2_labeled_0")
    assert unlabeled is not None
    partition = make_partition(
        TEN, read_list(labeled, TEN), unlabeled=read_list(unlabeled, TEN), val=np.arange(8, 10)
    )
    assert partition == (tuple(range(5)), (5, 6, 7), (8, 9))


def test_a_balanced_draw_holds_the_rare_class():
    class Source(Listed):
        num_classes = 3

        def read_label(self, index):
            return np.array([[0, 1 if index % 2 else 0, 2 if index == 17 else 255]], np.uint8)

    source = Source([f"{number:02d}" for number in range(40)])
    for seed in range(5):
        balanced = draw_partition(source, seed=seed, count=4, balanced=True).labeled
        assert 17 in balanced
        assert sum(index % 2 for index in balanced) >= 2
    with_rare = [17 in draw_partition(source, seed=seed, count=4).labeled for seed in range(5)]
    assert not all(with_rare)
