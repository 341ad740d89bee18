"""Which checkpoints are as they were written, and what becomes of one that is not."""

from collections.abc import Callable
from pathlib import Path

import jax

from eln_jax.errors import UserError
from eln_jax.training import manifest
from eln_jax.training.processes import gather, is_first

ASIDE = "checkpoints_damaged"  # folder in the workdir
# Stands in orbax's own description of a checkpoint that was written with a manifest.
PROMISE = {"manifest": manifest.NAME}
_DESCRIPTION = "_CHECKPOINT_METADATA"


def finished_steps(directory: Path) -> list[int]:
    """The steps of the checkpoints that became visible in a folder, in rising order."""
    return sorted(int(path.name) for path in directory.glob("*") if path.name.isdigit())


def find_fault(checkpoint: Path) -> str:
    """Compares a checkpoint with its manifest; every process looks at a share of the files.

    All processes must call it, and all get the same answer.

    Returns:
        What is wrong, naming the file; empty if nothing is, or if there is no telling.
    """
    files, fault = {}, ""
    try:
        files = manifest.read(checkpoint)
        if files is None:
            fault = f"the content of {checkpoint / manifest.NAME} has changed since it was written"
    except FileNotFoundError:
        if not predates_manifests(checkpoint):
            fault = f"{checkpoint / manifest.NAME} is missing"
    except OSError as error:
        fault = f"{checkpoint / manifest.NAME} cannot be read ({error.strerror})"
    share = dict(sorted((files or {}).items())[jax.process_index() :: jax.process_count()])
    return next(filter(None, gather(fault or manifest.find_fault(checkpoint, share))), "")


def predates_manifests(checkpoint: Path) -> bool:
    """Whether a checkpoint was written by a version of eln_jax that made no manifest."""
    try:
        description = (checkpoint / _DESCRIPTION).read_bytes()
    except OSError:
        return False
    return not (checkpoint / manifest.NAME).exists() and manifest.NAME.encode() not in description


def settle(directory: Path, *, previous_if_damaged: bool, tell: Callable[[str], None]) -> None:
    """Sees to it that the latest checkpoint of a folder is whole.

    Args:
        directory: holds the checkpoints.
        previous_if_damaged: set damaged ones aside, as far as there is a whole one before them.
        tell: takes a sentence for the screen.

    Raises:
        UserError: the latest is damaged and may not be set aside, or none is whole.
    """
    damaged: dict[int, str] = {}
    for step in reversed(gather(finished_steps(directory))[0]):
        fault = find_fault(directory / str(step))
        if not fault:
            break
        damaged[step] = fault
        if not previous_if_damaged:
            raise UserError(
                f"The checkpoint of step {step} is damaged: {fault}; put the file back, or go on "
                "from the newest whole checkpoint with --previous_if_damaged."
            )
    else:
        if damaged:
            raise UserError(
                f"No checkpoint in {directory} is whole ({'; '.join(damaged.values())}): put the "
                "files back, or start in another --workdir."
            )
        return
    for bad, fault in damaged.items():
        place = _set_aside(directory / str(bad))
        tell(f"The checkpoint of step {bad} is damaged ({fault}) and now lies in {place}.")
    tell_if_unchecked(directory / str(step), tell)


def tell_if_unchecked(checkpoint: Path, tell: Callable[[str], None]) -> None:
    """Says so if a checkpoint has no checksums to compare with."""
    if predates_manifests(checkpoint):
        tell(
            f"The checkpoint of step {checkpoint.name} was written without checksums, by an "
            "earlier version: whether it is damaged cannot be checked."
        )


def _set_aside(checkpoint: Path) -> Path:
    """Moves a checkpoint out of the way, so that its step can be saved again; keeps it."""
    aside = checkpoint.parent.parent / ASIDE
    number, place = 1, aside / checkpoint.name
    while place.exists():
        number += 1
        place = aside / f"{checkpoint.name}_{number}"
    gather(None)  # all have found the same place
    if is_first():
        aside.mkdir(exist_ok=True)
        checkpoint.rename(place)
    gather(None)
    return place
