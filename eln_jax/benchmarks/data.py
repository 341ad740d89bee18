"""How fast the input pipeline is, where its time goes, and how much memory its processes take."""

import functools
import io
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from eln_jax.benchmarks.figures import Spread, spread
from eln_jax.data.decoding import decode_image
from eln_jax.data.records import RecordSource
from eln_jax.data.simulated_errors.simulation import simulate_errors, thin_out
from eln_jax.data.sources import FileSource, Source
from eln_jax.data.stream import Stream
from eln_jax.data.transforms import augment
from eln_jax.training.inputs import Inputs, make_augmentation, make_simulation
from eln_jax.training.memory import peak_memory_bytes

# Images whose parts are timed one by one, batches that are put together and sent, and stretches of
# a stream that are timed.
_IMAGES = 48
_BATCHES = 20
_ROUNDS = 5
_MIB = 2**20


def measure_data(inputs: Inputs, config: Any, seconds: float) -> dict[str, Any]:
    """Times the parts of the pipeline on one thread, and then each stream as training drives it.

    Args:
      inputs: Sources and streams.
      config: The configuration that they were made from.
      seconds: How long each stream is timed, after its first batches.

    Returns:
      "cores"; "milliseconds_per_image": part -> {"min", "median"}, or None for a part that there is
      not; "streams": name -> figures of `_throughput`; "peak_memory_mib" of this process so far.
    """
    streams = dict(inputs.streams)
    if inputs.with_simulated_errors is not None:
        streams["labeled_with_errors"] = inputs.with_simulated_errors(None)
    return {
        "cores": _cores(),
        "milliseconds_per_image": _parts(inputs, config),
        "streams": {name: _throughput(stream, seconds) for name, stream in streams.items()},
        "peak_memory_mib": round(peak_memory_bytes() / _MIB),
    }


def _cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _parts(inputs: Inputs, config: Any) -> dict[str, Spread | None]:
    """Times each stage of a labelled example, and of its batch by the image."""
    source, indices = inputs.train, inputs.partition.labeled[:_IMAGES]
    rng = np.random.default_rng(0)
    parts: dict[str, Spread | None] = dict.fromkeys(("read", "decode_image", "decode_mask"))
    read = _reader(source)
    if read is None:
        parts["decode_image"] = _each(source.read_image, indices)
    else:
        parts["read"] = _each(read, indices)
        files = [read(index) for index in indices]
        parts["decode_image"] = _each(lambda file: decode_image(io.BytesIO(file)), files)
    parts["decode_mask"] = _each(source.read_label, indices)

    view = functools.partial(
        augment,
        rng=rng,
        crop_size=tuple(config.crop_size),
        augmentation=make_augmentation(config),
        ignore_label=source.ignore_label,
    )
    examples = [(source.read_image(index), source.read_label(index)) for index in indices]
    parts["augment"] = _each(lambda example: view(*example), examples)
    views = [view(*examples[n % len(examples)]) for n in range(config.batch_size_labeled)]
    labels = [np.asarray(one.label) for one in views]
    simulation = make_simulation(config)
    if simulation is not None:
        parts["simulate_errors"] = _each(
            lambda label: simulate_errors(
                thin_out(label, simulation.stride),
                rng,
                simulation,
                num_classes=source.num_classes,
                ignore_label=source.ignore_label,
            ),
            labels * (_IMAGES // len(labels) + 1),
        )

    def batch(_: int) -> dict[str, np.ndarray]:
        return {"image": np.stack([one.image for one in views]), "label": np.stack(labels)}

    stacked = batch(0)
    parts["batch"] = _each(batch, range(_BATCHES), by=len(views))
    parts["transfer"] = _each(
        lambda _: jax.block_until_ready(jax.device_put(stacked)), range(_BATCHES), by=len(views)
    )
    return parts


def _reader(source: Source) -> Callable[[int], bytes] | None:
    """What reads an image's file as it is stored; None where images are made, not read."""
    if isinstance(source, FileSource):
        return lambda index: source.examples[index].image.read_bytes()
    if isinstance(source, RecordSource):
        return source.stored_image
    return None


def _each(work: Callable[[Any], Any], items: Iterable[Any], by: int = 1) -> Spread:
    """Times `work` on each item; milliseconds divided by `by`."""
    times = []
    for item in items:
        started = time.perf_counter()
        work(item)
        times.append(1000 * (time.perf_counter() - started) / by)
    return spread(times)


def _throughput(stream: Stream, seconds: float) -> dict[str, Any]:
    """Drives a stream as fast as it goes, in a few rounds.

    Returns:
      "batch"; "images_per_second"; "images_per_cpu_second", by the time that this process and its
      workers were given, which is what a core makes whatever else runs; "workers_peak_memory_mib",
      one a worker. What only Linux tells is None elsewhere.
    """
    iterator = iter(stream)
    try:
        batch = next(iterator)["image"].shape[0]
        rates, cpu_rates = [], []
        for _ in range(_ROUNDS):
            images, started, cpu_before = 0, time.perf_counter(), _cpu_seconds()
            while (spent := time.perf_counter() - started) < seconds / _ROUNDS or not images:
                images += next(iterator)["image"].shape[0]
            rates.append(images / spent)
            cpu_after = _cpu_seconds()
            if cpu_before is not None and cpu_after is not None:
                cpu_rates.append(images / (cpu_after - cpu_before))
        memory = [_peak_mib(process) for process in _workers()]
    finally:
        iterator.close()
    return {
        "batch": batch,
        "images_per_second": spread(rates),
        "images_per_cpu_second": spread(cpu_rates) if cpu_rates else None,
        "workers_peak_memory_mib": None if None in memory else memory,
    }


def _workers() -> list[int]:
    return [process.pid for process in multiprocessing.active_children() if process.pid]


def _cpu_seconds() -> float | None:
    """CPU time of this process and its workers so far; None if the system does not tell theirs."""
    total = time.process_time()
    for worker in _workers():
        try:
            # After the name, which may hold spaces: user and system time are fields 14 and 15.
            fields = Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def _peak_mib(process: int) -> int | None:
    """The most memory that a process has held so far; None if the system does not tell."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return None
    kib = next((line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")), None)
    return None if kib is None else round(int(kib) * 1024 / _MIB)
