"""Where commands write: what they refuse, and what they say of a full disk."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from eln_jax.errors import StorageError, UserError, is_full

_UNFINISHED = ".unfinished_"


def check_place(flag: str, output: Path) -> None:
    """Finds out whether a folder can be made or written to, before time goes by; leaves nothing.

    Args:
        flag: that names it, such as "--output".
        output: the folder, or a file that is not there yet.

    Raises:
        UserError: it cannot; a StorageError if there is no room.
    """
    whole = output.absolute()
    there = next(path for path in (whole, *whole.parents) if os.path.lexists(path))
    if not there.is_dir():
        what = "is no folder" if there == whole else f"lies below {there}, which is no folder"
        raise UserError(f"{flag}={output} {what}; name another place.")
    try:
        tempfile.TemporaryDirectory(prefix=".eln_jax_", dir=there).cleanup()
    except OSError as error:
        if is_full(error):
            raise StorageError(
                f"{flag}={output}: {error.strerror}; make room, and give the same command again."
            ) from error
        cannot = "written to" if there == whole else "made"
        raise UserError(
            f"{flag}={output} cannot be {cannot} ({error.strerror}); name another place."
        ) from error


@contextlib.contextmanager
def room_for(output: Path) -> Iterator[None]:
    """Says what is to be written; of a full disk the system tells no name.

    Raises:
        StorageError: there is no room.
    """
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        raise StorageError(
            f"{error.filename or output} cannot be written ({error.strerror}); make room, and give "
            "the same command again."
        ) from error


@contextlib.contextmanager
def all_or_nothing(output: Path) -> Iterator[Path]:
    """Gives a place for a new file or folder, which takes its own once all of it is written.

    What fails leaves nothing, what is killed nothing that `refuse_taken` would refuse the next try
    for. Into a folder that is there, as a mount must be, it moves entry by entry.

    Args:
        output: a path where nothing is, or an empty folder, which may be a mount or a link.

    Yields:
        A path where nothing is yet.
    """
    beside = output if output.is_dir() else output.parent
    beside.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=beside) as temporary:
        partial = Path(temporary, "new")
        yield partial
        if output.is_dir():
            for path in partial.iterdir():
                path.rename(output / path.name)
        else:
            partial.rename(output)


def refuse_taken(output: Path) -> None:
    """Refuses to write where something is, but for an empty folder; clears up after a killed try.

    Raises:
        UserError: something is there.
    """
    inside = list(output.iterdir()) if output.is_dir() else []
    is_free = output.is_dir() and all(path.name.startswith(_UNFINISHED) for path in inside)
    if os.path.lexists(output) and not is_free:
        raise UserError(f"{output}: exists already; name another --output or remove it.")
    for path in inside:
        shutil.rmtree(path)


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file that is there as a whole, or as it was before."""
    temporary = path.with_suffix(".tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)  # it takes room where there may be none
        if isinstance(error, OSError):
            error.filename = str(path)
        raise


def refuse_training(output: Path) -> None:
    """Refuses the folder of a training, whose report and figures would be written over.

    Raises:
        UserError: it is one, or that of its own evaluation or checkpoints.
    """
    own = output.name in ("last_evaluation", "checkpoints")
    run = output.parent if own else output
    if (run / "config.json").is_file() and (run / "checkpoints").is_dir():
        raise UserError(
            f"--output={output} is the folder of a training, whose own files would be overwritten; "
            f"name a folder in it, as {run / 'found'}, or elsewhere."
        )
