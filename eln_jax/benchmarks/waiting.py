"""Which share of a training's time goes by waiting for data."""

import time
from typing import Any

import jax

from eln_jax.benchmarks.figures import spread
from eln_jax.training import assembly
from eln_jax.training.sharding import put_batch


def measure_waiting(parts: assembly.Parts, steps: int) -> dict[str, Any]:
    """Trains some steps of the third phase: on one batch again and again, then on the streams.

    Args:
      parts: Of the run.
      steps: How many of each, at least 1, after one that compiles and one that fills the buffers.

    Returns:
      "seconds_per_step" and "seconds_per_step_without_data", each with its least and median value;
      "data_wait_share", the share of the former's time that went by before the batch was there, as
      `metrics.jsonl` has it. A step may still be running meanwhile, so a slow stream shows in the
      difference of the two times as well.
    """
    streams = dict(parts.data.streams)
    if parts.data.with_simulated_errors is not None:
        streams["labeled"] = parts.data.with_simulated_errors(None)
    iterators = {name: iter(stream) for name, stream in streams.items()}
    state = parts.programs.start_teacher(parts.programs.initial_state())
    step, key = parts.programs.steps["semi_supervised"], jax.random.key(parts.config.seed)

    def take() -> Any:
        return put_batch({name: next(it) for name, it in iterators.items()}, parts.programs.mesh)

    try:
        same = take()
        alone = []
        for number in range(steps + 1):
            started = time.perf_counter()
            state, metrics = step(state, same, key)
            jax.block_until_ready(metrics)
            if number:  # the first one compiles
                alone.append(time.perf_counter() - started)
        for (
            iterator
        ) in iterators.values():  # what was made ahead meanwhile would be waited for less
            iterator.set_state(iterator.get_state())
        times, waited, running = [], 0.0, None
        for number in range(steps + 1):
            started = time.perf_counter()
            batch = take()
            ready = time.perf_counter()
            state, metrics = step(state, batch, key)
            jax.block_until_ready(running)  # one step runs while the next is fed, as in training
            running = metrics
            if number:
                times.append(time.perf_counter() - started)
                waited += ready - started
    finally:
        for iterator in iterators.values():
            iterator.close()
    return {
        "seconds_per_step": spread(times),
        "seconds_per_step_without_data": spread(alone),
        "data_wait_share": round(waited / sum(times), 4),
    }
