"""How long the steps take to compile: anew, and from the cache that lasts between programs."""

import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from eln_jax.benchmarks.step import random_batch
from eln_jax.training import sharding
from eln_jax.training.programs import Programs


def measure_compilation(
    config: Any, programs: Programs, phases: Sequence[str], say: Callable[[str], None]
) -> dict[str, Any]:
    """Compiles each phase's step twice: with an empty cache, and with the one that this filled.

    Args:
        config: of the run.
        programs: of the run.
        phases: names of those to measure.
        say: told what goes on.

    Returns:
        By phase: "trace_seconds" (Python, needed each time), "cold_seconds" and "cached_seconds".
    """
    state, key = programs.abstract_state(), jax.random.key(config.seed)
    batch = sharding.put_batch(random_batch(config), programs.mesh)
    before = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    report = {}
    try:
        with tempfile.TemporaryDirectory(prefix="eln_jax_cache_") as folder:
            _use_cache(folder)
            for phase in phases:
                say(f"Compiling the step of phase {phase} twice ...")
                parts = ("labeled", "unlabeled") if phase == "semi_supervised" else ("labeled",)
                chosen = {part: batch[part] for part in parts}
                seconds = {}
                for name in ("cold_seconds", "cached_seconds"):
                    jax.clear_caches()
                    started = time.perf_counter()
                    lowered = programs.steps[phase].lower(state, chosen, key)
                    seconds["trace_seconds"] = round(time.perf_counter() - started, 2)
                    started = time.perf_counter()
                    lowered.compile()
                    seconds[name] = round(time.perf_counter() - started, 2)
                report[phase] = seconds
    finally:
        _use_cache(before)
    return report


def _use_cache(folder: str | None) -> None:
    jax.config.update("jax_compilation_cache_dir", folder)
    compilation_cache.reset_cache()
