"""Which share of a training's time goes by waiting for data."""

import time
from typing import Any

import jax

from eln_jax.benchmarks.data import spread
from eln_jax.training import assembly
from eln_jax.training.sharding import put_batch


def measure_waiting(parts: assembly.Parts, steps: int) -> dict[str, Any]:
    """Trains some steps of the third phase and times what each waits for its batches.

    Args:
      parts: Of the run.
      steps: How many, after one that compiles.

    Returns:
      "seconds_per_step" and "data_wait_share", each with its least and median value.
    """
    state = parts.start_teacher(parts.initial_state())
    iterators = {name: iter(stream) for name, stream in parts.data.streams.items()}
    key = jax.random.key(parts.config.seed)
    times, shares = [], []
    for number in range(steps + 1):
        started = time.perf_counter()
        batch = {name: next(iterator) for name, iterator in iterators.items()}
        ready = time.perf_counter()
        state, metrics = parts.steps["semi_supervised"](state, put_batch(batch, parts.mesh), key)
        jax.block_until_ready(metrics)
        if number:  # the first one compiles
            times.append(time.perf_counter() - started)
            shares.append((ready - started) / times[-1])
    for iterator in iterators.values():
        iterator.close()
    return {"seconds_per_step": spread(times), "data_wait_share": spread(shares)}
