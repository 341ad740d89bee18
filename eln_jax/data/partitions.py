"""Which images are labelled, which are not, and which are for validation."""

import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from eln_jax.data.decoding import IMAGE_SUFFIXES
from eln_jax.data.protocols import fetch_protocol, is_protocol
from eln_jax.data.sources import FileSource, Source
from eln_jax.data.threads import thread_pool
from eln_jax.errors import UserError, did_you_mean

_log = logging.getLogger(__name__)


class Partition(NamedTuple):
    """Indices into one source, sorted; no two of the three share an image."""

    labeled: tuple[int, ...]
    unlabeled: tuple[int, ...]
    val: tuple[int, ...] = ()


def make_partition(
    source: Source,
    labeled: Sequence[int],
    *,
    unlabeled: Sequence[int] | None = None,
    val: Sequence[int] = (),
    train: Sequence[int] | None = None,
) -> Partition:
    """Checks and completes a partition.

    Args:
      source: The source that holds the images.
      labeled: Indices of the images to train on with their labels.
      unlabeled: Indices of the images to train on without; all the others of `train` if None.
      val: Indices of the images to evaluate on, if they come from the same source.
      train: Indices of the training images; all but those of `val` if None.

    Raises:
      UserError: Nothing is labelled, an image plays two parts, or a labelled or validation image
        has no mask.
    """
    parts = {"labelled": set(labeled), "validation": set(val)}
    if unlabeled is None:
        pool = range(len(source)) if train is None else train
        parts["unlabelled"] = set(pool) - parts["labelled"] - parts["validation"]
    else:
        parts["unlabelled"] = set(unlabeled)
    if not parts["labelled"]:
        raise UserError(
            "no image is labelled: give at least one image with a mask, in the list of labelled "
            "images or by a larger fraction or count."
        )
    for first, second in (
        ("labelled", "unlabelled"),
        ("labelled", "validation"),
        ("unlabelled", "validation"),
    ):
        _refuse_overlap(source, first, parts[first], second, parts[second])
    for name in ("labelled", "validation"):
        _refuse_without_mask(source, name, parts[name])
    return Partition(
        labeled=tuple(sorted(parts["labelled"])),
        unlabeled=tuple(sorted(parts["unlabelled"])),
        val=tuple(sorted(parts["validation"])),
    )


def _refuse_overlap(
    source: Source, first: str, first_part: set[int], second: str, second_part: set[int]
) -> None:
    shared = sorted(first_part & second_part)
    if not shared:
        return
    remedy = "take it out of one of them"
    if second == "unlabelled":
        remedy += ", or give no list of unlabelled images to use all the others"
    raise UserError(
        f"{len(shared)} image(s) would be both {first} and {second}, such as "
        f"{source.ids[shared[0]]!r}: {remedy}."
    )


def _refuse_without_mask(source: Source, name: str, part: set[int]) -> None:
    missing = [index for index in sorted(part) if not source.has_label(index)]
    if missing:
        raise UserError(
            f"{len(missing)} {name} image(s) have no mask, such as {source.ids[missing[0]]!r}: add "
            f"the masks, or take the images out of the {name} ones."
        )


def shared_images(train: Source, val: Source, partition: Partition) -> list[int]:
    """Lists the training images that a validation split of its own holds, and scores, as well."""
    if val is train:
        return []  # make_partition has seen to it
    # Folders of links are a usual way to make splits.
    scored = {os.path.realpath(val.location(index)) for index in partition.val}
    used = sorted((*partition.labeled, *partition.unlabeled))
    return [index for index in used if os.path.realpath(train.location(index)) in scored]


def draw_partition(
    source: Source,
    *,
    seed: int,
    fraction: float | None = None,
    count: int | None = None,
    val_fraction: float = 0.0,
    train: Sequence[int] | None = None,
    balanced: bool = False,
) -> Partition:
    """Draws the labelled images, and validation images if asked, among those that have a mask.

    With one seed, a smaller draw is a part of a larger one.

    Args:
      source: The source that holds the images.
      seed: Another seed is another draw.
      fraction: Share of the training images with a mask to count as labelled, 0 to 1.
      count: Number of labelled images; instead of `fraction`.
      val_fraction: Share of the images with a mask to keep for validation, 0 to 1.
      train: Indices to draw from; all if None.
      balanced: Whether to choose so that the rarest class is in as many labelled images as can be;
        reads the masks of all the images drawn from.

    Raises:
      UserError: The share or number is impossible, or comes to no image at all.
    """
    if (fraction is None) == (count is None):
        raise UserError("give either the fraction or the count of labelled images, not both.")
    for name, share in (("fraction", fraction), ("val_fraction", val_fraction)):
        if share is not None and not 0 <= share <= 1:
            raise UserError(f"{name} is {share}: give a share from 0 to 1.")
    pool = range(len(source)) if train is None else train
    masked = [index for index in sorted(pool) if source.has_label(index)]
    if not masked:
        raise UserError(_without_masks(source))
    order = [masked[place] for place in np.random.default_rng(seed).permutation(len(masked))]
    num_val = max(round(val_fraction * len(masked)), 1 if val_fraction else 0)
    val, rest = order[:num_val], order[num_val:]
    if not rest:
        raise UserError(
            f"data.val_fraction={val_fraction} takes {num_val} of the {len(masked)} training "
            "image(s) with a mask for validation, which leaves none to count as labelled: add "
            "masks for more images, or take a smaller share."
        )
    wanted = count if count is not None else round((fraction or 0.0) * len(rest))
    if not 1 <= wanted <= len(rest):
        asked = f"count {count}" if count is not None else f"fraction {fraction}"
        raise UserError(
            f"{asked} of labelled images comes to {wanted}, but {len(rest)} training image(s) have "
            "a mask: ask for at least one and at most all of them."
        )
    if balanced:
        rest = _balanced_order(source, rest, wanted)
    return make_partition(source, rest[:wanted], val=val, train=pool)


def _without_masks(source: Source) -> str:
    """Says that no training image has a mask, and why if the masks have other names."""
    if isinstance(source, FileSource) and source.stray_masks:
        stray = source.stray_masks
        return (
            f"none of the training images has a mask, and {len(stray)} mask(s) have the name of no "
            f"image, such as {stray[0]}: give a mask the name of its image, as {source.ids[0]}.png "
            f"for {source.location(0)}."
        )
    return "none of the training images has a mask: add masks for the images to count as labelled."


def _balanced_order(source: Source, order: list[int], count: int) -> list[int]:
    """Picks images so that each next one holds the class that the ones before hold least often."""

    def classes(index: int) -> np.ndarray:
        pixels = np.bincount(source.read_label(index).ravel(), minlength=256)
        return pixels[: source.num_classes] > 0

    with thread_pool() as pool:
        holds = np.array(list(pool.map(classes, order)))
    left, chosen = np.ones(len(order), bool), []
    times = np.zeros(source.num_classes, int)
    while len(chosen) < count:
        remaining = holds[left].any(0)
        # The first in the random order that holds the class seen least; any, if all hold nothing.
        rarest = np.where(remaining, times, len(order) + 1).argmin()
        wanted = left & holds[:, rarest] if remaining.any() else left
        place = int(wanted.argmax())
        left[place] = False
        times += holds[place]
        chosen.append(order[place])
    return chosen


def partition_files(path: str | os.PathLike[str]) -> tuple[Path, Path | None]:
    """Finds the list files that a short name stands for.

    Args:
      path: The list of labelled images as its file is named, which then stands alone; or, without
        the suffix `.txt`, the first of a pair as in `8_labeled_0` and `8_unlabeled_0`; or the name
        of a published pair, as in `ssl_eln/voc/8_labeled_0`.

    Returns:
      The list of labelled images, and the list of unlabelled ones if there is one.

    Raises:
      UserError: There is no such list.
    """
    if is_protocol(str(path)) and not any(Path(f"{path}{s}").is_file() for s in ("", ".txt")):
        return fetch_protocol(str(path))
    path = Path(path)
    if path.suffix == ".txt" or path.is_file():
        labeled, unlabeled = path, None
    else:
        labeled = path.with_name(path.name + ".txt")
        name = labeled.name.replace("labeled", "unlabeled", 1)
        unlabeled = labeled.with_name(name) if name != labeled.name else None
    if not labeled.is_file():
        known = sorted(file.name for file in labeled.parent.glob("*.txt"))
        raise UserError(
            f"there is no list of labelled images {labeled}; give a text file with one id a "
            "line." + did_you_mean(labeled.name, known)
        )
    return labeled, unlabeled if unlabeled is not None and unlabeled.is_file() else None


def read_list(path: str | os.PathLike[str], source: Source) -> list[int]:
    """Reads a list file: one id a line; blank lines and lines starting with `#` are passed over.

    An entry may carry a suffix (`a.jpg`), a path before the id (`images/train/a`), or a second
    column (`/JPEGImages/a.jpg /SegmentationClass/a.png`). An id listed twice counts once, and the
    log says so.

    Args:
      path: The file.
      source: The source whose images it lists.

    Returns:
      Indices into the source, in the order of the file.

    Raises:
      UserError: The file cannot be read, or lists an image that the source does not have.
    """
    indices: list[int] = []
    for number, entry, index in list_entries(path, source):
        if index is None:
            raise UserError(
                f"{path}, line {number}, lists {entry!r}, which is no image of the data set; "
                "correct the line or add the image." + nearest_id(entry, source)
            )
        indices.append(index)
    repeated = sum(times - 1 for times in Counter(indices).values())
    if repeated:
        _log.warning("%s lists %d image(s) more than once; each counts once.", path, repeated)
    return list(dict.fromkeys(indices))


def list_entries(path: str | os.PathLike[str], source: Source) -> list[tuple[int, str, int | None]]:
    """Reads a list file as `read_list` does, and goes on where an entry names no image.

    Returns:
      Of each entry the number of its line, its text, and its index into the source or None.

    Raises:
      UserError: The file cannot be read.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"the list {path} cannot be read ({error}): give a text file with one id a line."
        ) from error
    index_of = {key: index for index, key in enumerate(source.ids)}
    return [
        (number, entry, _find(entry, index_of))
        for number, entry in enumerate(map(str.strip, lines), 1)
        if entry and not entry.startswith("#")
    ]


def nearest_id(entry: str, source: Source) -> str:
    """Returns a sentence with the id that an entry may have meant; empty if none is near."""
    return did_you_mean(_without_suffix(entry), source.ids)


def _without_suffix(entry: str) -> str:
    stem, suffix = os.path.splitext(entry)  # noqa: PTH122 - ids are not paths of this machine
    stem = stem if suffix.lower() in IMAGE_SUFFIXES else entry
    return stem.removesuffix("_leftImg8bit")  # some lists of Cityscapes name whole files


def _find(entry: str, index_of: dict[str, int]) -> int | None:
    """Finds an entry whole, or its first column, with less and less of the path before it."""
    for column in (entry, entry.split()[0]):
        parts = _without_suffix(column).replace("\\", "/").split("/")
        # The entry as it stands goes first: an id may end in what looks like a suffix.
        for candidate in (column, *("/".join(parts[start:]) for start in range(len(parts)))):
            if candidate in index_of:
                return index_of[candidate]
    return None
