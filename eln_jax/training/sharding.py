"""Data parallelism: the batch is split over all devices, the state is copied to each.

Under `jit` the rest follows: losses and batch statistics are those of the whole batch, as on one
device.
"""

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from eln_jax.errors import UserError


def make_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh of all devices of all processes (or of those given) along one axis, "data"."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), ("data",), (AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding of arrays that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """Sharding of batches: split along the first axis."""
    return NamedSharding(mesh, PartitionSpec("data"))


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """Puts this process's part of a batch onto its devices."""
    sharding = split(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def check_batch_size(name: str, batch_size: int, mesh: Mesh) -> None:
    """Refuses a batch that does not divide over the devices.

    Raises:
        UserError: naming the field and the nearest sizes that fit.
    """
    devices = mesh.size
    if batch_size % devices:
        smaller, larger = batch_size // devices * devices, -(-batch_size // devices) * devices
        fitting = " or ".join(str(n) for n in (smaller, larger) if n > 0)
        raise UserError(
            f"{name}={batch_size} does not divide over {devices} devices; use {fitting}."
        )


def round_up(batch_size: int, mesh: Mesh) -> int:
    """The least multiple of the number of devices that holds a batch; the last is filled anyway."""
    return -(-batch_size // mesh.size) * mesh.size
