"""From a configuration to the parts of a run: data, networks and compiled programs."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jax.sharding import Mesh

from eln_jax.data import pipeline
from eln_jax.training import sharding
from eln_jax.training.bookkeeping import phases
from eln_jax.training.gate_fitting import ORACLE_WORDS
from eln_jax.training.inputs import Inputs, make_inputs
from eln_jax.training.networks import (
    EvaluationNetworks,
    make_evaluation_networks,
    make_networks,
)
from eln_jax.training.programs import Programs, make_programs

# With fewer validation images than this, one of them moves the scores by many points.
_FEW = 4
_FEW_WORDS = " So few validation images tell little: take the scores with caution."


@dataclass(frozen=True)
class Parts:
    """What the training loop drives.

    Attributes:
        config: the configuration.
        data: what it reads.
        programs: what trains.
        evaluation: student or teacher, alone and with the ELN, as evaluation runs them.
    """

    config: Any
    data: Inputs
    programs: Programs
    evaluation: EvaluationNetworks

    @property
    def description(self) -> str:
        """One sentence on what the run does, for the screen."""
        config, partition = self.config, self.data.partition
        steps = ", ".join(f"{p.end - p.start} {p.name}" for p in phases(config.steps))
        kinds = sorted({device.device_kind for device in self.programs.mesh.devices.flat})
        return (
            f"Training {config.model.encoder} on {len(partition.labeled)} labelled and "
            f"{len(partition.unlabeled)} unlabelled images, validating on {len(partition.val)}; "
            f"steps: {steps}; devices: {self.programs.mesh.size} x {', '.join(kinds)}."
            + ("" if partition.unlabeled else " The labelled images serve as unlabelled too.")
            + (f" {ORACLE_WORDS}" if config.method.gate == "oracle" else "")
            + (_FEW_WORDS if len(partition.val) < _FEW else "")
        )


def build(config: Any, mesh: Mesh | None = None) -> Parts:
    """Builds the parts of a run; nothing is trained or written.

    Args:
        config: fields as in `eln_jax.defaults`, already checked.
        mesh: devices; all if None.

    Raises:
        UserError: data or pretrained weights cannot be had, or a batch does not divide.
    """
    mesh = sharding.make_mesh() if mesh is None else mesh
    check_batches(config, mesh)
    data = make_inputs(config)
    networks = make_networks(config)
    weights = None
    if config.method.class_balance == "sqrt":
        weights = _sqrt_weights(pipeline.class_frequencies(data.train, data.partition.labeled))
    return Parts(
        config=config,
        data=data,
        programs=make_programs(config, networks, mesh, weights),
        evaluation=make_evaluation_networks(config, networks),
    )


def check_batches(config: Any, mesh: Mesh) -> None:
    """Refuses batches that do not divide over the devices.

    Raises:
        UserError: naming the field and the nearest sizes that fit.
    """
    for name in ("batch_size_labeled", "batch_size_unlabeled"):
        sharding.check_batch_size(name, config[name], mesh, config.accumulation)


def _sqrt_weights(share: np.ndarray) -> tuple[float, ...]:
    """Inverse square roots of the classes' shares, of mean 1 over the classes that occur."""
    occurs = share > 0
    weights = np.where(occurs, 1.0 / np.sqrt(np.where(occurs, share, 1.0)), 0.0)
    return tuple(float(w) for w in weights / weights[occurs].mean())
