"""A small clean data set, the ways to spoil it, and what an examination should then find."""

import struct
import zlib

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from eln_jax.defaults import default_config

SHAPE, CROP, CLASSES = (30, 40), (24, 24), 4
PARTS = {"labeled": "abcde", "unlabeled": "klmn", "val": "vwxy"}
# The first image of each part is left as it is, so that parts and median stay what they are.
PLACES = [(part, name) for part, names in PARTS.items() for name in names[1:]]
MASKED = [place for place in PLACES if place[0] != "unlabeled"]


def bands(shape=SHAPE, values=(0, 1, 2)):
    """A mask that holds each value and some void, and is no turned twin of itself."""
    mask = np.full(shape, values[0], np.uint8)
    mask[-1, -3:] = 255
    for number, value in enumerate(values):
        mask[2 * number : 2 * number + 2, : 5 + number] = value
    return mask


def png(height, width, bits, rows):
    """Bytes of an RGB PNG of any depth, whose header may promise more than there is."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


HUGE = png(20_000, 20_000, 8, [])  # far more pixels than anyone should decode


class World:
    """A small clean data set to spoil; keeps account of what should be found."""

    def __init__(self, root):
        self.root = root
        self.parts = {part: list(names) for part, names in PARTS.items()}
        self.image, self.mask, self.content = {}, {}, {}
        self.expected: set[tuple[str, str]] = set()
        for part, names in PARTS.items():
            split = "val" if part == "val" else "train"
            for name in names:
                self.image[name] = root / "images" / split / f"{name}.png"
                self.mask[name] = root / "masks" / split / f"{name}.png"
                for path in (self.image[name], self.mask[name]):
                    path.parent.mkdir(parents=True, exist_ok=True)
                self.content[name] = name
                self.draw(name).save(self.image[name])
                if part == "unlabeled":
                    self.mask[name].write_bytes(b"not to be opened")
                else:
                    self.save_mask(name, bands())
        for part in ("labeled", "unlabeled"):
            (root / f"2_{part}_0.txt").write_text("\n".join(PARTS[part]) + "\n")

    def draw(self, name, shape=SHAPE):
        pixels = np.random.default_rng(ord(name)).integers(0, 256, (*shape, 3), dtype=np.uint8)
        return Image.fromarray(pixels)

    def save_mask(self, name, mask, suffix=".png"):
        self.mask[name].unlink(missing_ok=True)
        self.mask[name] = self.mask[name].with_suffix(suffix)
        Image.fromarray(mask).save(self.mask[name])

    def replace(self, name, suffix=".png"):
        self.image[name].unlink()
        self.image[name] = self.image[name].with_suffix(suffix)
        return self.image[name]

    def expect(self, path, *kinds):
        self.expected |= {(str(path), kind) for kind in kinds}

    def reshape(self, name, shape):
        self.draw(name, shape).save(self.image[name])
        if name not in self.parts["unlabeled"]:
            self.save_mask(name, bands(shape))

    def data(self):
        data = default_config().data
        data.root, data.num_classes = str(self.root), CLASSES
        data.partition = str(self.root / "2_labeled_0")
        return data

    def expect_twins(self):
        """Adds what the contents say about identical images, pair by pair."""
        where = [(part, name) for part, names in self.parts.items() for name in names]
        for number, (part, name) in enumerate(where):
            for other_part, other in where[number + 1 :]:
                if self.content[name] != self.content[other] or self.content[name] is None:
                    continue
                if part == other_part:
                    self.expect(self.image[other], "identical images")
                elif other_part == "val":
                    self.expect(self.image[name], "leakage")
                else:
                    self.expect(self.image[other], "labelled and unlabelled")


def spoil_bytes(kind, change):
    def plant(world, name):
        data = world.image[name].read_bytes()
        world.image[name].write_bytes(change(data))
        world.content[name] = None
        world.expect(world.image[name], kind)

    return plant


def save_as(mode, suffix, *kinds):
    def plant(world, name):
        picture = world.draw(name).convert("L" if mode in ("I;16", "F") else mode)
        if mode == "I;16":
            picture = Image.fromarray(np.asarray(picture).astype(np.uint16) * 257)
        picture = picture.convert("F") if mode == "F" else picture
        picture.save(world.replace(name, suffix))
        world.content[name] = None
        world.expect(world.image[name], *kinds)

    return plant


def mark_turned(world, name, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    world.draw(name).save(world.image[name], exif=exif)
    world.content[name] = None
    world.expect(world.image[name], "EXIF-rotated image")
    return exif


def turned(world, name):
    mark_turned(world, name, 6)  # so that image and mask both have to be turned


def turned_both_ways(world, name):
    mark_turned(world, name, 3)
    world.expect(world.mask[name], "mask fits both ways")


def turned_with_its_mask(world, name):
    exif = mark_turned(world, name, 3)
    Image.fromarray(bands()).save(world.mask[name], exif=exif)


def deep_colors(world, name):
    rows = np.asarray(world.draw(name)).astype(">u2") * 257
    world.image[name].write_bytes(png(*SHAPE, 16, [row.tobytes() for row in rows]))
    world.content[name] = None
    world.expect(world.image[name], "16-bit image")


def small(world, name):
    world.reshape(name, (20, 26))
    world.content[name] = None
    if name not in world.parts["val"]:
        world.expect(world.image[name], "smaller than the crop")


def wide(world, name):
    world.reshape(name, (24, 120))
    world.content[name] = None
    world.expect(world.image[name], "unusual aspect")


def gone(world, name):
    world.image[name].unlink()
    world.image[name].symlink_to(world.root / "nowhere.png")
    world.content[name] = None
    world.expect(world.image[name], "unreadable file")


def copy_of(first):
    def plant(world, name):
        picture = Image.open(world.image[first])
        picture.load()
        picture.save(world.replace(name, ".bmp"))  # other bytes, the same pixels
        world.content[name] = first

    return plant


def second_file(world, name):
    other = world.image[name].with_suffix(".tif")
    world.draw("z").save(other)
    world.expect(other, "duplicate name")


def spoil_mask(kind, mask, suffix=".png"):
    def plant(world, name):
        world.save_mask(name, mask, suffix)
        world.expect(world.mask[name], kind)

    return plant


def mask_bytes(kind, change):
    def plant(world, name):
        world.mask[name].write_bytes(change(world.mask[name].read_bytes()))
        world.expect(world.mask[name], kind)

    return plant


def hidden_jpeg(world, name):
    Image.fromarray(bands()).save(world.mask[name], "JPEG")
    world.expect(world.mask[name], "mask format")


def no_mask(world, name):
    world.mask[name].unlink()
    world.expect(world.image[name], "image without mask")
    if name in world.parts["val"]:  # a split's images without a mask are not scored
        world.parts["val"].remove(name)


def stray_mask(world, name):
    path = world.mask[name].with_name("nobody.png")
    path.write_bytes(b"whose?")
    world.expect(path, "mask without image")


def class_of_val_alone(world, name):
    world.save_mask(name, bands(values=(0, 1, 3)))
    world.expect("(class 3)", "class not labelled")


def stray_id(world, name):
    """Not among PLANTS: it matters only where the masks decide which classes there are."""
    world.save_mask(name, bands(values=(0, 1, 9)))
    world.expect(world.mask[name], "unused ids")
    world.expect("(class 9)", "class not labelled")


def unknown_id(world, name):
    part = "unlabeled" if name in world.parts["unlabeled"] else "labeled"
    path = world.root / f"2_{part}_0.txt"
    path.write_text(path.read_text() + f"no{name}\n")
    world.expect(path, "unknown id")


def listed_twice(world, name):
    path = world.root / "2_labeled_0.txt"
    path.write_text(path.read_text() + f"{name}.png\n")
    world.mask[name].unlink()  # labelled from now on, so it would be opened
    Image.fromarray(bands()).save(world.mask[name])
    world.expect(world.image[name], "image in two parts")
    world.parts["labeled"].append(name)
    world.parts["unlabeled"].remove(name)


HOLE = np.dstack([np.zeros((*SHAPE, 3), np.uint8), bands()])
NINE = bands(values=(0, 1, 9))
ANY = {
    "corrupt": spoil_bytes("corrupt image", lambda data: b"\x89PNG\r\n\x1a\n" + data[40:]),
    "empty": spoil_bytes("corrupt image", lambda _: b""),
    "cut": spoil_bytes("truncated image", lambda data: data[: len(data) * 2 // 3]),
    "bomb": spoil_bytes("decompression bomb", lambda _: HUGE),
    "16 bits": save_as("I;16", ".png", "16-bit image", "greyscale image"),
    "grey": save_as("L", ".jpg", "greyscale image"),
    "cmyk": save_as("CMYK", ".jpg", "CMYK image"),
    "alpha": save_as("RGBA", ".png", "alpha channel"),
    "float": save_as("F", ".tif", "unsupported image"),
    **{f.__name__: f for f in (turned, deep_colors, small, gone, second_file)},
    **{f"copy of {first}": copy_of(first) for first in "akv"},
}
MASK = {
    "corrupt mask": mask_bytes("corrupt mask", lambda _: b"GIF89a"),
    "cut mask": mask_bytes("corrupt mask", lambda data: data[:-30]),
    "bomb mask": mask_bytes("decompression bomb", lambda _: HUGE),
    "size": spoil_mask("size mismatch", bands((30, 39))),
    "range": spoil_mask("label out of range", NINE),
    "colours": spoil_mask("colours without a map", np.dstack([bands()] * 3)),
    "void": spoil_mask("mask entirely void", np.full(SHAPE, 255, np.uint8)),
    "jpeg": spoil_mask("mask format", bands(), ".jpg"),
    "transparent": spoil_mask("unsupported mask", HOLE),
    **{f.__name__: f for f in (hidden_jpeg, no_mask, stray_mask)},
    **{f.__name__: f for f in (turned_both_ways, turned_with_its_mask)},
}
TRAIN = {"unknown_id": unknown_id}
UNLABELED, VAL = {"listed_twice": listed_twice}, {"class_of_val_alone": class_of_val_alone}
FEW = {"wide": wide}  # of which many would be the usual
PLANTS = ANY | MASK | TRAIN | UNLABELED | VAL | FEW


def choices(part, name=""):
    """The faults that a part, or one of its images, can have."""
    allowed = [ANY, UNLABELED if part == "unlabeled" else MASK, VAL if part == "val" else TRAIN]
    allowed += [FEW] if name in "blw" else []
    return sorted(fault for faults in allowed for fault in faults)


@st.composite
def plans(draw):
    spoiled = draw(st.lists(st.sampled_from(PLACES), unique=True, max_size=len(PLACES)))
    return {place: draw(st.sampled_from(choices(*place))) for place in spoiled}


def covering_plans():
    """A few plans in which each fault is planted in each part once at least."""
    plans = []
    for part, names in PARTS.items():
        places = names[1:]
        faults = choices(part)
        for number, fault in enumerate(faults):
            row, column = divmod(number, len(places))
            plans += [{}] * (row + 1 - len(plans))
            plans[row] = plans[row] | {(part, places[column]): fault}
    return plans
