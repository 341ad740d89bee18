"""From a configuration to what a run reads: sources, partition and streams."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import grain
import jax
import numpy as np

from eln_jax.data import partitions, pipeline
from eln_jax.data.sources import FolderSource, Source
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
    streams: Mapping[str, grain.IterDataset]
    fingerprint: dict[str, Any]


def make_inputs(config: Any) -> Inputs:
    """Opens the sources, draws or reads the partition, and builds the streams."""
    train, val = _sources(config.data)
    partition = _partition(config.data, train, val)
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
        )
        fingerprint[name] = pipeline.fingerprint(train, **arguments, **common)
    return Inputs(train, val, partition, streams, fingerprint)


def _sources(data: Any) -> tuple[Source, Source]:
    """Opens the training and the validation images."""
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
    folder = partial(
        FolderSource,
        data.root,
        num_classes=data.num_classes,
        images=data.images,
        masks=data.masks,
        ignore_label=data.ignore_label,
        void_labels=data.void_labels,
        class_names=data.class_names,
    )
    return folder(split=data.train_split), folder(split=data.val_split)


def _partition(data: Any, train: Source, val: Source) -> partitions.Partition:
    """Reads or draws the labelled images; every labelled image of `val` validates."""
    if data.partition:
        labeled_file, unlabeled_file = partitions.partition_files(data.partition)
        partition = partitions.make_partition(
            train,
            partitions.read_list(labeled_file, train),
            unlabeled=None
            if unlabeled_file is None
            else partitions.read_list(unlabeled_file, train),
        )
    elif data.labeled_count:
        partition = partitions.draw_partition(
            train, seed=data.partition_seed, count=data.labeled_count
        )
    else:
        partition = partitions.draw_partition(
            train, seed=data.partition_seed, fraction=data.labeled_fraction
        )
    scored = tuple(i for i in range(len(val)) if val.has_label(i))
    if not scored:
        raise UserError(
            f"no image of the split {data.val_split!r} has a mask, so nothing can be scored: add "
            "masks for the validation images."
        )
    return partition._replace(val=scored)
