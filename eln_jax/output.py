"""Where commands write: what they refuse to write over."""

from pathlib import Path

from eln_jax.errors import UserError


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
