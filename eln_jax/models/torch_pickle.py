"""A pickle machine that calls nothing: enough of the format to read weights, and no more.

A pickle is a small program; `pickle.load` runs it with everything that Python can import. Here the
program is stepped through by hand, over the opcodes that `pickletools` decodes: containers and
numbers are built, the few names in which PyTorch writes tensors are recognised by their spelling,
and everything else is refused. No name is ever imported, no object ever called.
"""

import dataclasses
import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO

from eln_jax.errors import UserError

# PyTorch's names of storage classes, with the NumPy-style names of what they hold.
STORAGE_DTYPES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
_REBUILD_TENSOR = {"_rebuild_tensor", "_rebuild_tensor_v2"}
_DTYPES = {"float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8"}
_ALLOWED = (
    {("torch", name) for name in {*STORAGE_DTYPES, *_DTYPES, "bool", "Size"}}
    | {("torch._utils", name) for name in {*_REBUILD_TENSOR, "_rebuild_parameter"}}
    | {("collections", "OrderedDict")}
)


@dataclasses.dataclass(frozen=True)
class Storage:
    """A flat block of numbers that lies elsewhere in the file.

    `offset` is in elements: old files have storages that begin inside another one.
    """

    key: str
    dtype: str
    size: int
    offset: int = 0


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor as the pickle tells of it; sizes, strides and offset count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Name:
    """One of PyTorch's names, as text: `torch.float32` for instance."""

    module: str
    name: str


_MARK = object()  # where a tuple, list or dict begins on the stack


def read_pickle(stream: BinaryIO, source: str) -> Any:
    """Reads one pickle from where `stream` stands and leaves the stream behind it.

    Args:
        stream: Binary file or buffer.
        source: Name of the file, for messages.

    Returns:
        Nested dicts (also for OrderedDict), lists, tuples and plain values; a tensor is a `Tensor`
        that still has to be looked up in its storage.

    Raises:
        UserError: The pickle is damaged, or asks for anything that weights do not need.
    """
    machine = _Machine(source)
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name == "STOP":
                return machine.pop()
            machine.step(opcode.name, argument)
    except UserError:
        raise
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise UserError(f"{source}: its pickle is damaged ({error}).") from None
    raise UserError(f"{source}: its pickle has no end.")


class _Machine:
    """Stack and memo of one pickle, with one method a family of opcodes."""

    def __init__(self, source: str):
        self._source = source
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        if name in _LITERALS:
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name]())
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)
        else:
            raise UserError(f"{self._source}: refused, unread: {name} is not used by weights.")

    def pop(self) -> Any:
        item = self._stack.pop()
        if item is _MARK:
            raise ValueError("a mark where a value belongs")
        return item

    def _pop_to_mark(self) -> list[Any]:
        start = len(self._stack) - 1
        while self._stack[start] is not _MARK:
            start -= 1
            if start < 0:
                raise ValueError("no mark on the stack")
        items = self._stack[start + 1 :]
        del self._stack[start:]
        return items

    def _put(self, index: Any) -> None:
        self._memo[len(self._memo) if index is None else index] = self._stack[-1]

    def _get(self, index: int) -> None:
        self._stack.append(self._memo[index])

    def _tuple(self, size: int | None) -> None:
        items = self._pop_to_mark() if size is None else [self.pop() for _ in range(size)][::-1]
        self._stack.append(tuple(items))

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            raise ValueError("items for something that is not a list")
        target.extend(items)

    def _update(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise ValueError("entries for something that is not a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Other keys are not needed, and hashing a hostile one can exhaust the C stack.
            if not isinstance(key, str | int):
                raise ValueError(f"a dict key of type {type(key).__name__}")
            target[key] = value

    def _list(self, _: Any) -> None:
        self._stack.append(self._pop_to_mark())

    def _dict(self, _: Any) -> None:
        items = self._pop_to_mark()
        self._stack.append({})
        self._update(items)

    def _append(self, _: Any) -> None:
        self._extend([self.pop()])

    def _appends(self, _: Any) -> None:
        self._extend(self._pop_to_mark())

    def _set_item(self, _: Any) -> None:
        self._update([self.pop(), self.pop()][::-1])

    def _set_items(self, _: Any) -> None:
        self._update(self._pop_to_mark())

    def _name(self, argument: str | None) -> None:
        if argument is None:
            name, module = self.pop(), self.pop()
        else:
            module, _, name = argument.partition(" ")
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a name that is not text")
        if (module, name) not in _ALLOWED:
            raise UserError(
                f"{self._source}: refused, nothing was run: it asks for {module}.{name}, which "
                "weights do not need; if you trust it, save its state_dict alone with PyTorch."
            )
        self._stack.append(Name(module, name))

    def _persistent(self, _: Any) -> None:
        self._stack.append(_storage(self.pop()))

    def _build(self, _: Any) -> None:
        self.pop()  # attributes of an OrderedDict (module versions): not weights
        if type(self._stack[-1]) is not dict:
            raise ValueError("attributes for something that has none")

    def _reduce(self, _: Any) -> None:
        arguments, name = self.pop(), self.pop()
        if not isinstance(name, Name) or type(arguments) is not tuple:
            raise ValueError("a call of something that is not a name")
        if name.name == "OrderedDict":
            self._stack.append({})
            if arguments:  # Python 2 wrote the entries as one list of pairs
                self._update([item for pair in arguments[0] for item in pair])
        elif name.name in _REBUILD_TENSOR:
            self._stack.append(_tensor(*arguments[:4]))
        elif name.name == "_rebuild_parameter":
            if not isinstance(arguments[0], Tensor):
                raise ValueError("a parameter without a tensor")
            self._stack.append(arguments[0])
        elif name.name == "Size":
            self._stack.append(_sizes(arguments[0]))
        else:
            raise ValueError(f"a call of {name.name}")


def _storage(description: Any) -> Storage:
    """Checks what the pickle says of a storage: kind, class, key, device, size, view."""
    if type(description) is not tuple or description[0] != "storage":
        raise ValueError("something other than a storage outside the pickle")
    _, name, key, _, size, *view = description
    if not isinstance(name, Name) or name.name not in STORAGE_DTYPES:
        raise ValueError("a storage of no known type")
    if not isinstance(key, str):
        raise ValueError("a storage without a key")
    dtype = STORAGE_DTYPES[name.name]
    if view and view[0] is not None:
        _, offset, _ = view[0]
        return Storage(key, dtype, _count(size), _count(offset))
    return Storage(key, dtype, _count(size))


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> Tensor:
    if not isinstance(storage, Storage):
        raise ValueError("a tensor without a storage")
    tensor = Tensor(storage, _count(offset), _sizes(shape), _sizes(strides))
    if len(tensor.shape) != len(tensor.strides):
        raise ValueError("a tensor with more sizes than strides")
    return tensor


def _sizes(values: Any) -> tuple[int, ...]:
    if not isinstance(values, tuple | list) or len(values) > 32:
        raise ValueError("sizes that are no short list")
    return tuple(_count(value) for value in values)


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**48:
        raise ValueError(f"a count of {value!r}"[:60])
    return value


_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
    *("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "MARK": lambda: _MARK,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda *_: None,
    "FRAME": lambda *_: None,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine._put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine._get),
    "TUPLE": _Machine._tuple,
    "TUPLE1": lambda machine, _: machine._tuple(1),
    "TUPLE2": lambda machine, _: machine._tuple(2),
    "TUPLE3": lambda machine, _: machine._tuple(3),
    "LIST": _Machine._list,
    "DICT": _Machine._dict,
    "APPEND": _Machine._append,
    "APPENDS": _Machine._appends,
    "SETITEM": _Machine._set_item,
    "SETITEMS": _Machine._set_items,
    "GLOBAL": _Machine._name,
    "STACK_GLOBAL": _Machine._name,
    "BINPERSID": _Machine._persistent,
    "BUILD": _Machine._build,
    "REDUCE": _Machine._reduce,
}
