import numpy as np
import pytest

from eln_jax.evaluation import panels

PALETTE = panels.make_palette(3)
NAMES = ("sky", "road", "car")
LABEL = np.array([[0, 1], [2, 255]], np.uint8)
PREDICTION = np.array([[0, 2], [2, 1]], np.uint8)
P_RIGHT = np.array([[1.0, 0.0], [0.5, 0.9]], np.float32)
IMAGE = np.full((2, 2, 3), 100, np.uint8)


def full_row(caption=""):
    return panels.panel_row(IMAGE, LABEL, PREDICTION, P_RIGHT, P_RIGHT > 0.5, PALETTE, caption)


@pytest.mark.parametrize("num_classes", [1, 3, 24, 25, 256])
def test_every_class_has_a_colour_of_its_own(num_classes):
    palette = panels.make_palette(num_classes)
    assert palette.shape == (num_classes, 3)
    assert palette.dtype == np.uint8
    colors = {tuple(color) for color in palette.tolist()} | {panels.VOID_COLOR}
    assert len(colors) == num_classes + 1
    np.testing.assert_array_equal(palette, panels.make_palette(256)[:num_classes])


def test_the_first_colours_are_far_apart():
    colors = panels.make_palette(24).astype(int)
    distance = np.abs(colors[:, None] - colors[None]).sum(-1)
    assert distance[~np.eye(24, dtype=bool)].min() >= 60
    assert np.abs(colors - np.array([panels.VOID_COLOR])).sum(-1).min() >= 60


def test_later_colours_are_those_of_pascal_voc():
    palette = panels.make_palette(256)
    assert palette[24].tolist() == [64, 64, 0]
    assert palette[64].tolist() == [32, 0, 0]
    assert palette[255].tolist() == [224, 224, 192]


def test_pictures_of_a_row_by_hand():
    pictures = full_row().pictures
    assert list(pictures) == ["image", "label", "prediction", "wrong", "p_wrong", "kept"]
    assert all(p.shape == (2, 2, 3) and p.dtype == np.uint8 for p in pictures.values())
    assert pictures["label"][1, 1].tolist() == list(panels.VOID_COLOR)
    np.testing.assert_array_equal(pictures["prediction"], PALETTE[PREDICTION])
    lightness = pictures["wrong"].astype(int).sum(-1)
    assert lightness[0, 0] == lightness[1, 0] < 20 < 600 < lightness[0, 1]
    assert pictures["wrong"][1, 1].tolist() == list(panels.VOID_COLOR)
    rising = pictures["p_wrong"].astype(int).sum(-1)
    assert rising[0, 0] < rising[1, 1] < rising[1, 0] < rising[0, 1]
    np.testing.assert_array_equal(pictures["kept"][0, 0], PALETTE[0])
    assert len(set(pictures["kept"][0, 1].tolist())) == 1  # rejected: grey


def test_what_is_missing_has_no_column():
    row = panels.panel_row(IMAGE, None, PREDICTION, None, None, PALETTE)
    assert list(row.pictures) == ["image", "prediction"]
    narrow = panels.draw_panels([row], PALETTE, NAMES)
    wide = panels.draw_panels([row, full_row()], PALETTE, NAMES)
    assert narrow.shape[1] < wide.shape[1] / 2


def test_the_legend_names_the_classes_that_occur():
    blank = np.zeros((2, 2), np.uint8)
    row = panels.panel_row(IMAGE, None, blank, None, None, PALETTE)
    drawn = panels.draw_panels([row], PALETTE, NAMES)
    present = {tuple(color) for color in drawn[-40:].reshape(-1, 3).tolist()}
    assert tuple(PALETTE[0].tolist()) in present
    assert tuple(PALETTE[1].tolist()) not in present


def test_a_stack_is_drawn_at_a_sane_size():
    tall = panels.panel_row(
        *(np.repeat(np.repeat(a, 300, 0), 150, 1) for a in (IMAGE, LABEL, PREDICTION)),
        None,
        None,
        PALETTE,
        "tall",
    )
    height, width, _ = panels.draw_panels([full_row("small"), tall], PALETTE, NAMES).shape
    assert 1900 < width < 2100
    assert 700 < height < 850


def test_a_legend_of_many_classes_takes_several_lines():
    palette = panels.make_palette(150)
    prediction = np.arange(150, dtype=np.uint8).reshape(10, 15)
    image = np.zeros((10, 15, 3), np.uint8)
    row = panels.panel_row(image, None, prediction, None, None, palette)
    names = [f"class {i}" for i in range(150)]
    assert panels.draw_panels([row], palette, names).shape[0] > 600
