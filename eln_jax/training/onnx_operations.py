"""What JAX's operations are called in ONNX, those that our networks have.

An entry of `OPERATIONS` is `(graph, operation) -> value`, where graph is an `onnx_program.Graph`.
ONNX broadcasts as NumPy does, so that arguments need no common shape.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from onnx import helper

from eln_jax.errors import UserError

Value = str | np.ndarray  # name of a tensor, or an array known in advance


class Operation(NamedTuple):
    """An operation of a traced program that has one result.

    Attributes:
        params: as JAX calls them.
        arguments: values.
        shapes: of the arguments; sizes may be unknown until the model runs.
        shape: of the result.
        dtype: of the result.
    """

    params: Mapping[str, Any]
    arguments: Sequence[Value]
    shapes: Sequence[tuple[Any, ...]]
    shape: tuple[Any, ...]
    dtype: Any


_ONE_TO_ONE = {
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "max": "Max",
    "min": "Min",
    "abs": "Abs",
    "neg": "Neg",
    "sign": "Sign",
    "exp": "Exp",
    "log": "Log",
    "logistic": "Sigmoid",
    "eq": "Equal",
    "gt": "Greater",
    "lt": "Less",
    "ge": "GreaterOrEqual",
    "le": "LessOrEqual",
    "and": "And",
    "reshard": "Identity",
    "stop_gradient": "Identity",
}


def _one_to_one(name: str) -> Callable[..., Value]:
    return lambda graph, operation: graph.add(name, operation.arguments)


def _not_equal(graph, operation):
    return graph.add("Not", [graph.add("Equal", operation.arguments)])


def _remainder(graph, operation):
    return graph.add("Mod", operation.arguments, fmod=1)  # of the dividend's sign, as in JAX


def _select(graph, operation):
    condition, if_false, if_true = operation.arguments
    return graph.add("Where", [condition, if_true, if_false])


def _cast(graph, operation):
    return _as_type(graph, operation.arguments[0], operation.dtype)


def _as_type(graph, value, dtype):
    return graph.add("Cast", [value], to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def _size_as_value(graph, operation):
    size = graph.add("Squeeze", [graph.size(operation.params["dim"]), _vector(0)])
    return _as_type(graph, size, operation.dtype)


def _count_up(graph, operation):
    """Whole numbers along one axis, the same along the others."""
    axis, shape = operation.params["dimension"], operation.shape
    end = graph.add("Squeeze", [graph.size(shape[axis]), _vector(0)])
    numbers = graph.add("Range", [np.array(0, np.int64), end, np.array(1, np.int64)])
    numbers = _as_type(graph, numbers, operation.dtype)
    return _broadcast_axes(graph, numbers, (shape[axis],), shape, (axis,))


def _broadcast(graph, operation):
    axes = operation.params["broadcast_dimensions"]
    return _broadcast_axes(
        graph, operation.arguments[0], operation.shapes[0], operation.shape, axes
    )


def _broadcast_axes(graph, value, shape, target, axes):
    """Puts the axes of a value where `axes` says, and repeats it to the target shape."""
    new = [axis for axis in range(len(target)) if axis not in axes]
    if new:
        value = graph.add("Unsqueeze", [value, _vector(*new)])
    reached: list[Any] = [1] * len(target)
    for size, axis in zip(shape, axes, strict=True):
        reached[axis] = size
    if tuple(reached) == tuple(target):
        return value
    return graph.add("Expand", [value, graph.shape(target)])


def _reshape(graph, operation):
    return graph.add(
        "Reshape", [operation.arguments[0], graph.shape(operation.params["new_sizes"])]
    )


def _squeeze(graph, operation):
    return graph.add("Squeeze", [operation.arguments[0], _vector(*operation.params["dimensions"])])


def _transpose(graph, operation):
    return graph.add("Transpose", operation.arguments, perm=operation.params["permutation"])


def _concatenate(graph, operation):
    return graph.add("Concat", operation.arguments, axis=operation.params["dimension"])


def _pad(graph, operation):
    low, high, inner = zip(*operation.params["padding_config"], strict=True)
    _expect(not any(inner), "pixels inserted between others")
    return graph.add(
        "Pad", [operation.arguments[0], graph.shape([*low, *high]), operation.arguments[1]]
    )


def _cut(graph, operation):
    """A gather at a place that is known, as indexing with numbers and slices makes it."""
    value, place = operation.arguments
    numbers, sizes = operation.params["dimension_numbers"], operation.params["slice_sizes"]
    whole = numbers.offset_dims == tuple(range(len(operation.shape)))
    _expect(whole and isinstance(place, np.ndarray) and place.ndim == 1, "indices to look up")
    starts = [0] * len(sizes)
    for axis, start in zip(numbers.start_index_map, place, strict=True):
        starts[axis] = int(start)
    ends = [start + size for start, size in zip(starts, sizes, strict=True)]
    cut = graph.add("Slice", [value, graph.shape(starts), graph.shape(ends)])
    collapsed = numbers.collapsed_slice_dims
    return graph.add("Squeeze", [cut, _vector(*collapsed)]) if collapsed else cut


def _sum(graph, operation):
    return graph.add(
        "ReduceSum", [operation.arguments[0], _vector(*operation.params["axes"])], keepdims=0
    )


def _maximum(graph, operation):
    return graph.add("ReduceMax", operation.arguments, axes=operation.params["axes"], keepdims=0)


def _place_of_maximum(graph, operation):
    (axis,) = operation.params["axes"]
    found = graph.add("ArgMax", operation.arguments, axis=axis, keepdims=0)
    return _as_type(graph, found, operation.params["index_dtype"])


def _product(graph, operation):
    """A product of arrays, summed over the axes that they share."""
    (left_summed, right_summed), (left_batch, right_batch) = operation.params["dimension_numbers"]
    letters = iter("abcdefghijklmnop")
    left = [next(letters) for _ in operation.shapes[0]]
    right = [next(letters) for _ in operation.shapes[1]]
    for i, j in zip((*left_summed, *left_batch), (*right_summed, *right_batch), strict=True):
        right[j] = left[i]
    kept = [left[i] for i in left_batch]
    kept += [left[i] for i in range(len(left)) if i not in (*left_summed, *left_batch)]
    kept += [right[i] for i in range(len(right)) if i not in (*right_summed, *right_batch)]
    equation = f"{''.join(left)},{''.join(right)}->{''.join(kept)}"
    return graph.add("Einsum", operation.arguments, equation=equation)


def _convolution(graph, operation):
    numbers = operation.params["dimension_numbers"]
    _expect(set(operation.params["lhs_dilation"]) == {1}, "a transposed convolution")
    _expect(operation.params["batch_group_count"] == 1, "a convolution grouped by batch")
    x = graph.add("Transpose", [operation.arguments[0]], perm=numbers.lhs_spec)
    kernel = operation.arguments[1]
    if isinstance(kernel, np.ndarray):
        kernel = kernel.transpose(numbers.rhs_spec)
    else:
        kernel = graph.add("Transpose", [kernel], perm=numbers.rhs_spec)
    low, high = zip(*operation.params["padding"], strict=True)
    pads = [*low, *high]
    if not all(isinstance(pad, int) for pad in pads):
        x = graph.add("Pad", [x, graph.shape([0, 0, *low, 0, 0, *high])])
        pads = [0] * len(pads)
    y = graph.add(
        "Conv",
        [x, kernel],
        strides=operation.params["window_strides"],
        dilations=operation.params["rhs_dilation"],
        pads=pads,
        group=operation.params["feature_group_count"],
    )
    return graph.add("Transpose", [y], perm=np.argsort(numbers.out_spec).tolist())


def _max_pool(graph, operation):
    sizes, strides = operation.params["window_dimensions"], operation.params["window_strides"]
    low, high = zip(*operation.params["padding"], strict=True)
    _expect({sizes[0], sizes[-1]} == {1}, "a window over samples or channels")
    _expect(
        {*operation.params["base_dilation"], *operation.params["window_dilation"]} == {1},
        "a dilated window",
    )
    x = graph.add("Transpose", operation.arguments, perm=(0, 3, 1, 2))
    y = graph.add(
        "MaxPool",
        [x],
        kernel_shape=sizes[1:3],
        strides=strides[1:3],
        pads=[*low[1:3], *high[1:3]],
    )
    return graph.add("Transpose", [y], perm=(0, 2, 3, 1))


def _vector(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def _expect(fits: bool, what: str) -> None:
    if not fits:
        raise UserError(
            f"The network has {what}, which has no ONNX form here; export without --onnx."
        )


OPERATIONS: dict[str, Callable[[Any, Operation], Value]] = {
    **{ours: _one_to_one(theirs) for ours, theirs in _ONE_TO_ONE.items()},
    "ne": _not_equal,
    "rem": _remainder,
    "select_n": _select,
    "convert_element_type": _cast,
    "dim_as_value": _size_as_value,
    "iota": _count_up,
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "squeeze": _squeeze,
    "transpose": _transpose,
    "concatenate": _concatenate,
    "pad": _pad,
    "gather": _cut,
    "reduce_sum": _sum,
    "reduce_max": _maximum,
    "argmax": _place_of_maximum,
    "dot_general": _product,
    "conv_general_dilated": _convolution,
    "reduce_window_max": _max_pool,
}
