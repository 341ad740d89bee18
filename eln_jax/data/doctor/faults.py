"""What can be wrong with a data set: every kind of fault, how grave it is, and what to do."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import NamedTuple

# In the order of gravity: an error stops or spoils a training, a warning may well be meant, a note
# says how something will be read.
SEVERITIES = ("error", "warning", "note")

# The parts that images play, as fields of a partition and as words.
PARTS = ("labeled", "unlabeled", "val")
PART_NAMES = {"labeled": "labelled", "unlabeled": "unlabelled", "val": "validation"}


@dataclasses.dataclass(frozen=True)
class Fault:
    """One thing that is wrong with one file.

    Attributes:
      file: Path of the file, as a source's `location` has it; "(class NAME)" or "(PART images)"
        where it is about none.
      fault: A key of `KINDS`.
      severity: "error", "warning" or "note".
      detail: What was found there.
      remedy: What to do about it.
    """

    file: str
    fault: str
    severity: str
    detail: str
    remedy: str


class Kind(NamedTuple):
    """What all faults of a kind have in common."""

    severity: str
    remedy: str


KINDS = {
    # Files that cannot be read.
    "unreadable file": Kind("error", "put the file there, or give the right to read it"),
    "corrupt image": Kind("error", "replace the file by an intact copy, or take it out"),
    "truncated image": Kind("error", "copy or download the file again, or take it out"),
    "unsupported image": Kind("error", "convert it to 8 bits a channel, grey or RGB"),
    "decompression bomb": Kind("error", "scale the picture down or cut it into tiles"),
    "corrupt mask": Kind("error", "replace the mask by an intact copy, or take it out"),
    "unsupported mask": Kind("error", "save it as an 8-bit grey, palette or RGB PNG"),
    "mask format": Kind(
        "error",
        "export it anew as PNG from where it was drawn: JPEG and WebP change the values of pixels, "
        "GIF numbers ids anew",
    ),
    # Masks that say nothing sensible about their image.
    "size mismatch": Kind("error", "give image and mask the same size, or the right mask"),
    "mask fits both ways": Kind(
        "error", "save the image upright and without the EXIF mark, so that the mask lies for sure"
    ),
    "label out of range": Kind(
        "error",
        "correct the mask, raise data.num_classes, or list the value in data.void_labels if it "
        "means void",
    ),
    "colours without a map": Kind(
        "error",
        "say which colour is which class in a classes.txt beside the images, as '1 cat #800000', "
        "with data.num_classes=0; or save class ids",
    ),
    "unknown colour": Kind(
        "error", "add the colour to the list of classes or of void, or correct the mask"
    ),
    # Files that do not belong together.
    "image without mask": Kind(
        "error", "add the mask of the same name, or take the image out of the labelled and val ones"
    ),
    "mask without image": Kind(
        "error", "add the image of the same name, correct the name, or remove the mask"
    ),
    "duplicate name": Kind("error", "rename or remove one of the two"),
    "missing image": Kind("error", "add the image, or take the id out of the list of the split"),
    "unknown id": Kind("error", "correct the line of the list, or add the image"),
    "image in two parts": Kind(
        "error",
        "take the image out of one of the two lists, or name a list of labelled images with its "
        "suffix .txt: then all others are unlabelled",
    ),
    "empty split": Kind("error", "put images (and masks) there, or name another split or share"),
    "draw failed": Kind("error", "repair the mask, or set data.labeled_balanced=false"),
    "leakage": Kind(
        "error", "take the picture out of the training images: scores on it would be flattered"
    ),
    # What can be read, but perhaps not as meant.
    "labelled and unlabelled": Kind("warning", "take the picture out of the unlabelled images"),
    "identical images": Kind("warning", "keep one of them, unless it is meant to count twice"),
    "mask entirely void": Kind("warning", "draw it, or take its image out: it teaches nothing"),
    "class not labelled": Kind(
        "warning", "label an image that shows the class: without one it cannot be learnt"
    ),
    "unused ids": Kind(
        "warning",
        "repaint the mask if its id is a slip, or add the id to data.void_labels, or list the "
        "classes in a classes.txt beside the images, a line each, as '1 cat'",
    ),
    "very large image": Kind("warning", "scale it down or cut it into tiles: it is slow to read"),
    "16-bit image": Kind("warning", "convert it to 8 bits yourself if its values need a stretch"),
    "CMYK image": Kind("warning", "convert it to RGB with its colour profile"),
    "alpha channel": Kind("warning", "lay it over a background if what is transparent matters"),
    "EXIF-rotated image": Kind("warning", "look whether it is upright with its mask in the report"),
    "smaller than the crop": Kind(
        "warning", "lower crop_size, or let it be: the rest of a crop is padding without a loss"
    ),
    "unusual aspect": Kind("warning", "look whether the picture belongs to the data set"),
    "greyscale image": Kind("note", "nothing, if it is meant: grey is read as red, green and blue"),
    "check incomplete": Kind("note", "python -m eln_jax.check_data looks at everything"),
}


# What makes other images take the place of a training image, up to data.max_unreadable.
UNREADABLE_KINDS = (
    "unreadable file",
    "corrupt image",
    "truncated image",
    "decompression bomb",
    "corrupt mask",
)


def make_fault(kind: str, file: object, detail: str) -> Fault:
    """Returns a fault of a kind of `KINDS`."""
    return Fault(str(file), kind, KINDS[kind].severity, detail, KINDS[kind].remedy)


def in_order(faults: Iterable[Fault]) -> tuple[Fault, ...]:
    """Sorts by severity, kind and file, without what was found twice."""
    kinds = list(KINDS)

    def rank(fault: Fault) -> tuple:
        return SEVERITIES.index(fault.severity), kinds.index(fault.fault), fault.file, fault.detail

    return tuple(sorted(set(faults), key=rank))


def by_kind(faults: Iterable[Fault]) -> Iterator[tuple[str, list[Fault]]]:
    """Yields the kinds in the order of the faults, each with its faults."""
    groups: dict[str, list[Fault]] = {}
    for fault in faults:
        groups.setdefault(fault.fault, []).append(fault)
    yield from groups.items()


def summary_lines(faults: Iterable[Fault], root: str = "") -> list[str]:
    """Says in a line a kind how many there are, the first of them, and what to do.

    For example "error: truncated image, 3 times, such as a.png (image file is truncated): copy or
    download the file again, or take it out."

    Args:
      faults: What was found.
      root: Folder that paths are shown below, to keep them short.
    """
    lines = []
    for kind, group in by_kind(in_order(faults)):
        first = group[0]
        number = f", {len(group)} times, such as" if len(group) > 1 else ":"
        file, detail = shorten(first.file, root), shorten(first.detail, root)
        lines.append(f"{first.severity}: {kind}{number} {file} ({detail}): {first.remedy}.")
    return lines


def shorten(text: str, root: str) -> str:
    """Takes the root out of the paths in a text, and out of names what cannot be printed."""
    text = text.replace(f"{root.rstrip('/')}/", "") if root else text
    return text.encode(errors="replace").decode()  # a name may hold bytes that are no text
