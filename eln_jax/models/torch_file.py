"""Reads and writes PyTorch's `.pth` files without PyTorch and without running their pickle.

Two containers are in use: a zip archive (PyTorch 1.6 and later) with one pickle beside one entry
for each storage, and the older chain of pickles followed by the raw storages. `torch_pickle` reads
the pickle; here its tensors are found in the storages and copied out.
"""

import io
import math
import os
import struct
import zipfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np

from eln_jax.errors import UserError
from eln_jax.models.torch_pickle import Name, Storage, Tensor, read_pickle
from eln_jax.models.torch_pickle_writer import write_pickle

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_NOT_TORCH = "not a PyTorch file (neither a zip archive nor the older format)"
_MAX_DEPTH = 32
# What Python's zipfile raises for an archive that is cut short or altered.
_ZIP_ERRORS = (
    *(zipfile.BadZipFile, EOFError, KeyError, NotImplementedError, OSError, RuntimeError),
    *(ValueError, OverflowError, struct.error),
)
_Bytes = bytes | memoryview
_LoadStorage = Callable[[Storage], _Bytes]


def read_torch_file(path: str | os.PathLike[str], *, skip: Collection[str] = ()) -> Any:
    """Reads what `torch.save` wrote: tensors as NumPy arrays, containers as dict, list and tuple.

    Args:
        path: A `.pth` or `.pt` file.
        skip: Top-level keys to leave out; their tensors are not read at all. A checkpoint's
            optimiser states are twice the size of its weights.

    Returns:
        What the file holds, usually a dict. Arrays are read-only; those of bfloat16 have the
        dtype that JAX gives them.

    Raises:
        UserError: No such file, not a PyTorch file, damaged, or asking to run code. Nothing in
            the file is ever executed.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file.")
    with path.open("rb") as stream:
        start = stream.read(2)
        stream.seek(0)
        if start == b"PK":
            return _read_zip(stream, path, skip)
    if start[:1] == b"\x80":
        return _read_legacy(path, skip)
    raise UserError(f"{path}: {_NOT_TORCH}.")


def write_torch_file(path: str | os.PathLike[str], value: Any) -> None:
    """Writes nested containers of NumPy arrays as a zip file that `torch.load` reads.

    Equal values give equal bytes, whatever the path and the time.

    Args:
        path: The `.pth` file to write.
        value: Dicts with text or integer keys, lists, tuples, arrays, numbers, text and None.

    Raises:
        UserError: Something in `value` has no form in such a file.
    """
    data, storages = write_pickle(value)
    with zipfile.ZipFile(path, "w") as archive:
        # A ZipInfo made by name alone has a fixed date.
        archive.writestr(zipfile.ZipInfo("archive/data.pkl"), data)
        archive.writestr(zipfile.ZipInfo("archive/byteorder"), b"little")
        for key, storage in enumerate(storages):
            archive.writestr(zipfile.ZipInfo(f"archive/data/{key}"), storage)
        archive.writestr(zipfile.ZipInfo("archive/version"), b"3\n")


def _read_zip(stream: BinaryIO, path: Path, skip: Collection[str]) -> Any:
    try:
        with zipfile.ZipFile(stream) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise UserError(f"{path}: a zip file, but not one that torch.save wrote.")
            root = pickles[0].removesuffix("data.pkl")
            if f"{root}byteorder" in archive.namelist():
                _require_little(_read_entry(archive, f"{root}byteorder", path) == b"little", path)
            tree = read_pickle(io.BytesIO(_read_entry(archive, pickles[0], path)), str(path))

            def load(storage: Storage) -> bytes:
                return _read_entry(archive, f"{root}data/{storage.key}", path)

            return _materialise(tree, load, path, skip)
    except UserError:
        raise
    except _ZIP_ERRORS as error:
        raise UserError(f"{path}: the zip file is damaged ({error}).") from None


def _read_entry(archive: zipfile.ZipFile, name: str, path: Path) -> bytes:
    entry = archive.getinfo(name)
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
        # PyTorch never compresses; a compressed entry could unpack to any size.
        raise UserError(f"{path}: refused: {name} is compressed, which torch.save does not do.")
    if entry.header_offset + entry.compress_size > path.stat().st_size:
        raise UserError(f"{path}: damaged or cut short: {name} is not whole.")
    return archive.read(entry)


def _read_legacy(path: Path, skip: Collection[str]) -> Any:
    data = memoryview(path.read_bytes())  # arrays are views into it
    stream = io.BytesIO(data)
    start = stream.read(2)
    stream.seek(0)
    if start != b"\x80\x02" or read_pickle(stream, str(path)) != _LEGACY_MAGIC:
        raise UserError(f"{path}: not a PyTorch file (neither a zip archive nor the older format).")
    read_pickle(stream, str(path))  # protocol number
    system = read_pickle(stream, str(path))
    _require_little(isinstance(system, dict) and bool(system.get("little_endian")), path)
    tree = read_pickle(stream, str(path))
    keys = read_pickle(stream, str(path))
    itemsizes = {storage.key: _dtype(storage).itemsize for storage in _storages(tree)}
    places: dict[str, tuple[int, int]] = {}
    for key in keys if isinstance(keys, list) else []:
        count = int.from_bytes(stream.read(8), "little", signed=True)
        size = count * itemsizes.get(key, 0) if isinstance(key, str) else 0
        place = stream.tell()
        if count < 0 or size == 0 < count or place + size > len(data):
            raise UserError(f"{path}: damaged or cut short: storage {key!r} is not whole.")
        places[key] = (place, size)
        stream.seek(place + size)

    def load(storage: Storage) -> memoryview:
        if storage.key not in places:
            raise UserError(f"{path}: damaged: storage {storage.key!r} is missing.")
        place, size = places[storage.key]
        return data[place : place + size]

    return _materialise(tree, load, path, skip)


def _require_little(little: bool, path: Path) -> None:
    if not little:
        raise UserError(f"{path}: written on a big-endian machine; save it again on another one.")


def _storages(tree: Any) -> list[Storage]:
    """All storages of a tree, each container visited once (hostile ones refer to themselves)."""
    found, seen, left = [], set(), [tree]
    while left:
        item = left.pop()
        if isinstance(item, Tensor):
            found.append(item.storage)
        elif isinstance(item, dict | list | tuple) and id(item) not in seen:
            seen.add(id(item))
            left.extend(item.values() if isinstance(item, dict) else item)
    return found


def _materialise(tree: Any, load: _LoadStorage, path: Path, skip: Collection[str]) -> Any:
    """Replaces every `Tensor` in a tree by an array."""
    done: dict[int, Any] = {}  # by identity: shared containers once, not once a way to them
    storages: dict[str, _Bytes] = {}

    def visit(item: Any, depth: int) -> Any:
        if isinstance(item, Tensor):
            if item.storage.key not in storages:
                storages[item.storage.key] = load(item.storage)
            return _array(item, storages[item.storage.key], path)
        if isinstance(item, Name):
            return f"{item.module}.{item.name}"
        if isinstance(item, Storage):
            raise UserError(f"{path}: refused: it holds a storage that belongs to no tensor.")
        if not isinstance(item, dict | list | tuple):
            return item
        if depth > _MAX_DEPTH:
            raise UserError(f"{path}: refused: its containers are nested too deeply.")
        if id(item) not in done:
            if isinstance(item, dict):
                done[id(item)] = {key: visit(value, depth + 1) for key, value in item.items()}
            else:
                done[id(item)] = type(item)(visit(value, depth + 1) for value in item)
        return done[id(item)]

    if isinstance(tree, dict):
        tree = {key: value for key, value in tree.items() if key not in skip}
    return visit(tree, 0)


def _dtype(storage: Storage) -> np.dtype:
    return np.dtype(jnp.bfloat16 if storage.dtype == "bfloat16" else storage.dtype)


def _array(tensor: Tensor, data: _Bytes, path: Path) -> np.ndarray:
    """Views a tensor in its storage, after checking that it lies inside.

    A view, not a copy: thousands of tensors in one storage then need no more memory than one.
    """
    dtype, size = _dtype(tensor.storage), tensor.storage.size
    start = tensor.storage.offset + tensor.offset
    reach = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True))
    if 0 in tensor.shape and math.prod(max(n, 1) for n in tensor.shape) < 2**32:
        return np.zeros(tensor.shape, dtype)
    # The product: strides of 0 could make a small file look like any amount of numbers.
    inside = 0 not in tensor.shape and start + reach < size and math.prod(tensor.shape) <= size
    if len(data) != size * dtype.itemsize or not inside:
        raise UserError(f"{path}: damaged: a tensor of shape {tensor.shape} exceeds its storage.")
    return np.ndarray(
        tensor.shape,
        dtype,
        buffer=data,
        offset=start * dtype.itemsize,
        strides=[stride * dtype.itemsize for stride in tensor.strides],
    )


def to_mapping(value: Any, path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """Returns `value` if it is a dict with text keys, as a file of weights must hold.

    Raises:
        UserError: It is something else.
    """
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise UserError(f"{path}: holds {type(value).__name__}, not a dict of named weights.")
    return value
