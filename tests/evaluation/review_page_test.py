import base64
import io

import numpy as np
from PIL import Image

from eln_jax.evaluation.label_review import Region
from eln_jax.evaluation.review_page import draw_region, make_page

PALETTE = np.array([[0, 0, 0], [250, 0, 0], [0, 0, 250]], np.uint8)
CLASSES = {"<sky>": (0, 0, 0), "road": (250, 0, 0)}
ROW = {
    "id": "<b>a</b>",
    "image": "images/a.png",
    "mask": "masks/<a>.png",
    "box": [10, 20, 18, 26],
    "labelled": "<sky>",
    "suggested": "road",
    "score": 40.4,
    "pixels": 48,
}


def region(inside, box):
    return Region(
        image=0,
        id="a",
        box=box,
        bits=np.packbits(inside),
        pixels=int(inside.sum()),
        labelled=1,
        suggested=2,
        score=9.0,
        planted_overlap=None,
    )


def test_image_mask_and_suggestion_lie_side_by_side():
    label = np.ones((40, 40), np.uint8)
    inside = np.ones((9, 7), bool)  # no multiple of eight bits
    inside[:, :3] = False
    picture = draw_region(
        np.full((40, 40, 3), 128, np.uint8),
        label,
        region(inside, (slice(16, 25), slice(10, 17))),
        PALETTE,
    )
    head, data = picture.split(",")
    assert head == "data:image/jpeg;base64"
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)
    blue = np.argwhere((pixels[..., 2] > 180) & (pixels[..., 0] < 80))
    assert blue.size
    assert blue[:, 1].min() > 2 * pixels.shape[1] / 3 - 4  # the suggestion, at the right
    third = pixels.shape[1] // 3
    assert (pixels[5, third + third // 2] - PALETTE[1]).max() < 40  # the mask, in the middle
    magenta = np.minimum(pixels[..., 0], pixels[..., 2]) - pixels[..., 1] > 150
    assert magenta[:, :third].any()
    assert not magenta[:, third + 4 :].any()


def test_the_page_stands_alone_and_shows_names_that_are_markup():
    rows = [ROW, ROW | {"planted": True}, ROW | {"planted": False}]
    pictures = [f"data:image/jpeg;base64,{n}" for n in range(3)]
    page = make_page(rows, pictures, CLASSES, title="<i>", words=["a < b"])
    for raw in ("<sky>", "<b>", "<i>", "<a>", "a < b", "http", "href", "<script"):
        assert raw not in page
    assert "&lt;sky&gt;" in page
    assert "40 of 48 pixels" in page
    assert "columns 10 to 17, rows 20 to 25" in page
    assert page.index(pictures[0]) < page.index(pictures[1]) < page.index(pictures[2])
    assert page.count("a planted error") == 1
    assert page.count("nothing was planted here") == 1
    empty = make_page([], [], CLASSES, title="t", words=[])
    assert "Nothing is doubted" in empty
