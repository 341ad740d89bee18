"""How long the steps of each phase take, and what they need: time, arithmetic, memory."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from eln_jax.benchmarks.figures import gib, peak_flops, spread
from eln_jax.data.simulated_errors.simulation import thin_out
from eln_jax.training import sharding
from eln_jax.training.inputs import make_simulation
from eln_jax.training.memory import give_back, peak_memory_bytes
from eln_jax.training.programs import Programs


def measure_steps(
    config: Any,
    programs: Programs,
    phases: Sequence[str],
    steps: int,
    say: Callable[[str], None],
    profile: Path | None = None,
) -> dict[str, Any]:
    """Compiles and times each phase's step on random images, again and again the same batch.

    Args:
        config: of the run.
        programs: of the run.
        phases: names of those to measure.
        steps: how many are timed, after two that are not.
        say: told what goes on.
        profile: folder for a trace of two more steps of each phase, by `jax.profiler`.

    Returns:
        By phase: "compile_seconds"; "seconds_per_step" and "images_per_second" with least and
        median time; "flops_per_step" and "bytes_accessed_per_step" as XLA counts them (the body of
        a loop once) or None; "flops_per_second"; "utilisation" of the devices' peak, None where
        that is not known; "program_memory_gib", what the compiled step needs on each device;
        "peak_device_memory_gib", None on CPUs; and "peak_host_memory_gib" of this process so far.
    """
    batch = random_batch(config)
    state = programs.start_teacher(programs.initial_state())
    key = jax.random.key(config.seed)
    give_back()
    report = {}
    for phase in phases:
        parts = ("labeled", "unlabeled") if phase == "semi_supervised" else ("labeled",)
        chosen = sharding.put_batch({part: batch[part] for part in parts}, programs.mesh)
        images = sum(one["image"].shape[0] for one in chosen.values())
        say(f"Compiling the step of phase {phase} ...")
        started = time.perf_counter()
        step = programs.steps[phase].lower(state, chosen, key).compile()
        figures: dict[str, Any] = {"compile_seconds": round(time.perf_counter() - started, 2)}
        give_back()  # as a training does
        say(f"Timing {steps} steps of phase {phase} ...")
        times = []
        for number in range(steps + 2):
            started = time.perf_counter()
            state, metrics = step(state, chosen, key)
            jax.block_until_ready((state, metrics))
            if number >= 2:
                times.append(time.perf_counter() - started)
        figures |= _figures(step, times, images, config.dtype, programs.mesh.devices.flat)
        if profile:
            with jax.profiler.trace(profile / phase):
                for _ in range(2):
                    state, metrics = step(state, chosen, key)
                jax.block_until_ready((state, metrics))
            figures["profile"] = str(profile / phase)
        report[phase] = figures
    return report


def _figures(step, times, images, dtype, devices) -> dict[str, Any]:
    devices = list(devices)
    seconds = spread(times)
    costs = step.cost_analysis() or {}
    flops = costs.get("flops")
    memory = step.memory_analysis()
    peak = peak_flops(devices[0].device_kind, dtype)
    # XLA counts the program of one device.
    rate = None if flops is None else flops * len(devices) / seconds["median"]
    used = [stats["peak_bytes_in_use"] for d in devices if (stats := d.memory_stats())]
    return {
        "seconds_per_step": seconds,
        "images_per_second": {
            "min": round(images / max(times), 3),
            "median": round(images / seconds["median"], 3),
        },
        "flops_per_step": None if flops is None else flops * len(devices),
        "bytes_accessed_per_step": costs.get("bytes accessed"),
        "flops_per_second": rate,
        "utilisation": None if rate is None or peak is None else rate / (peak * len(devices)),
        "program_memory_gib": {
            "arguments": gib(memory.argument_size_in_bytes),
            "temporary": gib(memory.temp_size_in_bytes),
        },
        "peak_device_memory_gib": gib(max(used)) if used else None,
        "peak_host_memory_gib": gib(peak_memory_bytes()),
    }


def random_batch(config: Any) -> dict[str, dict[str, np.ndarray]]:
    """This process's part of a batch of noise: what is in it changes no time."""
    rng = np.random.default_rng(0)
    size = tuple(config.crop_size)
    labeled, unlabeled = (
        n // jax.process_count() for n in (config.batch_size_labeled, config.batch_size_unlabeled)
    )

    def images(count):
        return rng.integers(0, 256, (count, *size, 3), np.uint8)

    # Patches, not single pixels: as in a mask, most neighbours are equal.
    coarse = rng.integers(0, config.data.num_classes, (labeled, *(n // 8 + 1 for n in size)))
    label = coarse.repeat(8, 1).repeat(8, 2)[:, : size[0], : size[1]].astype(np.uint8)
    batch = {
        "labeled": {"image": images(labeled), "label": label},
        "unlabeled": {"image": images(unlabeled), "inside": np.ones((unlabeled, *size), bool)},
    }
    if config.method.gate == "oracle":
        batch["unlabeled"]["label"] = np.zeros((unlabeled, *size), np.uint8)
        del batch["unlabeled"]["inside"]
    if simulation := make_simulation(config):
        thin = [thin_out(one, simulation.stride) for one in label]
        batch["labeled"]["simulated"] = np.stack(thin)
    return batch
