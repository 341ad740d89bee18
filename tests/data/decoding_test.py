import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from eln_jax.data.decoding import decode_image, decode_mask, image_geometry, match_orientation
from eln_jax.errors import UserError

ORIENTATION = 0x0112


def stored(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return file


def turned_jpeg(orientation, size=(40, 24)):
    ramp = np.linspace(0, 255, size[0] * size[1]).reshape(size[1], size[0]).astype(np.uint8)
    image = Image.fromarray(np.dstack([ramp, ramp.T.reshape(ramp.shape), 255 - ramp]))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return stored(image, "JPEG", quality=95, exif=exif.tobytes())


def raw_png(bits, rows, width):
    """Writes a grey PNG by hand, since Pillow writes no 2- and 4-bit greys."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, len(rows), bits, 0, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows))
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", body), chunk(b"IEND", b"")]
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


RGB = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_lossless_rgb_comes_back_as_stored(kind):
    np.testing.assert_array_equal(decode_image(stored(Image.fromarray(RGB), kind)), RGB)


def test_grey_and_transparent_pictures_become_rgb():
    grey = RGB[..., 0]
    alpha = np.full_like(grey, 7)
    three = np.repeat(grey[..., None], 3, axis=2)
    np.testing.assert_array_equal(decode_image(stored(Image.fromarray(grey), "PNG")), three)
    la = Image.fromarray(np.dstack([grey, alpha]), "LA")
    np.testing.assert_array_equal(decode_image(stored(la, "PNG")), three)
    rgba = Image.fromarray(np.dstack([RGB, alpha]), "RGBA")
    np.testing.assert_array_equal(decode_image(stored(rgba, "PNG")), RGB)


def test_transparent_palette_gives_the_palette_colours_without_a_warning():
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "P")
    colors = [(10, 20, 30), (200, 100, 0), (1, 2, 3)]
    image.putpalette([value for color in colors for value in color])
    file = stored(image, "PNG", transparency=bytes([0, 128, 255]))
    np.testing.assert_array_equal(
        decode_image(file), np.array([[colors[0], colors[1]], [colors[2], colors[1]]])
    )


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_cut_off(kind):
    values = np.array([[0, 128, 257, 300], [25700, 32768, 65407, 65535]], np.uint16)
    expected = np.round(values / 257).astype(np.uint8)
    decoded = decode_image(stored(Image.fromarray(values), kind))
    np.testing.assert_array_equal(decoded, np.repeat(expected[..., None], 3, axis=2))


def test_cmyk_becomes_the_colours_it_prints():
    inks = np.zeros((8, 8, 4), np.uint8)
    inks[:, :, 1] = inks[:, :, 2] = 255  # full magenta and yellow print red
    decoded = decode_image(stored(Image.fromarray(inks, "CMYK"), "JPEG", quality=100))
    assert np.abs(decoded.astype(int) - np.array([[[255, 0, 0]]])).max() <= 3


def test_float_and_too_wide_greys_are_refused():
    with pytest.raises(UserError, match=r"f\.tif.*floating-point"):
        decode_image(stored(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF"), "f.tif")
    with pytest.raises(UserError, match="beyond 16 bits"):
        decode_image(stored(Image.fromarray(np.full((2, 2), 70_000, np.int32)), "TIFF"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_the_image_upright(orientation):
    expected = np.asarray(ImageOps.exif_transpose(Image.open(turned_jpeg(orientation))))
    decoded = decode_image(turned_jpeg(orientation))
    np.testing.assert_array_equal(decoded, expected)
    size, found = image_geometry(turned_jpeg(orientation))
    assert (size, found) == (decoded.shape[:2], orientation)


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_turned_tiff_is_turned_once(orientation):
    def file():
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        return stored(Image.fromarray(RGB), "TIFF", exif=exif)

    quarter_turns = {3: 2, 6: 3}[orientation]
    np.testing.assert_array_equal(decode_image(file()), np.rot90(RGB, quarter_turns))
    assert image_geometry(file())[0] == decode_image(file()).shape[:2]


@pytest.mark.parametrize("orientation", [0, 9])
def test_an_orientation_that_there_is_not_turns_nothing(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    file = stored(Image.fromarray(RGB), "PNG", exif=exif)
    np.testing.assert_array_equal(decode_image(file), RGB)
    assert image_geometry(file) == (RGB.shape[:2], 1)


def test_an_orientation_behind_the_pixels_turns_nothing():
    exif = Image.Exif()
    exif[ORIENTATION] = 3
    data = stored(Image.fromarray(RGB), "PNG", exif=exif).getvalue()
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    last = data.index(b"IEND") - 4
    moved = io.BytesIO(data[:start] + data[end:last] + data[start:end] + data[last:])
    np.testing.assert_array_equal(decode_image(moved), RGB)
    assert image_geometry(moved) == (RGB.shape[:2], 1)


@pytest.mark.filterwarnings("ignore:.*orrupt EXIF data", "ignore:Truncated File Read")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "BMP"])
def test_damaged_files_are_named(kind):
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = stored(Image.fromarray(noise), kind).getvalue()
    for content in (b"", b"no picture at all", whole[:20], whole[: len(whole) // 2]):
        with pytest.raises(UserError, match=r"image some/where\.x cannot be read"):
            decode_image(io.BytesIO(content), "some/where.x")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.png cannot be read"):
        decode_image(tmp_path / "gone.png")
    with pytest.raises(UserError, match=r"gone\.png cannot be read"):
        decode_mask(tmp_path / "gone.png")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_absurdly_large_picture_is_refused(monkeypatch):
    file = stored(Image.fromarray(RGB), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(UserError, match="decompression bomb"):
        decode_image(file)


def test_palette_masks_give_indices_not_colours():
    ids = np.array([[0, 1, 20], [255, 3, 3]], np.uint8)
    image = Image.fromarray(ids, "P")
    image.putpalette(list(np.random.default_rng(0).integers(0, 256, 768)))
    decoded, turned, _ = decode_mask(stored(image, "PNG"))
    np.testing.assert_array_equal(decoded, ids)
    assert decoded.dtype == np.uint8
    assert not turned
    np.testing.assert_array_equal(decode_mask(stored(Image.fromarray(ids), "PNG"))[0], ids)


def test_narrow_greys_give_what_the_file_stores():
    np.testing.assert_array_equal(decode_mask(raw_png(1, [[0b01100000]], 4))[0], [[0, 1, 1, 0]])
    np.testing.assert_array_equal(decode_mask(raw_png(2, [[0b00011011]], 4))[0], [[0, 1, 2, 3]])
    np.testing.assert_array_equal(decode_mask(raw_png(4, [[0x01, 0x9F]], 4))[0], [[0, 1, 9, 15]])


@pytest.mark.parametrize(
    ("pixels", "mode"),
    [
        (np.zeros((2, 2, 4), np.uint8), "RGBA"),
        (np.zeros((2, 2, 2), np.uint8), "LA"),
        (np.full((2, 2), 256, np.uint16), "I;16"),
    ],
)
def test_masks_that_store_neither_ids_nor_colours_are_refused(pixels, mode):
    with pytest.raises(UserError, match=rf"mask m\.png is stored as {mode}.*8-bit grey, palette"):
        decode_mask(stored(Image.fromarray(pixels), "PNG"), "m.png")


@pytest.mark.parametrize("channels", [3, 4])
def test_masks_may_store_colours(channels):
    colors = np.arange(2 * 3 * channels, dtype=np.uint8).reshape(2, 3, channels)
    colors[..., 3:] = 255
    decoded, turned, _ = decode_mask(stored(Image.fromarray(colors), "PNG"))
    np.testing.assert_array_equal(decoded, colors[..., :3])
    assert not turned


def test_sixteen_bit_masks_of_small_ids_are_read():
    ids = np.array([[0, 255], [3, 7]], np.uint16)
    decoded = decode_mask(stored(Image.fromarray(ids), "PNG")).pixels
    np.testing.assert_array_equal(decoded, ids)
    assert decoded.dtype == np.uint8


def test_a_mask_is_turned_with_its_image_where_only_that_fits():
    ids = np.arange(6, dtype=np.uint8).reshape(2, 3)
    upright = match_orientation(ids, (3, 2), 6, False, "m.png")
    np.testing.assert_array_equal(upright, np.rot90(ids, 3))
    # Drawn on the upright picture: it fits as it is.
    assert match_orientation(upright, (3, 2), 6, False, "m.png") is upright
    assert match_orientation(ids, (2, 3), 1, False, "m.png") is ids


def test_a_mask_that_fits_either_way_or_neither_is_refused():
    ids = np.arange(6, dtype=np.uint8).reshape(2, 3)
    with pytest.raises(UserError, match=r"orientation 3.*turned or not"):
        match_orientation(ids, (2, 3), 3, False, "m.png")
    assert match_orientation(ids, (2, 3), 3, True, "m.png") is ids
    same = np.zeros((2, 3), np.uint8)
    np.testing.assert_array_equal(match_orientation(same, (2, 3), 3, False, "m.png"), same)
    with pytest.raises(UserError, match=r"m\.png has 3x2 pixels .* has 5x4"):
        match_orientation(ids, (4, 5), 6, False, "m.png")


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF"])
def test_masks_of_a_format_that_changes_ids_are_refused_whatever_their_name(tmp_path, kind):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "m.png", kind)
    with pytest.raises(UserError, match=rf"m\.png is a {kind}, whatever its name"):
        decode_mask(tmp_path / "m.png")
