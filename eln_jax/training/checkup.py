"""Opens what a configuration names as a training would, but notes what is wrong and goes on.

`eln_jax.training.inputs` stops at the first mistake, which is right for a training; someone who
repairs a data set wants to see them all.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from eln_jax.data import partitions
from eln_jax.data.builders import DATASETS, voc
from eln_jax.data.classes import CLASSES_FILE, ClassList, read_classes
from eln_jax.data.doctor_checks import image_file, images_without_mask
from eln_jax.data.doctor_listing import find_classes_among, list_folder, list_voc, read_entries
from eln_jax.data.faults import Fault, make_fault
from eln_jax.data.folder import has_split
from eln_jax.data.labels import LabelCode, make_code, parse_color
from eln_jax.data.partitions import Partition
from eln_jax.data.sources import FileSource, Source
from eln_jax.errors import UserError
from eln_jax.training import inputs

OpenSplit = Callable[[str], tuple[FileSource, list[Fault]]]


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


def open_all(data: Any) -> Opened:
    """Opens sources and partition.

    Args:
        data: the `data` block of a configuration.

    Raises:
        UserError: so much is wrong that nothing can be looked at, such as a missing folder.
    """
    if data.source == "folder":
        return _open_folder(data, *_classes(data), balanced=data.labeled_balanced)

    def open_split(split: str) -> tuple[FileSource, list[Fault]]:
        if data.source == voc.NAME:
            return list_voc(Path(data.root), split, data.ignore_label)
        return DATASETS[data.source].open_split(data.root, split, data.ignore_label), []

    faults: list[Fault] = []
    try:
        train, val = inputs.open_sources(data)
    except UserError:
        if data.source in DATASETS:
            train, val, faults = _open_splits(data, open_split)
        if not faults:  # or the report would tell nothing of it
            raise
    return _with_partition(data, train, val, faults, balanced=data.labeled_balanced)


def _open_folder(
    data: Any, code: LabelCode, class_names: tuple[str, ...], *, balanced: bool
) -> Opened:
    def open_split(split: str) -> tuple[FileSource, list[Fault]]:
        return list_folder(
            Path(data.root),
            code,
            images=data.images,
            masks=data.masks,
            split=split,
            class_names=class_names,
        )

    if not data.val_list and not data.val_fraction:
        train, val, faults = _open_splits(data, open_split)
        return _with_partition(data, train, val, faults, balanced=balanced)
    split = data.train_split if has_split(data.root, data.images, data.train_split) else ""
    train, faults = open_split(split)
    return _with_partition(data, train, train, faults, balanced=balanced)


def _open_splits(data: Any, open_split: OpenSplit) -> tuple[FileSource, FileSource, list[Fault]]:
    """Opens both splits; where one alone can be, an empty source stands in for the other."""
    opened: dict[str, FileSource] = {}
    errors: dict[str, UserError] = {}
    faults: list[Fault] = []
    names = {"train": data.train_split, "val": data.val_split}
    for role, split in names.items():
        try:
            opened[role], found = open_split(split)
            faults += found
        except UserError as error:
            errors[role] = error
    if not opened:
        raise errors["train"]
    for role, error in errors.items():
        (other,) = opened.values()
        opened[role] = FileSource(
            (), other.code, class_names=other.class_names, description={"kind": "none"}
        )
        where = f"{data.root} (split {names[role]!r})"
        faults.append(make_fault("empty split", where, str(error)))
    return opened["train"], opened["val"], faults


def _classes(data: Any) -> tuple[LabelCode, tuple[str, ...]]:
    """What the pixels of a folder's masks mean, from the configuration, a list, or the masks."""
    if data.num_classes:
        code = make_code(
            data.num_classes,
            data.ignore_label,
            data.void_labels,
            data.class_ids,
            [parse_color(text) for text in data.class_colors],
            [parse_color(text) for text in data.void_colors],
        )
        return code, data.class_names
    listed = Path(data.classes) if data.classes else Path(data.root) / CLASSES_FILE
    is_listed = bool(data.classes) or listed.is_file()
    found = read_classes(listed) if is_listed else _classes_of_masks(data)
    code = make_code(
        len(found.names),
        data.ignore_label,
        tuple(dict.fromkeys((*data.void_labels, *found.void_ids))),
        found.ids,
        found.colors,
        found.void_colors,
    )
    return code, found.names


def _classes_of_masks(data: Any) -> ClassList:
    # Two classes stand in for those to be found, as in inputs.find_classes.
    stand_in = make_code(2, data.ignore_label)
    train, val, partition, _ = _open_folder(data, stand_in, (), balanced=False)
    wanted = [(train, i) for i in partition.labeled] + [(val, i) for i in partition.val]
    masks = [
        source.mask_path(index)
        for source, index in wanted
        if isinstance(source, FileSource) and source.has_label(index)
    ]
    return find_classes_among(masks, (data.ignore_label, *data.void_labels))


def _with_partition(
    data: Any, train: Source, val: Source, faults: list[Fault], *, balanced: bool
) -> Opened:
    """Chooses the images as a training would or, where it would refuse, as near as can be."""
    try:
        chosen = inputs.choose_partition(data, train, val, balanced=balanced)
    except UserError as error:
        chosen, found = _choose(data, train, val, balanced)
        faults = faults + found
        if not faults and not any(images_without_mask(train, val, chosen)):
            raise error from None  # or the report would tell nothing of it
    return Opened(train, val, chosen, faults)


def _choose(data: Any, train: Source, val: Source, balanced: bool) -> tuple[Partition, list[Fault]]:
    """As `inputs.choose_partition`, but what stands in the way becomes faults."""
    faults: list[Fault] = []

    def read(path: str | Path, source: Source) -> list[int]:
        indices, found = read_entries(path, source)
        faults.extend(found)
        return indices

    shared = val is train
    listed = read(data.val_list, val) if data.val_list else []
    pool = set(range(len(train))) - set(listed if shared else ())
    if data.partition and len(train):
        labeled_file, unlabeled_file = partitions.partition_files(data.partition)
        labeled = read(labeled_file, train)
        others = pool - set(labeled)
        unlabeled = sorted(others) if unlabeled_file is None else read(unlabeled_file, train)
    else:
        drawn, found = _draw(data, train, sorted(pool), balanced)
        faults += found
        labeled, unlabeled = list(drawn.labeled), list(drawn.unlabeled)
        listed = listed or list(drawn.val)
    scored = listed if shared else [i for i in range(len(val)) if val.has_label(i)]
    if len(val) and not any(val.has_label(index) for index in scored):
        detail = "there is no validation image with a mask"
        faults.append(make_fault("empty split", f"{data.root} (validation images)", detail))
    parts = {
        "labelled": labeled,
        "validation": scored if shared else [],
        "unlabelled": unlabeled,
    }
    labeled, of_train, unlabeled = _disjoint(train, parts, faults)
    return Partition(labeled, unlabeled, of_train if shared else tuple(scored)), faults


def _draw(
    data: Any, train: Source, pool: list[int], balanced: bool
) -> tuple[Partition, list[Fault]]:
    """Draws the labelled images, by chance alone where the masks do not allow a balanced draw."""
    if not len(train):
        return Partition((), ()), []  # told as it was opened
    faults: list[Fault] = []
    for balance in (True, False) if balanced else (False,):
        try:
            drawn = partitions.draw_partition(
                train,
                seed=data.partition_seed,
                fraction=None if data.labeled_count else data.labeled_fraction,
                count=data.labeled_count or None,
                val_fraction=data.val_fraction,
                train=pool,
                balanced=balance,
            )
        except UserError as error:
            # Only what a draw by chance does not suffer from is to be told of a balanced one.
            kind = "draw failed" if balance else "empty split"
            faults = [make_fault(kind, f"{data.root} (labelled images)", str(error))]
        else:
            return drawn, faults
    return Partition((), tuple(pool)), faults


def _disjoint(
    source: Source, parts: Mapping[str, Iterable[int]], faults: list[Fault]
) -> list[tuple[int, ...]]:
    """Leaves an image in the first of its parts, and notes the others."""
    part_of: dict[int, str] = {}
    for name, indices in parts.items():
        for index in indices:
            first = part_of.setdefault(index, name)
            if first != name:
                detail = f"both {first} and {name}"
                faults.append(make_fault("image in two parts", image_file(source, index), detail))
    return [tuple(sorted(i for i, part in part_of.items() if part == name)) for name in parts]
