"""The document that every page is: closed tags, escaped text, pictures inside."""

import base64
from io import BytesIO

import pytest
from PIL import Image

from eln_jax import html_page
from tests.evaluation.samples import Reader


def test_a_document_is_whole_and_asks_for_nothing():
    page = html_page.make_document("a <b> & c", ["<h1>one</h1>", "<p>two</p>"])
    reader = Reader(page)
    assert reader.text.split() == ["a", "<b>", "&", "c", "one", "two"]
    assert not reader.fetched
    assert "width=device-width" in page
    for words in ("http", "url(", "@import", "<script", "<link"):
        assert words not in page


def test_the_style_sheet_closes_what_it_opens():
    style = html_page.make_document("", []).partition("<style>")[2].partition("</style>")[0]
    depth = 0
    for sign in style:
        depth += {"{": 1, "}": -1}.get(sign, 0)
        assert 0 <= depth <= 2
    assert depth == 0
    for colour in ("--blue", "--ink", "--card"):  # light and dark
        assert style.count(f"{colour}:") == 2


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ('<a href="x">&', "&lt;a href=&quot;x&quot;&gt;&amp;"),
        ("größer", "größer"),
        ("bad\udcff.png", "bad?.png"),  # a file's name that is no text
        (7, "7"),
    ],
)
def test_text_is_escaped(text, escaped):
    assert html_page.escape(text) == escaped


def test_heads_of_a_table_are_text_and_cells_are_html():
    html = html_page.table(("<x>",), [["<i>1</i>"]])
    assert "<th>&lt;x&gt;</th>" in html
    assert "<td><i>1</i></td>" in html


def test_a_picture_is_inside_the_page():
    picture = Image.new("RGB", (30, 20), (200, 100, 0))
    html = html_page.figure(html_page.data_url(picture), "what <b>it</b> is")
    (address,) = Reader(html).fetched
    head, _, content = address.partition(",")
    assert head == "data:image/jpeg;base64"
    with Image.open(BytesIO(base64.b64decode(content))) as read:
        assert read.size == (30, 20)
        assert read.getpixel((15, 10)) == pytest.approx((200, 100, 0), abs=6)
