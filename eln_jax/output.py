"""Where commands write: what they refuse to write over, and what they say of a full disk."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from eln_jax.errors import StorageError, UserError, is_full


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


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file that is there as a whole, or as it was before."""
    temporary = path.with_suffix(".tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)  # it takes room where there may be none
        raise


def refuse_training(output: Path) -> None:
    """Refuses the folder of a training, whose report and figures would be written over.

    Raises:
        UserError: it is one.
    """
    if (output / "config.json").is_file() and (output / "checkpoints").is_dir():
        raise UserError(
            f"--output={output} is the folder of a training, whose own files would be overwritten; "
            f"name a folder in it, as {output / 'found'}, or elsewhere."
        )
