"""A run's folder: whose it is, and that only one training writes to it."""

import contextlib
import fcntl
import json
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from eln_jax.defaults import default_config
from eln_jax.errors import StorageError, UserError, is_full
from eln_jax.output import write_whole
from eln_jax.training import processes
from eln_jax.training.bookkeeping import phases
from eln_jax.training.damage import finished_steps
from eln_jax.training.processes import is_first

CONFIG = "config.json"
_LOCK = ".lock"
# A network's file system may show another host's file so many seconds later.
_SEEN_WITHIN = 60.0

# Fields, and blocks of them, that change no result, or only that of a run which has diverged: it
# may go on with other values. A data set and its lists may have moved: that they hold the same
# images, the fingerprint tells.
FREE_ON_RESUME = (
    "checkpoint",
    "compare_supervised",
    "data.classes",
    "data.max_unreadable",
    "data.partition",
    "data.root",
    "data.threads",
    "data.val_list",
    "data.workers",
    "divergence",
    "eval.batch_size",
    "log",
    "shard_state",
)


class Resume(NamedTuple):
    """What an earlier run may be continued in spite of.

    Attributes:
        previous_if_damaged: damaged checkpoints; they are set aside for the newest whole one.
        force_config: another configuration.
    """

    previous_if_damaged: bool = False
    force_config: bool = False


@contextlib.contextmanager
def claimed(
    workdir: Path,
    config_json: str,
    *,
    force: bool = False,
    tell: Callable[[str], None] = print,
) -> Iterator[None]:
    """Makes the run's folder, compares the config, and lets nobody else train there meanwhile.

    Args:
        workdir: the folder.
        config_json: of the run that is to begin or to go on.
        force: go on although fields differ that change results.
        tell: takes lines for the screen: a line a field that differs.

    Raises:
        UserError: it cannot be made, another process trains in it, or it belongs to a run of
            another config; a StorageError if it cannot be written to later.
    """
    with contextlib.ExitStack() as stack:
        claim = _locked(workdir, config_json, force, tell)
        processes.by_the_first(lambda: stack.enter_context(claim))
        _check_shared(workdir)
        try:
            yield
        except OSError as error:
            # As in a folder that is full or gone; files of the data say their own name.
            path = Path(error.filename) if isinstance(error.filename, str) else workdir
            inside = path.absolute().is_relative_to(workdir.absolute())
            if isinstance(error, BrokenPipeError) or not inside:  # nobody reads what we print
                raise
            raise StorageError(
                f"{path} cannot be written ({error.strerror or error}); the checkpoints so far are "
                "whole: make room or bring the folder back, and the same command goes on."
            ) from error


@contextlib.contextmanager
def _locked(
    workdir: Path, config_json: str, force: bool, tell: Callable[[str], None]
) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            # The system lets go of the lock of a killed run.
            lock = stack.enter_context((workdir / _LOCK).open("a+"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lock.truncate(0)
            lock.write(secrets.token_hex())
            lock.flush()
            _compare_config(workdir, config_json, force, tell)
        except BlockingIOError as error:
            raise UserError(
                f"Another process is training in {workdir}: wait for it, stop it, or give another "
                "--workdir."
            ) from error
        except OSError as error:
            if is_full(error):
                raise StorageError(
                    f"There is no room in {workdir} ({error.strerror}): make some, and the same "
                    "command goes on."
                ) from error
            raise UserError(
                f"The folder {workdir} cannot be used as --workdir: {error}."
            ) from error
        yield


def _check_shared(workdir: Path) -> None:
    """Refuses a folder in which not every process sees what the first one has just written."""
    if jax.process_count() == 1:
        return
    lock = workdir / _LOCK
    wanted = processes.gather(lock.read_text() if is_first() else None)[0]
    deadline = time.monotonic() + _SEEN_WITHIN
    while not (seen := lock.is_file() and lock.read_text() == wanted):
        if time.monotonic() > deadline:
            break
        time.sleep(0.5)
    blind = [str(index) for index, sees in enumerate(processes.gather(seen)) if not sees]
    if blind:
        raise UserError(
            f"Process {', '.join(blind)} does not see what process 0 writes to {workdir}: give a "
            "--workdir that all hosts share."
        )


def _compare_config(
    workdir: Path, config_json: str, force: bool, tell: Callable[[str], None]
) -> None:
    """Shows in which fields the config is not that of the run in the folder; refuses some."""
    kept = workdir / CONFIG
    # Without a finished checkpoint there is nothing to go on from, so nothing to contradict.
    if not kept.exists() or not finished_steps(workdir / "checkpoints"):
        return
    try:
        rows = changed_since(kept, config_json)
    except (ValueError, AttributeError) as error:
        raise UserError(
            f"{kept} is damaged, so nobody knows whose run this is: put it back, or give "
            "another --workdir."
        ) from error
    refused = [f"{name}: {a} -> {b}" for name, a, b in rows if not is_free(name)]
    if not rows:
        return
    tell(f"Changed since the run in {workdir} began:")
    for name, a, b in rows:
        verdict = "allowed" if is_free(name) else "forced" if force else "refused"
        tell(f"  {name}: {a} -> {b} ({verdict})")
    if refused and not force:
        raise UserError(
            f"{workdir} holds a run of another configuration ({'; '.join(refused[:5])}); give "
            "another --workdir, the same configuration to go on, or --force_config to go on with "
            "this one."
        )
    if any(name.startswith("steps.") for name, _, _ in rows):
        _check_schedule(workdir, json.loads(kept.read_text(encoding="utf-8")), config_json)


def _check_schedule(workdir: Path, old: dict[str, Any], config_json: str) -> None:
    """Refuses other steps under which what is done would be no part of the run."""
    done = finished_steps(workdir / "checkpoints")[-1]
    steps = [old["steps"], json.loads(config_json)["steps"]]
    begun, wanted = (
        [(phase.name, phase.start) for phase in phases(each) if phase.start < done]
        for each in steps
    )
    if begun != wanted or sum(steps[1].values()) < done:
        raise UserError(
            f"The run in {workdir} has done {done} steps, which the new steps.* would count to "
            "other phases, or which are more than all of them: leave the phases that have begun "
            "where they are, or give another --workdir."
        )


def is_free(name: str) -> bool:
    """Whether a run may go on with another value of a field."""
    return any(name == free or name.startswith(f"{free}.") for free in FREE_ON_RESUME)


def keep_config(workdir: Path, config_json: str) -> None:
    """Keeps the config of a run that goes on; where that changes results, also the one before."""
    if not is_first():
        return
    kept, steps = workdir / CONFIG, finished_steps(workdir / "checkpoints")
    goes_on = kept.exists() and steps
    if goes_on and not all(is_free(name) for name, _, _ in changed_since(kept, config_json)):
        before = workdir / f"{CONFIG}.before_step_{steps[-1]}"
        if not before.exists():  # else those steps were trained by the one that is kept
            write_whole(before, kept.read_bytes())
    write_whole(kept, config_json.encode())


def changed_since(path: Path, config_json: str) -> list[tuple[str, Any, Any]]:
    """As `changed_fields`, from a run's config.json; fields newer than that were at their defaults.

    Raises:
        ValueError, AttributeError: the file is damaged.
    """

    def completed(old, new, defaults):
        newer = {name: defaults[name] for name in new.keys() & (defaults.keys() - old.keys())}
        blocks = {
            name: completed(old.get(name, {}), value, defaults.get(name, {}))
            for name, value in new.items()
            if isinstance(value, dict)
        }
        return {**newer, **old, **blocks}

    old, new = json.loads(path.read_text(encoding="utf-8")), json.loads(config_json)
    defaults = json.loads(json.dumps(default_config().to_dict()))  # with lists, as JSON has them
    return changed_fields(completed(old, new, defaults), new)


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
