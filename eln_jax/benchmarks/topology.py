"""Whether a training fits on TPUs that are not there: XLA's compiler for them runs anywhere."""

import os
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.experimental import topologies

from eln_jax import target
from eln_jax.benchmarks.figures import gib
from eln_jax.benchmarks.step import random_batch
from eln_jax.errors import UserError
from eln_jax.training import sharding
from eln_jax.training.networks import make_networks
from eln_jax.training.programs import make_programs


def compile_for(
    name: str, config: Any, phases: Sequence[str], say: Callable[[str], None]
) -> dict[str, Any]:
    """Compiles the steps for a TPU slice, whose devices share every batch.

    Args:
        name: of the slice as JAX calls it, such as "v5e:2x2".
        config: of the run.
        phases: names of those to compile.
        say: told what goes on.

    Returns:
        "devices", and by phase "compile_seconds"; "fits", with "why_not" if it does not; else
        "memory_gib" of each device ("arguments", "temporary", "total") and "flops_per_step" of
        all.

    Raises:
        UserError: there is no such slice, libtpu is not installed, or a batch does not divide.
    """
    devices = _devices(name)
    mesh = sharding.make_mesh(devices)
    for field in ("batch_size_labeled", "batch_size_unlabeled"):
        sharding.check_batch_size(field, config[field], mesh, config.accumulation)
    report: dict[str, Any] = {"devices": [device.device_kind for device in devices]}
    with target.traced_for("tpu"):
        networks = make_networks(config)
        programs = make_programs(config, networks, mesh, (1.0,) * config.data.num_classes)
        state, key = programs.abstract_state(), jax.eval_shape(lambda: jax.random.key(config.seed))
        batch = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding.split(mesh)),
            random_batch(config),
        )
        for phase in phases:
            say(f"Compiling the step of phase {phase} for {name}; this takes minutes ...")
            parts = ("labeled", "unlabeled") if phase == "semi_supervised" else ("labeled",)
            chosen = {part: batch[part] for part in parts}
            started = time.perf_counter()
            lowered = programs.steps[phase].lower(state, chosen, key)
            report[phase] = _compiled(lowered, len(devices))
            report[phase]["compile_seconds"] = round(time.perf_counter() - started, 2)
    return report


def _devices(name: str) -> Sequence[Any]:
    # libtpu looks for the machine's TPU otherwise, and complains at length.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_STDERR_LOG_LEVEL", "3")
    try:
        return topologies.get_topology_desc(name, "tpu").devices
    except RuntimeError as error:
        if "not installed" in str(error):
            raise UserError(
                "--topology needs the compiler for TPUs: pip install 'eln_jax[tpu]', which no "
                "TPU has to be there for."
            ) from error
        reason = str(error).splitlines()[0][:200]
        raise UserError(f"--topology={name}: {reason}; give one such as v5e:2x2.") from error


def _compiled(lowered: Any, devices: int) -> dict[str, Any]:
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        found = re.search(r"Used \S+ of \S+ hbm", str(error))
        if found is None:
            raise
        return {"fits": False, "why_not": f"{found.group()} of each device"}
    memory = compiled.memory_analysis()
    arguments, temporary = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    costs = compiled.cost_analysis() or {}
    flops = costs.get("flops")
    return {
        "fits": True,
        "memory_gib": {
            "arguments": gib(arguments),
            "temporary": gib(temporary),
            "total": gib(arguments + temporary),
        },
        "flops_per_step": None if flops is None else flops * devices,
    }
