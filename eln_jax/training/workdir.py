"""A run's folder: whose it is, and that only one training writes to it."""

import contextlib
import fcntl
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eln_jax.errors import UserError
from eln_jax.training import processes

# A network's file system may show another host's file so many seconds later.
_SEEN_WITHIN = 60.0

# Fields, and blocks of them, that change no result: a run may go on with other values. A data set
# and its lists may have moved: that they hold the same images, the fingerprint tells.
FREE_ON_RESUME = (
    "checkpoint.",
    "compare_supervised:",
    "data.classes:",
    "data.max_unreadable:",
    "data.partition:",
    "data.root:",
    "data.threads:",
    "data.val_list:",
    "data.workers:",
    "eval.batch_size:",
    "log.",
    "shard_state:",
)


@contextlib.contextmanager
def claimed(workdir: Path, config_json: str) -> Iterator[None]:
    """Makes the run's folder, keeps the config in it, and lets nobody else train in it meanwhile.

    Raises:
        UserError: it cannot be made, another process trains in it, or it belongs to a run of
            another config.
    """
    with contextlib.ExitStack() as stack:
        processes.by_the_first(lambda: stack.enter_context(_locked(workdir, config_json)))
        _check_shared(workdir, config_json)
        yield


@contextlib.contextmanager
def _locked(workdir: Path, config_json: str) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            # The system lets go of the lock of a killed run.
            lock = stack.enter_context((workdir / ".lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _keep_config(workdir, config_json)
        except BlockingIOError as error:
            raise UserError(
                f"Another process is training in {workdir}: wait for it, stop it, or give another "
                "--workdir."
            ) from error
        except OSError as error:
            raise UserError(
                f"The folder {workdir} cannot be used as --workdir: {error}."
            ) from error
        yield


def _check_shared(workdir: Path, config_json: str) -> None:
    """Refuses a folder that not every process sees."""
    kept = workdir / "config.json"
    deadline = time.monotonic() + _SEEN_WITHIN
    while not (seen := kept.is_file() and kept.read_text() == config_json):
        if time.monotonic() > deadline:
            break
        time.sleep(0.5)
    blind = [str(index) for index, sees in enumerate(processes.gather(seen)) if not sees]
    if blind:
        raise UserError(
            f"Process {', '.join(blind)} does not see what process 0 writes to {workdir}: give a "
            "--workdir that all hosts share."
        )


def _keep_config(workdir: Path, config_json: str) -> None:
    kept = workdir / "config.json"
    # Without a finished checkpoint there is nothing to go on from, so nothing to contradict.
    if kept.exists() and any(path.name.isdigit() for path in workdir.glob("checkpoints/*")):
        try:
            changes = differences(json.loads(kept.read_text()), json.loads(config_json))
        except (ValueError, AttributeError) as error:
            raise UserError(
                f"{kept} is damaged, so nobody knows whose run this is: put it back, or give "
                "another --workdir."
            ) from error
        changes = [change for change in changes if not change.startswith(FREE_ON_RESUME)]
        if changes:
            raise UserError(
                f"{workdir} holds a run of another configuration ({'; '.join(changes[:5])}); give "
                "another --workdir, or the same configuration to go on."
            )
    temporary = kept.with_suffix(".tmp")
    temporary.write_text(config_json)
    temporary.replace(kept)


def differences(old: dict, new: dict) -> list[str]:
    """Lists "field: old -> new" for every field in which two configurations differ."""
    return [f"{name}: {a} -> {b}" for name, a, b in changed_fields(old, new)]


def changed_fields(old: dict, new: dict, prefix: str = "") -> list[tuple[str, Any, Any]]:
    """Lists (field, old, new) for every field in which two configurations differ."""
    rows = []
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            rows += changed_fields(a, b, f"{prefix}{key}.")
        elif a != b:
            rows.append((f"{prefix}{key}", a, b))
    return rows
