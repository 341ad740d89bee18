import pickle

import numpy as np
import pytest

from eln_jax.data.synthetic import CLASS_NAMES, SyntheticSource
from eln_jax.errors import UserError


def test_scenes_are_a_function_of_seed_and_number():
    source = SyntheticSource(4, (48, 64), seed=3)
    again = pickle.loads(pickle.dumps(SyntheticSource(9, (48, 64), seed=3)))
    later = SyntheticSource(2, (48, 64), seed=3, start=2)
    other = SyntheticSource(4, (48, 64), seed=4)
    assert source.ids == ["scene_000000", "scene_000001", "scene_000002", "scene_000003"]
    assert later.ids == source.ids[2:]
    for index in (2, 0, 3):
        np.testing.assert_array_equal(source.read_image(index), again.read_image(index))
        np.testing.assert_array_equal(source.read_label(index), again.read_label(index))
    np.testing.assert_array_equal(later.read_image(0), source.read_image(2))
    np.testing.assert_array_equal(later.read_label(1), source.read_label(3))
    assert (source.read_image(0) != other.read_image(0)).any()
    assert (source.read_image(0) != source.read_image(1)).any()


def test_a_scene_drawn_before_is_the_same_and_nobody_can_paint_over_it():
    source = SyntheticSource(2, (40, 56))
    first = source.read_image(1)
    assert source.read_image(1) is first
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 0
    large = SyntheticSource(2000, (120, 120))  # 86 MB: too many to hold
    assert large.read_image(7) is not large.read_image(7)
    np.testing.assert_array_equal(large.read_image(7), large.read_image(7))


def test_shapes_types_and_names():
    source = SyntheticSource(2, (40, 56), num_classes=9)
    assert len(source) == 2
    assert source.has_label(1)
    assert source.class_names == CLASS_NAMES
    assert source.read_image(0).shape == (40, 56, 3)
    assert source.read_image(0).dtype == np.uint8
    assert source.read_label(0).shape == (40, 56)
    assert source.read_label(0).dtype == np.uint8


@pytest.mark.parametrize("num_classes", [2, 6, 9])
def test_every_class_occurs_and_void_is_thin(num_classes):
    source = SyntheticSource(60, (64, 64), num_classes=num_classes)
    counts = sum(np.bincount(source.read_label(i).ravel(), minlength=256) for i in range(60))
    assert np.flatnonzero(counts).tolist() == [*range(num_classes), 255]
    share = counts / counts.sum()
    assert share[1:num_classes].min() > 0.01
    assert 0.4 < share[0] < 0.9
    assert share[255] < 0.12


def test_void_lies_between_classes():
    source = SyntheticSource(20, (96, 96), ignore_label=200)
    touching = total = 0
    for index in range(20):
        label = source.read_label(index)
        # Sideways neighbours of two different classes: only where one thing's void is hidden.
        left, right = label[:, :-1], label[:, 1:]
        both = (left != 200) & (right != 200)
        touching += (both & (left != right)).sum()
        total += ((label == 200).sum()) // 2
    assert touching < 0.02 * total


def test_things_stand_out_from_the_ground_they_lie_on():
    source = SyntheticSource(30, (96, 96))
    shifts = []
    for index in range(30):
        image, label = source.read_image(index).astype(float), source.read_label(index)
        ground = image[label == 0].mean(axis=0)
        for value in set(np.unique(label)) - {0, 255}:
            shifts.append(np.abs(image[label == value].mean(axis=0) - ground).max())
    assert np.mean(shifts) > 25


def test_impossible_scenes_are_refused():
    with pytest.raises(UserError, match="from 2 to 9 classes"):
        SyntheticSource(4, num_classes=10)
    with pytest.raises(UserError, match="at least one"):
        SyntheticSource(0)
    with pytest.raises(UserError, match="16x16"):
        SyntheticSource(1, (8, 64))
    with pytest.raises(IndexError):
        SyntheticSource(3).read_image(3)
