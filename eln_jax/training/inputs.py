"""From a configuration to what a run reads: sources, partition and streams."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from eln_jax.data import partitions, pipeline
from eln_jax.data.builders import DATASETS
from eln_jax.data.classes import CLASSES_FILE, ClassList, read_classes, scan_classes
from eln_jax.data.folder import has_split, open_folder
from eln_jax.data.labels import LabelCode, make_code, parse_color
from eln_jax.data.records import open_records
from eln_jax.data.simulated_errors import OPS, Simulation
from eln_jax.data.sources import FileSource, Source
from eln_jax.data.stream import Stream
from eln_jax.data.synthetic import SyntheticSource
from eln_jax.data.transforms import Augmentation
from eln_jax.errors import UserError


@dataclass(frozen=True)
class Inputs:
    """What a run reads.

    Attributes:
        train: source of the training images.
        val: source of the validation images.
        partition: indices into `train` of labelled and unlabelled images, and into `val`.
        streams: "labeled" and "unlabeled" batches without end.
        fingerprint: everything that decides the streams' batches, as plain values.
    """

    train: Source
    val: Source
    partition: partitions.Partition
    streams: Mapping[str, Stream]
    fingerprint: dict[str, Any]


def make_inputs(config: Any) -> Inputs:
    """Opens the sources, draws or reads the partition, and builds the streams."""
    train, val = open_sources(config.data)
    partition = choose_partition(config.data, train, val)
    augmentation = Augmentation(
        config.data.geometry, tuple(config.data.scale_range), config.data.flip
    )
    common = {"crop_size": tuple(config.crop_size), "augmentation": augmentation}
    # Two seeds of one: equal lists must not draw equal augmentations in both streams.
    seeds = [int(s) for s in np.random.SeedSequence(config.seed).generate_state(2)]
    settings = {
        "labeled": {
            "indices": partition.labeled,
            "batch_size": config.batch_size_labeled,
            "seed": seeds[0],
            "with_labels": True,
            "simulation": _simulation(config),
        },
        "unlabeled": {
            "indices": partition.unlabeled or partition.labeled,
            "batch_size": config.batch_size_unlabeled,
            "seed": seeds[1],
            "with_labels": False,
        },
    }
    streams, fingerprint = {}, {}
    for name, arguments in settings.items():
        streams[name] = pipeline.train_stream(
            train,
            **arguments,
            **common,
            num_workers=config.data.workers,
            num_threads=config.data.threads,
            shard_index=jax.process_index(),
            shard_count=jax.process_count(),
            max_unreadable=config.data.max_unreadable,
        )
        fingerprint[name] = pipeline.fingerprint(train, **arguments, **common)
    return Inputs(train, val, partition, streams, fingerprint)


def _simulation(config: Any) -> Simulation | None:
    """The errors made on labels, if the ELN is to learn from them."""
    if not config.method.simulated_weight:
        return None
    simulated = config.data.simulated
    return Simulation(tuple(simulated.error_rate), tuple(simulated.ops) or tuple(OPS))


def open_sources(data: Any) -> tuple[Source, Source]:
    """Opens the training and the validation images that the config's `data` block describes.

    Where validation is a list or a share of the training images, both are the same source.
    """
    if data.source == "folder":
        code = make_code(
            data.num_classes,
            data.ignore_label,
            data.void_labels,
            data.class_ids,
            [parse_color(text) for text in data.class_colors],
            [parse_color(text) for text in data.void_colors],
        )
        return _open_folders(data, code)
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


def _open_folders(data: Any, code: LabelCode) -> tuple[FileSource, FileSource]:
    open_split = partial(
        open_folder,
        data.root,
        code,
        images=data.images,
        masks=data.masks,
        class_names=data.class_names,
    )
    if not data.val_list and not data.val_fraction:
        return open_split(split=data.train_split), open_split(split=data.val_split)
    split = data.train_split if has_split(data.root, data.images, data.train_split) else ""
    train = open_split(split=split)
    return train, train


def find_classes(data: Any) -> tuple[ClassList, str]:
    """Reads a folder's list of classes or, without one, the masks of labelled and val images.

    Returns:
        The classes, and in words where they come from.
    """
    listed = Path(data.classes) if data.classes else Path(data.root) / CLASSES_FILE
    if data.classes or listed.is_file():
        return read_classes(listed), f"from {listed}"
    # Two classes stand in for those to be found: choosing images decodes no mask.
    train, val = _open_folders(data, make_code(2, data.ignore_label))
    partition = choose_partition(data, train, val, balanced=False)
    masks = [train.mask_path(index) for index in partition.labeled]
    masks += [val.mask_path(index) for index in partition.val]
    return scan_classes(masks, (data.ignore_label, *data.void_labels)), (
        f"found in {len(masks)} masks"
    )


def choose_partition(
    data: Any, train: Source, val: Source, *, balanced: bool | None = None
) -> partitions.Partition:
    """Reads or draws the labelled and the validation images.

    `balanced` stands in for `data.labeled_balanced`, which needs the masks read.
    """
    listed = partitions.read_list(data.val_list, val) if data.val_list else []
    pool = sorted(set(range(len(train))) - set(listed)) if val is train else None
    if data.partition:
        labeled_file, unlabeled_file = partitions.partition_files(data.partition)
        partition = partitions.make_partition(
            train,
            partitions.read_list(labeled_file, train),
            unlabeled=None
            if unlabeled_file is None
            else partitions.read_list(unlabeled_file, train),
            val=listed,
        )
    else:
        partition = partitions.draw_partition(
            train,
            seed=data.partition_seed,
            fraction=None if data.labeled_count else data.labeled_fraction,
            count=data.labeled_count or None,
            val_fraction=data.val_fraction,
            train=pool,
            balanced=data.labeled_balanced if balanced is None else balanced,
        )
    scored = partition.val or tuple(listed)
    if val is not train:
        scored = tuple(index for index in range(len(val)) if val.has_label(index))
    if not scored:
        raise UserError(
            f"there is no validation image with a mask (data.val_split={data.val_split!r}, "
            f"data.val_list={data.val_list!r}, data.val_fraction={data.val_fraction}), so nothing "
            "can be scored: add masks, or choose another split, list or share."
        )
    return partition._replace(val=scored)
