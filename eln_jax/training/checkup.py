"""Opens what a configuration names as a training would, but notes what is wrong and goes on.

`eln_jax.training.opening` stops at the first mistake, which is right for a training; someone who
repairs a data set wants to see them all.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from eln_jax.data.builders import DATASETS, voc
from eln_jax.data.classes import ClassList
from eln_jax.data.doctor.checks import images_without_mask, part_text, unused_ids
from eln_jax.data.doctor.faults import PART_NAMES, PARTS, Fault, make_fault
from eln_jax.data.doctor.listing import find_classes_among, list_folder, list_voc, read_entries
from eln_jax.data.labels import LabelCode
from eln_jax.data.partitions import Partition
from eln_jax.data.sources import FileSource, Source
from eln_jax.errors import UserError
from eln_jax.training import opening

_OpenSplit = Callable[[str], tuple[FileSource, list[Fault]]]


class Opened(NamedTuple):
    """What a training would read, as far as it could be opened.

    Attributes:
        train: source of the training images; empty if it could not be opened.
        val: source of the validation images, in the same way; may be the same.
        partition: which image plays which part; images without a mask may be among them.
        faults: what stood in the way.
    """

    train: Source
    val: Source
    partition: Partition
    faults: list[Fault]


def find_classes(data: Any, faults: list[Fault] | None = None) -> tuple[ClassList, str]:
    """As `opening.find_classes`, but passes over what no training could read.

    Args:
        data: the `data` block of a configuration.
        faults: takes what is odd about the classes, which then say nothing of it themselves.
    """

    def open_without_masks(data: Any, code: LabelCode) -> tuple[Source, Source, Partition]:
        return open_all(data, code, balanced=False)[:3]

    try:
        found, origin = opening.find_classes(data, open_without_masks, find_classes_among)
    except UserError:
        opening.find_classes(data)  # where nothing is left, what stops a training says why
        raise
    if faults is None:
        return found, origin
    faults += unused_ids(found)
    return dataclasses.replace(found, gap=None), origin


def open_all(data: Any, code: LabelCode | None = None, *, balanced: bool | None = None) -> Opened:
    """Opens sources and partition.

    Args:
        data: the `data` block of a configuration.
        code: what the masks of a folder mean; as the configuration says if None.
        balanced: stands in for `data.labeled_balanced`, which needs the masks read.

    Raises:
        UserError: so much is wrong that nothing can be looked at, such as a missing folder.
    """
    faults: list[Fault] = []
    try:
        train, val = opening.open_sources(data, code)
    except UserError:
        if data.source not in ("folder", *DATASETS):
            raise
        train, val, faults = _open_splits(data, code)
        if not faults:  # or the report would tell nothing of it
            raise
    if balanced is None:
        balanced = bool(data.labeled_balanced)
    try:
        chosen = opening.choose_partition(data, train, val, balanced=balanced)
    except UserError:
        chosen, found = _choose(data, train, val, balanced)
        faults += found
        if not faults and not any(images_without_mask(train, val, chosen)):
            raise
    return Opened(train, val, chosen, faults)


def _open_splits(data: Any, code: LabelCode | None) -> tuple[FileSource, FileSource, list[Fault]]:
    """Opens each split; where one of two cannot be, an empty source stands in for it."""
    open_split, splits = _opener(data, code)
    opened: dict[str, FileSource] = {}
    errors: dict[str, UserError] = {}
    faults: list[Fault] = []
    for part, split in zip(("labeled", "val"), splits, strict=False):
        try:
            opened[part], found = open_split(split)
            faults += found
        except UserError as error:
            errors[part] = error
    if not opened:
        raise errors["labeled"]
    sources = list(opened.values())
    for part, error in errors.items():
        empty = FileSource(
            (),
            sources[0].code,
            class_names=sources[0].class_names,
            description={"kind": "none"},
        )
        sources.insert(0 if part == "labeled" else 1, empty)
        faults.append(_empty_split(part, error))
    return sources[0], sources[-1], faults


def _opener(data: Any, code: LabelCode | None) -> tuple[_OpenSplit, tuple[str, ...]]:
    """Returns what opens a split and notes its faults, and the names of the splits."""
    if data.source == "folder":
        code = code or opening.folder_code(data)

        def open_folder(split: str) -> tuple[FileSource, list[Fault]]:
            return list_folder(data.root, code, **opening.folder_names(data), split=split)

        return open_folder, opening.folder_splits(data)

    def open_published(split: str) -> tuple[FileSource, list[Fault]]:
        if data.source == voc.NAME:
            return list_voc(data.root, split, data.ignore_label)
        return DATASETS[data.source].open_split(data.root, split, data.ignore_label), []

    return open_published, (data.train_split, data.val_split)


def _choose(data: Any, train: Source, val: Source, balanced: bool) -> tuple[Partition, list[Fault]]:
    """As `opening.choose_partition`, but what stands in the way becomes faults."""
    faults: list[Fault] = []

    def read(path: str | Path, source: Source) -> list[int]:
        indices, found = read_entries(path, source)
        faults.extend(found)
        return indices

    listed, pool = opening.split_off(data, train, val, read)
    if data.partition and len(train):
        labeled, unlabeled = opening.listed_parts(data, train, read)
        if unlabeled is None:
            unlabeled = sorted(set(pool) - set(labeled))
        if not labeled:
            faults.append(make_fault("empty split", part_text("labeled"), "the list names none"))
    else:
        drawn = _draw(data, train, pool, balanced, faults)
        labeled, unlabeled, listed = drawn.labeled, drawn.unlabeled, drawn.val or listed
    scored = opening.scored_images(train, val, listed)
    if len(val) and not any(val.has_label(index) for index in scored):
        faults.append(make_fault("empty split", part_text("val"), "none of them has a mask"))
    labeled, unlabeled = tuple(labeled), tuple(unlabeled)
    return _disjoint(train, val, Partition(labeled, unlabeled, scored), faults), faults


def _draw(
    data: Any, train: Source, pool: list[int], balanced: bool, faults: list[Fault]
) -> Partition:
    """Draws the labelled images, by chance alone where the masks do not allow a balanced draw."""
    if not len(train):
        return Partition((), ())  # told as it was opened
    found = []
    for balance in (True, False) if balanced else (False,):
        try:
            drawn = opening.draw(data, train, pool, balance)
        except UserError as error:
            # Only what a draw by chance does not suffer from is to be told of a balanced one.
            failed = make_fault("draw failed", part_text("labeled"), str(error))
            found = [failed if balance else _empty_split("labeled", error)]
        else:
            break
    else:
        drawn = Partition((), tuple(pool))
    faults += found
    return drawn


def _empty_split(part: str, error: UserError) -> Fault:
    """Makes a fault of a mistake's sentence, which itself says after a colon what to do."""
    what, _, remedy = str(error).removesuffix(".").rpartition(": ")
    fault = make_fault("empty split", part_text(part), what or remedy)
    return dataclasses.replace(fault, remedy=remedy) if what else fault


def _disjoint(train: Source, val: Source, partition: Partition, faults: list[Fault]) -> Partition:
    """Leaves an image in the first of its parts, and notes the others."""
    part_of: dict[str, str] = {}
    kept: dict[str, list[int]] = {part: [] for part in PARTS}
    for part in ("labeled", "val", "unlabeled"):
        source = val if part == "val" else train
        for index in getattr(partition, part):
            file = source.location(index)
            first = part_of.setdefault(file, part)
            if first == part:
                kept[part].append(index)
            else:
                detail = f"both {PART_NAMES[first]} and {PART_NAMES[part]}"
                faults.append(make_fault("image in two parts", file, detail))
    return Partition(*(tuple(sorted(kept[part])) for part in PARTS))
