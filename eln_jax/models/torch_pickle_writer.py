"""Writes the pickle inside a PyTorch file, opcode by opcode, without PyTorch.

`pickle.Pickler` writes a name only after importing it; these few opcodes need no import.
"""

import struct
from typing import Any

import numpy as np

from eln_jax.errors import UserError
from eln_jax.models.torch_pickle import STORAGE_DTYPES

_STORAGE_NAMES = {dtype: name for name, dtype in STORAGE_DTYPES.items()}
_ORDERED_DICT = b"ccollections\nOrderedDict\n)R"  # the name, no arguments, made


def write_pickle(value: Any) -> tuple[bytes, list[bytes]]:
    """Pickles nested containers of arrays with protocol 2.

    Args:
        value: Dicts with text or integer keys, lists, tuples, arrays, numbers, text and None.

    Returns:
        The pickle, and the raw little-endian bytes of each storage; the pickle calls them "0",
        "1", and so on.

    Raises:
        UserError: Something in `value` has no form in such a file.
    """
    writer = _Writer()
    data = b"\x80\x02" + writer.encode(value) + b"."
    return data, writer.storages


class _Writer:
    def __init__(self):
        self.storages: list[bytes] = []

    def encode(self, value: Any) -> bytes:
        if isinstance(value, dict):
            items = b"".join(self.encode(key) + self.encode(item) for key, item in value.items())
            return b"}(" + items + b"u"
        if isinstance(value, list):
            return b"](" + b"".join(map(self.encode, value)) + b"e"
        if isinstance(value, tuple):
            return b"(" + b"".join(map(self.encode, value)) + b"t"
        if isinstance(value, np.ndarray | np.generic):
            return self._tensor(np.asarray(value))
        return _plain(value)

    def _tensor(self, array: np.ndarray) -> bytes:
        name = _STORAGE_NAMES.get(array.dtype.name)
        if name is None:
            raise UserError(f"Arrays of {array.dtype.name} cannot be written to a PyTorch file.")
        key = str(len(self.storages))
        self.storages.append(array.astype(array.dtype.newbyteorder("<")).tobytes())
        strides = tuple(
            int(np.prod(array.shape[axis + 1 :], dtype=np.int64)) for axis in range(array.ndim)
        )
        storage = b"(%s%s%s%s%st" % (
            _plain("storage"),
            f"ctorch\n{name}\n".encode(),
            _plain(key),
            _plain("cpu"),
            _plain(array.size),
        )
        arguments = (0, array.shape, strides, False)  # offset, sizes, strides, requires_grad
        return b"ctorch._utils\n_rebuild_tensor_v2\n(%sQ%s%stR" % (
            storage,
            b"".join(map(self.encode, arguments)),
            _ORDERED_DICT,  # no backward hooks
        )


def _plain(value: Any) -> bytes:
    if value is None:
        return b"N"
    if isinstance(value, bool):
        return b"\x88" if value else b"\x89"
    if isinstance(value, int):
        if -(2**31) <= value < 2**31:
            return b"J" + struct.pack("<i", value)
        digits = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + bytes([len(digits)]) + digits
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        text = value.encode()
        return b"X" + struct.pack("<I", len(text)) + text
    raise UserError(f"Values of type {type(value).__name__} cannot be written to a PyTorch file.")
