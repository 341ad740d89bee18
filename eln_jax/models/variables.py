"""A folder that holds the weights of all networks, and how to build the networks again.

`model.safetensors` has every array under its path ("params/student/encoder/conv1/kernel");
`model.json` says what they are and carries the SHA-256 of the former.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from eln_jax.errors import UserError
from eln_jax.models.torch_names import flatten, unflatten

_ARRAYS = "model.safetensors"
METADATA = "model.json"


def save_variables(
    path: str | os.PathLike[str], variables: Mapping[str, Any], metadata: Mapping[str, Any]
) -> None:
    """Writes variables and metadata into a folder, which is made where it is missing.

    Args:
        path: The folder.
        variables: {"params", "batch_stats"}, each {"student", "aux_decoders", "eln"}, of arrays.
        metadata: What is needed to build the networks again; anything JSON can hold.
    """
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    flat = {key: np.ascontiguousarray(value) for key, value in flatten(variables).items()}
    # `save_file` would make a file that its owner alone can read, and tell of a full disk in words.
    (folder / _ARRAYS).write_bytes(save(flat))
    text = json.dumps({**metadata, "sha256": {_ARRAYS: sha256(folder / _ARRAYS)}}, indent=2)
    (folder / METADATA).write_text(text + "\n", encoding="utf-8")


def load_variables(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads what `save_variables` wrote.

    Args:
        path: The folder.

    Returns:
        The variables as NumPy arrays, and the metadata.

    Raises:
        UserError: The folder does not hold such files, or they were altered.
    """
    folder = Path(path)
    for name in (METADATA, _ARRAYS):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: holds no {name}; give a folder that convert wrote.")
    try:
        metadata = json.loads((folder / METADATA).read_text(encoding="utf-8"))
        expected = metadata.pop("sha256")[_ARRAYS]
        if sha256(folder / _ARRAYS) != expected:
            raise UserError(f"{folder / _ARRAYS}: altered since it was written; convert again.")
        variables = unflatten(load_file(folder / _ARRAYS))
    except UserError:
        raise
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder}: damaged ({error}); convert again.") from None
    for collection in ("params", "batch_stats"):
        # A flat file cannot tell of an empty dict: no auxiliary decoders.
        variables.setdefault(collection, {}).setdefault("aux_decoders", {})
    return variables, metadata


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
