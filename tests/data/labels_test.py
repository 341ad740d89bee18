import pickle

import numpy as np
import pytest

from eln_jax.data.labels import color_text, make_code, parse_color
from eln_jax.errors import UserError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 1}, "num_classes is 1"),
        ({"num_classes": 256}, "num_classes is 256"),
        ({"num_classes": 3, "ignore_label": 2}, "ignore_label is 2"),
        ({"num_classes": 3, "ignore_label": 256}, "ignore_label is 256"),
        ({"num_classes": 3, "void_labels": (300,)}, "void_labels or class_ids holds 300"),
        ({"num_classes": 2, "class_ids": (0, 1, 2)}, "3 class_ids for 2 classes"),
        ({"num_classes": 2, "class_ids": (0, 0)}, "must all be different"),
        ({"num_classes": 2, "void_labels": (1,)}, "must all be different"),
        ({"num_classes": 3, "colors": [(0, 0, 0)]}, "1 colours for 3 classes"),
        ({"num_classes": 2, "colors": [(0, 0, 0), (0, 0, 0)]}, "the same colour"),
    ],
)
def test_contradictory_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        make_code(**settings)


def test_ids_outside_the_classes_are_named_with_all_that_may_be():
    stored = np.array([[0, 1], [2, 9]], np.uint8)
    with pytest.raises(UserError, match=r"label 9 .*classes are 0 to 2, and void is 11, 255"):
        make_code(3, void_labels=(11,)).decode(stored, "m.png")
    labels, known = make_code(3).decode_known(stored, "m.png")
    np.testing.assert_array_equal(known, [[True, True], [True, False]])
    np.testing.assert_array_equal(labels[known], [0, 1, 2])


def test_every_colour_is_told_from_its_neighbours():
    colors = [(0, 0, 1), (0, 1, 0), (1, 0, 0), (255, 255, 255)]
    code = pickle.loads(pickle.dumps(make_code(4, colors=colors)))
    stored = np.array([colors[::-1]], np.uint8)
    np.testing.assert_array_equal(code.decode(stored, "m.png"), [[3, 2, 1, 0]])
    for wrong in [(0, 0, 0), (0, 0, 2), (255, 255, 254)]:
        with pytest.raises(UserError, match=f"colour {color_text(wrong)}"):
            code.decode(np.array([[wrong]], np.uint8), "m.png")


def test_colours_are_written_as_the_web_writes_them():
    assert parse_color("#8000ff") == (128, 0, 255)
    assert color_text((128, 0, 255)) == "#8000ff"
    for wrong in ("8000ff", "#80f", "#8000fg"):
        with pytest.raises(UserError, match="rrggbb"):
            parse_color(wrong)


def test_classes_may_be_stored_under_other_ids_even_that_of_void():
    code = make_code(2, class_ids=(0, 255), void_labels=(128,))
    stored = np.array([[0, 128, 255]], np.uint8)
    np.testing.assert_array_equal(code.decode(stored, "m.png"), [[0, 255, 1]])
