"""Data parallelism: the batch is split over all devices, the state is copied to each, or split too.

Under `jit` the rest follows: losses and batch statistics are those of the whole batch, as on one
device; parameters that are split are gathered where they are used, and their gradients summed where
they are kept (ZeRO, Rajbhandari et al. 2020, https://arxiv.org/abs/1910.02054, known as FSDP).
"""

import math
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from eln_jax.errors import UserError
from eln_jax.training import processes

# Arrays of fewer elements are not split: to gather them costs more time than they cost memory.
_SPLIT_FROM = 2**14


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


def state_shardings(abstract_state: Any, mesh: Mesh) -> Any:
    """How a state is split over the devices: each array along its largest side that divides.

    Args:
        abstract_state: arrays, or what has their shapes.
        mesh: the devices.

    Returns:
        A sharding for every array. Small ones, and those without a side that divides, are whole on
        every device.
    """

    def choose(array: Any) -> NamedSharding:
        sides = [side for side in array.shape if side % mesh.size == 0]
        if not sides or math.prod(array.shape) < _SPLIT_FROM:
            return replicated(mesh)
        axes: list[str | None] = [None] * len(array.shape)
        axes[array.shape.index(max(sides))] = "data"
        return NamedSharding(mesh, PartitionSpec(*axes))

    return jax.tree.map(choose, abstract_state)


def put_state(state: Any, shardings: Any) -> Any:
    """Puts a state that every process has made alike onto the devices of all of them.

    Raises:
        UserError: the processes have made different ones, as of different pretrained weights.
    """
    if jax.process_count() == 1:
        return jax.device_put(state, shardings)
    checksum = 0
    for array in jax.tree.leaves(state):
        checksum = zlib.crc32(np.asarray(array).tobytes(), checksum)
    processes.check_same(checksum, "set of first weights")

    def put(array: Any, sharding: NamedSharding) -> jax.Array:
        whole = np.asarray(array)
        return jax.make_array_from_callback(whole.shape, sharding, lambda part: whole[part])

    return jax.tree.map(put, state, shardings)


def local_mesh(mesh: Mesh) -> Mesh:
    """The mesh of this process's devices: what it can work with alone."""
    return mesh if jax.process_count() == 1 else make_mesh(mesh.local_devices)


def local_copy(tree: Any, mesh: Mesh) -> Any:
    """Arrays whole on each of this process's devices, for `local_mesh`; all processes must call it.

    Nothing is copied of what is whole on every device already.
    """
    if not all(x.sharding.is_fully_replicated for x in jax.tree.leaves(tree)):
        tree = jax.jit(lambda tree: tree, out_shardings=replicated(mesh))(tree)
    if jax.process_count() == 1:
        return tree
    whole = replicated(local_mesh(mesh))

    def take(x: jax.Array) -> jax.Array:
        parts = [shard.data for shard in x.addressable_shards]
        return jax.make_array_from_single_device_arrays(x.shape, whole, parts)

    return jax.tree.map(take, tree)


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """Puts this process's part of a batch onto its devices."""
    sharding = split(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def check_batch_size(name: str, batch_size: int, mesh: Mesh, accumulation: int = 1) -> None:
    """Refuses a batch whose parts, taken one after another, do not divide over the devices.

    Raises:
        UserError: naming the field and the nearest sizes that fit.
    """
    unit = mesh.size * accumulation
    if batch_size % unit:
        smaller, larger = batch_size // unit * unit, -(-batch_size // unit) * unit
        fitting = " or ".join(str(n) for n in (smaller, larger) if n > 0)
        parts = f" in {accumulation} parts (accumulation)" if accumulation > 1 else ""
        raise UserError(
            f"{name}={batch_size} does not divide over {mesh.size} devices{parts}; use {fitting}."
        )


def round_up(batch_size: int, mesh: Mesh) -> int:
    """The least multiple of the number of devices that holds a batch; the last is filled anyway."""
    return -(-batch_size // mesh.size) * mesh.size
