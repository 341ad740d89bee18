"""How fast the input pipeline is, and where its time goes."""

import io
import os
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from eln_jax.data.decoding import decode_image, decode_mask
from eln_jax.data.sources import FileSource
from eln_jax.data.transforms import Augmentation, augment
from eln_jax.training.inputs import Inputs

# Images whose parts are timed one by one, and stretches of the stream that are timed.
_IMAGES = 48
_ROUNDS = 5


def measure_data(inputs: Inputs, config: Any, seconds: float) -> dict[str, Any]:
    """Times the parts of the pipeline on one thread, and then each stream as training drives it.

    Args:
      inputs: Sources and streams.
      config: The configuration that they were made from.
      seconds: How long each stream is timed, after its first batches.

    Returns:
      "milliseconds_per_image": part -> {"min", "median"}; "streams": name -> images a second, also
      per core; "cores".
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cores": cores,
        "milliseconds_per_image": _parts(inputs, config),
        "streams": {
            name: _throughput(stream, seconds, cores or 1)
            for name, stream in inputs.streams.items()
        },
    }


def _parts(inputs: Inputs, config: Any) -> dict[str, dict[str, float]]:
    """Times each stage of a labelled example, and of its batch by the image."""
    source, size = inputs.train, tuple(config.crop_size)
    indices = inputs.partition.labeled[:_IMAGES]
    rng = np.random.default_rng(0)
    augmentation = Augmentation(
        config.data.geometry, tuple(config.data.scale_range), config.data.flip
    )
    parts = {}
    if isinstance(source, FileSource):
        files = [
            (path.read_bytes(), source.mask_path(i).read_bytes())
            for i in indices
            for path in [source.examples[i].image]
        ]
        parts["read"] = _each(lambda i: source.examples[i].image.read_bytes(), indices)
        parts["decode image"] = _each(lambda f: decode_image(io.BytesIO(f[0])), files)
        parts["decode mask"] = _each(lambda f: decode_mask(io.BytesIO(f[1])), files)
    else:
        parts["read and decode image"] = _each(source.read_image, indices)
        parts["read and decode mask"] = _each(source.read_label, indices)
    examples = [(source.read_image(i), source.read_label(i)) for i in indices]

    def view(example: tuple[np.ndarray, np.ndarray]) -> Any:
        return augment(
            *example,
            rng,
            crop_size=size,
            augmentation=augmentation,
            ignore_label=source.ignore_label,
        )

    parts["augment"] = _each(view, examples)
    batch = [view(examples[n % len(examples)]).image for n in range(config.batch_size_labeled)]
    parts["batch"] = _each(lambda _: np.stack(batch), range(_ROUNDS), by=len(batch))
    stacked = np.stack(batch)
    parts["transfer"] = _each(
        lambda _: jax.block_until_ready(jax.device_put(stacked)), range(_ROUNDS), by=len(batch)
    )
    return parts


def _each(work: Callable[[Any], Any], items: Iterable[Any], by: int = 1) -> dict[str, float]:
    """Times `work` on each item; milliseconds divided by `by`."""
    times = []
    for item in items:
        started = time.perf_counter()
        work(item)
        times.append(1000 * (time.perf_counter() - started) / by)
    return spread(times)


def _throughput(stream: Any, seconds: float, cores: int) -> dict[str, Any]:
    """Drives a stream as fast as it goes, in a few rounds."""
    iterator = iter(stream)
    batch = next(iterator)["image"].shape[0]
    rates = []
    for _ in range(_ROUNDS):
        images, started = 0, time.perf_counter()
        while (spent := time.perf_counter() - started) < seconds / _ROUNDS or not images:
            images += next(iterator)["image"].shape[0]
        rates.append(images / spent)
    iterator.close()
    return {
        "batch": batch,
        "images_per_second": spread(rates),
        "images_per_second_and_core": spread([rate / cores for rate in rates]),
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Returns the least and the median value, rounded for reading."""
    return {"min": round(min(values), 4), "median": round(statistics.median(values), 4)}
