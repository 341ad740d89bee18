"""From a configuration to what a run reads: sources, partition and streams."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np

from eln_jax.data import partitions, pipeline
from eln_jax.data.simulated_errors.simulation import OPS, Simulation
from eln_jax.data.sources import Source
from eln_jax.data.stream import Stream
from eln_jax.data.transforms import Augmentation
from eln_jax.errors import UserError
from eln_jax.training.opening import choose_partition, open_sources


@dataclass(frozen=True)
class Inputs:
    """What a run reads.

    Attributes:
        train: source of the training images.
        val: source of the validation images.
        partition: indices into `train` of labelled and unlabelled images, and into `val`.
        streams: "labeled" and "unlabeled" batches without end.
        with_simulated_errors: makes of the main decoder's confusion matrix, or of None, the stream
            of the same "labeled" batches with simulated errors; None: there are to be none.
        fingerprint: everything that decides the streams' batches and the validation images, as
            plain values.
    """

    train: Source
    val: Source
    partition: partitions.Partition
    streams: Mapping[str, Stream]
    with_simulated_errors: Callable[[np.ndarray | None], Stream] | None
    fingerprint: dict[str, Any]


def make_inputs(config: Any) -> Inputs:
    """Opens the sources, draws or reads the partition, and builds the streams."""
    train, val = open_sources(config.data)
    partition = choose_partition(config.data, train, val)
    common = {"crop_size": tuple(config.crop_size), "augmentation": make_augmentation(config)}
    reads_truth = config.method.gate == "oracle" and config.steps.semi_supervised > 0
    if reads_truth:
        _check_truth(train, partition.unlabeled)
    # Two seeds of one: equal lists must not draw equal augmentations in both streams.
    seeds = [int(s) for s in np.random.SeedSequence(config.seed).generate_state(2)]
    settings: dict[str, dict[str, Any]] = {
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
            "with_labels": reads_truth,
        },
    }
    make_stream = partial(
        pipeline.train_stream,
        train,
        **common,
        num_workers=config.data.workers,
        num_threads=config.data.threads,
        shard_index=jax.process_index(),
        shard_count=jax.process_count(),
        max_unreadable=config.data.max_unreadable,
    )
    simulation = make_simulation(config)
    labeled = pipeline.fingerprint(train, **settings["labeled"], **common, simulation=simulation)
    unlabeled = pipeline.fingerprint(train, **settings["unlabeled"], **common)
    return Inputs(
        train=train,
        val=val,
        partition=partition,
        streams={name: make_stream(**arguments) for name, arguments in settings.items()},
        with_simulated_errors=simulation
        and partial(_erring_stream, partial(make_stream, **settings["labeled"]), simulation),
        fingerprint={
            "labeled": labeled,
            "unlabeled": unlabeled,
            "val": pipeline.describe_images(val, partition.val),
        },
    )


def _check_truth(train: Source, unlabeled: Sequence[int]) -> None:
    without = [index for index in unlabeled if not train.has_label(index)]
    if without:
        raise UserError(
            f"method.gate=oracle reads the masks of the unlabelled images, and {len(without)} have "
            f"none, such as {train.ids[without[0]]}: take another gate; the oracle only measures "
            "what a perfect one would give where all is labelled."
        )


def _erring_stream(
    make_stream: Callable[..., Stream], simulation: Simulation, confusion: np.ndarray | None
) -> Stream:
    return make_stream(simulation=replace(simulation, confusion=confusion))


def make_augmentation(config: Any) -> Augmentation:
    """What is done to a training image on the host."""
    data = config.data
    return Augmentation(data.geometry, tuple(data.scale_range), data.flip)


def make_simulation(config: Any) -> Simulation | None:
    """The errors made on labels, if the ELN is to learn from them."""
    if not config.method.simulated_weight:
        return None
    simulated = config.data.simulated
    return Simulation(tuple(simulated.error_rate), tuple(simulated.ops) or tuple(OPS))
