import numpy as np
import pytest
from PIL import Image

from eln_jax.data.classes import ClassList, read_classes, scan_classes
from eln_jax.errors import UserError


def save(path, array):
    Image.fromarray(np.asarray(array, np.uint8)).save(path)
    return path


def test_a_list_of_classes_is_read_in_its_order(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text(
        "# id name colour\n\n0 ground #000000\n255 traffic light #FAAA1E\n7 Void #e0e0c0\n"
        "#none of these\n8 void #e0e0c0\n"
    )
    assert read_classes(path) == ClassList(
        names=("ground", "traffic light"),
        ids=(0, 255),
        colors=((0, 0, 0), (250, 170, 30)),
        void_ids=(7, 8),
        void_colors=((224, 224, 192),),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 a\nb\n", "line 2: 'b' must be an id"),
        ("0 a\n256 b\n", "line 2"),
        ("0 a\n1 b #80\n", "rrggbb"),
        ("0 a #000000\n1 b\n", "a colour to 1 of 2"),
        ("0 a\n1 b #12345g\n", r"classes\.txt, line 2: the colour '#12345g'"),
        ("0 a\n1 b\n0 c\n", "line 3, gives the id 0 a second time"),
        ("0 a #000000\n1 b #000000\n", "line 2, gives the colour #000000 a second time"),
        ("0 a\n1 void\n", "1 class"),
        ("", "0 class"),
    ],
)
def test_a_list_written_otherwise_is_refused(tmp_path, text, message):
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        read_classes(tmp_path / "classes.txt")


def test_a_missing_list_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.txt cannot be read"):
        read_classes(tmp_path / "gone.txt")


def test_ids_run_to_the_largest_that_occurs(tmp_path):
    masks = [save(tmp_path / "a.png", [[0, 2]]), save(tmp_path / "b.png", [[255, 0]])]
    assert scan_classes(masks, (255,)).names == ("class 0", "class 1", "class 2")


def test_ids_that_occur_nowhere_below_the_largest_are_a_gap(tmp_path):
    masks = [save(tmp_path / "a.png", [[0, 2]]), save(tmp_path / "b.png", [[7, 5]])]
    assert scan_classes(masks, (255,)).gap == (tmp_path / "b.png", 7, (1, 3, 4, 6))
    assert scan_classes(masks, (3, 4, 6, 1)).gap is None
    filling = save(tmp_path / "c.png", [[6, 1, 3, 4]])
    assert scan_classes([*masks, filling], (255,)).gap is None


def test_colours_become_classes_in_sorted_order(tmp_path):
    masks = [save(tmp_path / "a.png", [[[0, 0, 200], [0, 0, 0]], [[128, 0, 0], [0, 0, 0]]])]
    found = scan_classes(masks, (255,))
    assert found.colors == ((0, 0, 0), (0, 0, 200), (128, 0, 0))
    assert found.names == ("#000000", "#0000c8", "#800000")


def test_palettes_that_give_an_id_two_colours_are_refused(tmp_path):
    for name, red in (("a", 9), ("b", 8)):
        image = Image.fromarray(np.array([[0, 1]], np.uint8))
        image.putpalette([0, 0, 0, red, 0, 0])
        image.save(tmp_path / f"{name}.png")
    masks = [tmp_path / "a.png", tmp_path / "b.png"]
    with pytest.raises(
        UserError, match=r"b\.png has the colour #080000 for the id 1, and .*a\.png"
    ):
        scan_classes(masks, (255,))
    assert len(scan_classes(masks[:1], (255,)).names) == 2


def test_what_is_no_drawing_of_classes_is_refused(tmp_path):
    ids, colors = save(tmp_path / "a.png", [[0, 1]]), save(tmp_path / "b.png", [[[0, 0, 9]]])
    with pytest.raises(UserError, match=r"a\.png holds ids and .*b\.png colours"):
        scan_classes([ids, colors], (255,))
    binary = save(tmp_path / "c.png", [[0, 255]])
    with pytest.raises(UserError, match=r"c\.png, hold fewer than two .*'255 object'"):
        scan_classes([binary], (255,))
    photo = np.random.default_rng(0).integers(0, 256, (9, 9, 3))
    with pytest.raises(UserError, match=r"d\.png brings .* more than 64"):
        scan_classes([save(tmp_path / "d.png", photo)], (255,))
