"""Where commands write: what they refuse to write over, and what they say of a full disk."""

import contextlib
import tempfile
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


@contextlib.contextmanager
def all_or_nothing(output: Path) -> Iterator[Path]:
    """Gives a place for a new file or folder, which takes its own once all of it is written.

    What fails leaves nothing that the next try would be refused for.

    Args:
        output: a path where nothing is, or an empty folder, which may be a mount or a link.

    Yields:
        A path where nothing is yet.
    """
    beside = output if output.is_dir() else output.parent
    beside.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unfinished_", dir=beside) as temporary:
        partial = Path(temporary, "new")
        yield partial
        if output.is_dir():
            for path in partial.iterdir():
                path.rename(output / path.name)
        else:
            partial.rename(output)


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
