"""Checksums of a checkpoint's files.

Orbax has none: a flipped bit comes back as a number that is a little, or very much, another. The
manifest is written into the folder before that becomes visible, so that a checkpoint whose manifest
is not there, or not whole, was damaged later.
"""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

NAME = "manifest.json"
_CHUNK = 1 << 20  # bytes read at a time


def write(folder: Path) -> None:
    """Notes size and SHA-256 of every file below a folder in its `manifest.json`.

    Raises:
        OSError: a file cannot be read, or the manifest not be written.
    """
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / NAME)
    names = [path.relative_to(folder).as_posix() for path in paths]
    with ThreadPoolExecutor() as pool:  # hashing lets other threads run
        files = dict(zip(names, pool.map(_look, paths), strict=True))
    (folder / NAME).write_text(_text(files), encoding="utf-8")


def read(folder: Path) -> dict[str, dict[str, Any]] | None:
    """Returns {file: {"bytes", "sha256"}}; None if the manifest is damaged.

    Raises:
        FileNotFoundError: there is none.
    """
    content = (folder / NAME).read_bytes()
    try:
        files = json.loads(content)["files"]
        whole = content == _text(files).encode()
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return files if whole else None


def find_fault(folder: Path, files: dict[str, dict[str, Any]]) -> str:
    """Compares files with what the manifest says of them.

    Args:
        folder: that of the manifest.
        files: those to compare, as `read` has them.

    Returns:
        What is wrong with the first that is not as it was, as "FILE is missing"; empty if all are.
    """
    with ThreadPoolExecutor() as pool:
        faults = pool.map(lambda name: _fault(folder / name, files[name]), files)
        return next(filter(None, faults), "")


def _fault(path: Path, expected: dict[str, Any]) -> str:
    try:
        size = path.stat().st_size
        if size != expected["bytes"]:
            return f"{path} has {size} bytes instead of {expected['bytes']}"
        if _look(path) != expected:
            return f"the content of {path} has changed since it was written"
    except FileNotFoundError:
        return f"{path} is missing"
    except OSError as error:
        return f"{path} cannot be read ({error.strerror})"
    return ""


def _look(path: Path) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return {"bytes": size, "sha256": digest.hexdigest()}


def _text(files: dict[str, dict[str, Any]]) -> str:
    """The manifest, which also carries the checksum of what it says itself."""
    listed = json.dumps(files, indent=1, sort_keys=True)
    own = hashlib.sha256(listed.encode()).hexdigest()
    return f'{{"sha256": "{own}",\n"files": {listed}}}\n'
