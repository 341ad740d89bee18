"""Several processes that work as one: how they find each other, and what they tell each other."""

import contextlib
import io
import os
import pickle
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from eln_jax.errors import UserError

# What tells a process its place where no cluster does. JAX itself reads the first alone.
_ADDRESS, _COUNT, _INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"


def join() -> None:
    """Finds the other processes; to be called before JAX is asked for a device.

    On TPU VMs, Slurm, Open MPI and GKE the cluster tells where they are, elsewhere the environment.

    Raises:
        UserError: nothing tells it.
    """
    given = {name: os.environ[name] for name in (_COUNT, _INDEX) if os.environ.get(name)}
    try:
        place = {name: int(value) for name, value in given.items()}
        # It would take SIGTERM for itself until the training looks for it, and knows no Ctrl-C.
        jax.config.update("jax_enable_preemption_service", False)
        jax.distributed.initialize(num_processes=place.get(_COUNT), process_id=place.get(_INDEX))
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"--distributed: the other processes cannot be found ({error}): start on TPU VMs, by "
            f"Slurm, Open MPI or GKE, or set {_ADDRESS}=HOST:PORT, {_COUNT} and {_INDEX} for "
            "each process."
        ) from error


def is_first() -> bool:
    """Whether this is the process that prints and writes for all."""
    return jax.process_index() == 0


def only_the_first_speaks() -> contextlib.AbstractContextManager[Any]:
    """Within it the standard output of all other processes goes nowhere."""
    return contextlib.nullcontext() if is_first() else contextlib.redirect_stdout(io.StringIO())


def say(show: Callable[[str], None], words: str) -> None:
    """Shows what a single process has to tell: of others than the first on standard error."""
    if is_first():
        show(words)
    else:
        print(f"Process {jax.process_index()}: {words}", file=sys.stderr, flush=True)


def by_the_first(act: Callable[[], None]) -> None:
    """Lets the first process do something for all, which wait for it; all must call it.

    Raises:
        UserError: the first one's, in every process.
    """
    complaint: UserError | None = None
    if is_first():
        try:
            act()
        except UserError as error:
            complaint = error
    complaint = gather(complaint)[0]
    if complaint is not None:
        raise complaint


def check_same(value: Any, words: str) -> None:
    """Refuses to go on with processes that differ in something; all must call it.

    Args:
        value: anything that pickle takes, compared by ==.
        words: what it is, such as "configuration".

    Raises:
        UserError: it is not the same everywhere.
    """
    values = gather(value)
    others = [str(index) for index, other in enumerate(values) if other != values[0]]
    if others:
        raise UserError(
            f"Process {', '.join(others)} of {len(values)} has another {words} than process 0: "
            "start all with the same command, and give all hosts the same files."
        )


def share_of(items: Sequence[Any]) -> Sequence[Any]:
    """Every n-th item, with n processes, so that each item is some process's.

    Raises:
        UserError: there are fewer items than processes.
    """
    count = jax.process_count()
    if len(items) < count:
        raise UserError(f"{count} processes for {len(items)} images: start no more than that.")
    return items[jax.process_index() :: count]


def gather(value: Any) -> list[Any]:
    """Every process's value, in the order of the processes; all must call it.

    Args:
        value: anything that pickle takes, below 2 GiB. It comes from our own processes alone.
    """
    if jax.process_count() == 1:
        return [value]
    own = np.frombuffer(pickle.dumps(value), np.uint8)
    sizes = np.asarray(multihost_utils.process_allgather(np.int32(own.size))).reshape(-1)
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: own.size] = own
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [pickle.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]
