"""Opens what a configuration's `data` block names, and chooses which image plays which part."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from eln_jax.data import partitions
from eln_jax.data.builders import DATASETS
from eln_jax.data.classes import CLASSES_FILE, ClassList, read_classes, scan_classes
from eln_jax.data.folder import has_split, open_folder
from eln_jax.data.labels import LabelCode, make_code, parse_color
from eln_jax.data.partitions import Partition
from eln_jax.data.records import open_records
from eln_jax.data.sources import FileSource, Source
from eln_jax.data.synthetic import SyntheticSource
from eln_jax.errors import UserError

# Reads a list of images of a source: `partitions.read_list`, or one that goes on at mistakes.
ReadList = Callable[[str | Path, Source], list[int]]


def open_sources(data: Any, code: LabelCode | None = None) -> tuple[Source, Source]:
    """Opens the training and the validation images.

    Where validation is a list or a share of the training images, both are the same source.

    Args:
        data: the `data` block of a configuration.
        code: what the masks of a folder mean; as the configuration says if None.

    Raises:
        UserError: something is missing, or contradicts the configuration.
    """
    if data.source == "folder":
        code = code or folder_code(data)
        opened = [
            open_folder(data.root, code, **folder_names(data), split=split)
            for split in folder_splits(data)
        ]
        return opened[0], opened[-1]
    if data.source == "synthetic":
        make = partial(
            SyntheticSource,
            size=tuple(data.synthetic.image_size),
            num_classes=data.num_classes,
            seed=data.synthetic.seed,
            ignore_label=data.ignore_label,
            class_names=data.class_names,
        )
        sizes = data.synthetic
        # Far from the training scenes, so that their number does not change the validation.
        return make(sizes.train_size), make(sizes.val_size, start=1_000_000)
    opener = open_records if data.source == "records" else DATASETS[data.source].open_split
    train, val = (
        opener(data.root, split, ignore_label=data.ignore_label)
        for split in (data.train_split, data.val_split)
    )
    if train.num_classes != data.num_classes:
        raise UserError(
            f"{data.root} has {train.num_classes} classes, but data.num_classes is "
            f"{data.num_classes}: start from the configuration of that data set."
        )
    return train, val


def folder_code(data: Any) -> LabelCode:
    """Returns what the pixels of a folder's masks mean."""
    return make_code(
        data.num_classes,
        data.ignore_label,
        data.void_labels,
        data.class_ids,
        [parse_color(text) for text in data.class_colors],
        [parse_color(text) for text in data.void_colors],
    )


def folder_names(data: Any) -> dict[str, Any]:
    """Returns what `open_folder` needs to know beside root, code and split."""
    return {"images": data.images, "masks": data.masks, "class_names": data.class_names}


def folder_splits(data: Any) -> tuple[str, ...]:
    """Returns the split that holds both the training and the validation images, or one for each."""
    if not data.val_list and not data.val_fraction:
        return data.train_split, data.val_split
    return (data.train_split if has_split(data.root, data.images, data.train_split) else "",)


def find_classes(
    data: Any,
    open_all: Callable[[Any, LabelCode], tuple[Source, Source, Partition]] | None = None,
    scan: Callable[[Sequence[Path], tuple[int, ...]], ClassList] = scan_classes,
) -> tuple[ClassList, str]:
    """Reads a folder's list of classes or, without one, the masks of labelled and val images.

    Args:
        data: the `data` block of a configuration.
        open_all: opens the images and chooses among them without reading masks; as a training does
            if None.
        scan: finds the classes in masks.

    Returns:
        The classes, and in words where they come from.

    Raises:
        UserError: there are fewer than two, or a file cannot be used.
    """
    listed = Path(data.classes) if data.classes else Path(data.root) / CLASSES_FILE
    if data.classes or listed.is_file():
        return read_classes(listed), f"from {listed}"
    # Two classes stand in for those to be found: choosing images decodes no mask.
    train, val, chosen = (open_all or _open_all)(data, make_code(2, data.ignore_label))
    wanted = [(train, index) for index in chosen.labeled] + [(val, index) for index in chosen.val]
    masks = [
        source.mask_path(index)
        for source, index in wanted
        if isinstance(source, FileSource) and source.has_label(index)
    ]
    found = scan(masks, (data.ignore_label, *data.void_labels))
    return found, f"found in {len(masks)} masks"


def _open_all(data: Any, code: LabelCode) -> tuple[Source, Source, Partition]:
    train, val = open_sources(data, code)
    return train, val, choose_partition(data, train, val, balanced=False)


def choose_partition(
    data: Any, train: Source, val: Source, *, balanced: bool | None = None
) -> Partition:
    """Reads or draws the labelled and the validation images.

    Args:
        data: the `data` block of a configuration.
        train: source of the training images.
        val: source of the validation images.
        balanced: stands in for `data.labeled_balanced`, which needs the masks read.

    Raises:
        UserError: a list or number is wrong, an image plays two parts, or nothing can be scored.
    """
    listed, pool = split_off(data, train, val, partitions.read_list)
    if data.partition:
        labeled, unlabeled = listed_parts(data, train, partitions.read_list)
    else:
        drawn = draw(data, train, pool, data.labeled_balanced if balanced is None else balanced)
        labeled, unlabeled, listed = drawn.labeled, drawn.unlabeled, drawn.val or listed
    chosen = partitions.make_partition(train, labeled, unlabeled=unlabeled, val=listed)
    chosen = chosen._replace(val=scored_images(train, val, chosen.val))
    if not chosen.val:
        raise UserError(
            f"there is no validation image with a mask (data.val_split={data.val_split!r}, "
            f"data.val_list={data.val_list!r}, data.val_fraction={data.val_fraction}), so nothing "
            "can be scored: add masks, or choose another split, list or share."
        )
    leaked = partitions.shared_images(train, val, chosen)
    if leaked:
        raise UserError(
            f"{len(leaked)} image(s) would be both trained and scored on, such as "
            f"{train.location(leaked[0])}: take them out of data.train_split={data.train_split!r} "
            f"or of data.val_split={data.val_split!r}."
        )
    return chosen


def with_masks(data: Any, part: str) -> tuple[Source, list[int]]:
    """Opens a part's source and lists those of its images that have a mask.

    Args:
        data: the `data` block of a configuration.
        part: "labeled", "unlabeled" or "val".

    Raises:
        UserError: none has, or as for `open_sources` and `choose_partition`.
    """
    train, val = open_sources(data)
    partition = choose_partition(data, train, val)
    source = val if part == "val" else train
    indices = [i for i in getattr(partition, part) if source.has_label(i)]
    if not indices:
        raise UserError(f"None of the {part} images has a mask: there is nothing to compare with.")
    return source, indices


def cut_size(config: Any) -> tuple[int, int] | None:
    """Returns height and width that are cut out of training images; None if they are warped.

    A warped image is scaled to the crop, however small it is.
    """
    return None if config.data.geometry == "warp" else tuple(config.crop_size)


def split_off(data: Any, train: Source, val: Source, read: ReadList) -> tuple[list[int], list[int]]:
    """Returns the validation images that a list names, and the training images left to choose."""
    listed = read(data.val_list, val) if data.val_list else []
    taken = set(listed) if val is train else set()
    return listed, [index for index in range(len(train)) if index not in taken]


def listed_parts(data: Any, train: Source, read: ReadList) -> tuple[list[int], list[int] | None]:
    """Returns the labelled and the unlabelled images that lists name; None: all the others."""
    labeled, unlabeled = partitions.partition_files(data.partition)
    return read(labeled, train), None if unlabeled is None else read(unlabeled, train)


def draw(data: Any, train: Source, pool: Sequence[int], balanced: bool) -> Partition:
    """Draws the labelled images, and validation images if a share is asked for."""
    return partitions.draw_partition(
        train,
        seed=data.partition_seed,
        fraction=None if data.labeled_count else data.labeled_fraction,
        count=data.labeled_count or None,
        val_fraction=data.val_fraction,
        train=pool,
        balanced=balanced,
    )


def scored_images(train: Source, val: Source, chosen: Sequence[int]) -> tuple[int, ...]:
    """Returns the images to score: the chosen ones, or all of a split of their own with a mask."""
    if val is train:
        return tuple(sorted(chosen))
    return tuple(index for index in range(len(val)) if val.has_label(index))
