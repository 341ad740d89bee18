"""A JAX function as an ONNX graph: traced with sizes unknown, then written operation by operation.

The graph is the traced program itself (its jaxpr), not a second description of the networks. What
follows from weights alone is computed at once, loops over classes are unrolled, and what no output
needs is left out. `onnx_operations` says what each operation becomes.
"""

import ast
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import onnx
from jax.extend.core import Literal
from onnx import TensorProto, helper, numpy_helper

from eln_jax.errors import UserError
from eln_jax.training.onnx_operations import OPERATIONS, Operation, Value

OPSET = 17  # of 2022: any ONNX runtime since knows it
_IR_VERSION = 8  # of the file, as opset 17 came with


def to_onnx(
    function: Callable[..., Mapping[str, jax.Array]],
    argument: jax.ShapeDtypeStruct,
    properties: Mapping[str, str],
) -> bytes:
    """Turns a function of one array into an ONNX model.

    Args:
        function: from one array to arrays by name; the name of its parameter is the input's.
        argument: shape and type of that array; unknown sizes are those of `export.symbolic_shape`.
        properties: what the model's metadata says, by name.

    Returns:
        The model, serialised, of opset 17; it has passed ONNX's own checks.

    Raises:
        UserError: the function has an operation that has no form here.
    """
    traced, results = jax.make_jaxpr(function, return_shape=True)(argument)
    (input_name,) = inspect.signature(function).parameters
    graph = Graph(input_name, argument.shape)
    outputs = graph.run(traced, [input_name])
    keys = [path[0].key for path, _ in jax.tree_util.tree_leaves_with_path(results)]
    for key, value in zip(keys, outputs, strict=True):
        graph.nodes.append(helper.make_node("Identity", [graph.name(value)], [key]))
    nodes, weights = graph.used(keys)
    made = helper.make_graph(
        nodes,
        "segmenter",
        [_describe(input_name, argument)],
        [_describe(key, results[key]) for key in keys],
        weights,
    )
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(
        made, opset_imports=opset, ir_version=_IR_VERSION, producer_name="eln_jax"
    )
    helper.set_model_props(model, dict(properties))
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _describe(name: str, array: Any) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(array.dtype))
    shape = [size if isinstance(size, int) else str(size) for size in array.shape]
    return helper.make_tensor_value_info(name, kind, shape)


class Graph:
    """An ONNX graph under construction.

    A value is the name of a tensor, or a NumPy array where it follows from the weights alone.

    Attributes:
        nodes: in the order in which they can be run.
        weights: tensors by name.
    """

    def __init__(self, input_name: str, input_shape: Sequence[Any]):
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, onnx.TensorProto] = {}
        self._names: dict[Any, str] = {}  # of arrays and unknown sizes that have been written
        self._kept: list[np.ndarray] = []  # so that no two arrays of `_names` share an id
        self._count = 0
        for axis, size in enumerate(input_shape):
            if not isinstance(size, int):
                self._names[str(size)] = self.add("Shape", [input_name], start=axis, end=axis + 1)

    def run(self, program: Any, arguments: Sequence[Value]) -> list[Value]:
        """Writes a traced program.

        Args:
            program: a closed jaxpr.
            arguments: values of its parameters.

        Returns:
            Values of its results.
        """
        jaxpr = program.jaxpr
        constants = [np.asarray(constant) for constant in program.consts]
        values = dict(zip(jaxpr.constvars + jaxpr.invars, [*constants, *arguments], strict=True))

        def read(variable: Any) -> Value:
            if isinstance(variable, Literal):
                aval: Any = variable.aval
                return np.asarray(variable.val, aval.dtype)
            return values[variable]

        for equation in jaxpr.eqns:
            found = self._apply(equation, [read(variable) for variable in equation.invars])
            values.update(zip(equation.outvars, found, strict=True))
        return [read(variable) for variable in jaxpr.outvars]

    def _apply(self, equation: Any, arguments: list[Value]) -> list[Value]:
        """Writes one operation of a traced program, or computes it."""
        name, params = equation.primitive.name, equation.params
        if name == "scan":
            return self._unroll(equation, arguments)
        inner = params.get("jaxpr", params.get("call_jaxpr"))
        if inner is not None:  # a function in a function
            return self.run(inner, arguments)
        sizes = [size for variable in equation.outvars for size in variable.aval.shape]
        known = not any(isinstance(argument, str) for argument in arguments)
        if known and name != "dim_as_value" and all(isinstance(size, int) for size in sizes):
            found = equation.primitive.bind(*arguments, **params)
            return [
                np.asarray(x) for x in (found if equation.primitive.multiple_results else [found])
            ]
        if name not in OPERATIONS:
            raise UserError(
                f"The network has the operation {name}, which has no ONNX form here; export "
                "without --onnx."
            )
        shapes = [variable.aval.shape for variable in equation.invars]
        (result,) = [variable.aval for variable in equation.outvars]
        operation = Operation(params, arguments, shapes, result.shape, result.dtype)
        return [OPERATIONS[name](self, operation)]

    def _unroll(self, equation: Any, arguments: list[Value]) -> list[Value]:
        """A loop that carries values through the leading axis of arrays, turn by turn."""
        turn = equation.params["jaxpr"]
        ranks = [
            (outer.aval.ndim, inner.aval.ndim)
            for outer, inner in zip(
                (*equation.invars, *equation.outvars),
                (*turn.jaxpr.invars, *turn.jaxpr.outvars),
                strict=True,
            )
        ]
        # Arguments are constants, what is carried, and what is sliced, which thereby loses an axis.
        # (Their numbers are told by other names in every version of jax.)
        given, returned = ranks[: len(arguments)], ranks[len(arguments) :]
        sliced = sum(outer != inner for outer, inner in given)
        if any(outer != inner for outer, inner in returned) or equation.params["reverse"]:
            raise UserError("The network has a loop that has no ONNX form; export without --onnx.")
        start, end = len(arguments) - sliced - len(returned), len(arguments) - sliced
        state = arguments[start:end]
        for i in range(equation.params["length"]):
            place = np.asarray(i, np.int64)
            slices = [self.add("Gather", [x, place], axis=0) for x in arguments[end:]]
            state = self.run(turn, [*arguments[:start], *state, *slices])
        return state

    def add(self, operation: str, inputs: Sequence[Value], **attributes: Any) -> str:
        """Adds a node of one output; returns its name."""
        self._count += 1
        output = f"{operation.lower()}_{self._count}"
        names = [self.name(value) for value in inputs]
        self.nodes.append(helper.make_node(operation, names, [output], output, **attributes))
        return output

    def name(self, value: Value) -> str:
        """The name of a value; an array becomes a tensor of the file."""
        if isinstance(value, str):
            return value
        small = value.size <= 8
        key = (value.dtype.str, value.shape, value.tobytes()) if small else id(value)
        if key not in self._names:
            self._kept.append(value)
            self._names[key] = name = f"weight_{len(self.weights)}"
            self.weights[name] = numpy_helper.from_array(value.copy(order="C"), name)
        return self._names[key]

    def shape(self, sizes: Sequence[Any]) -> Value:
        """Sizes, some of them maybe unknown, as an int64 vector."""
        if all(isinstance(size, int) for size in sizes):
            return np.array(sizes, np.int64)
        return self.add("Concat", [self.size(size) for size in sizes], axis=0)

    def size(self, size: Any) -> Value:
        """One size as an int64 vector of length 1."""
        if isinstance(size, int):
            return np.array([size], np.int64)
        key = str(size)
        if key not in self._names:
            self._names[key] = self.name(self._compute(ast.parse(key, mode="eval").body))
        return self._names[key]

    def _compute(self, expression: ast.expr) -> Value:
        """An expression of unknown sizes, in the notation of `export.symbolic_shape`."""
        match expression:
            case ast.Constant(int(number)):
                return np.array([number], np.int64)
            case ast.Name(name):
                return self._names[name]
            case ast.UnaryOp(ast.USub(), operand):
                return self.add("Neg", [self._compute(operand)])
            case ast.BinOp(left, ast.Add() | ast.Sub() | ast.Mult() as operator, right):
                operation = {ast.Add: "Add", ast.Sub: "Sub", ast.Mult: "Mul"}[type(operator)]
                return self.add(operation, [self._compute(left), self._compute(right)])
            case ast.Call(ast.Name("max" | "min" | "mod" as name), arguments):
                return self.add(name.capitalize(), [self._compute(x) for x in arguments])
            case ast.Call(ast.Name("floordiv"), arguments):
                # ONNX's Div rounds towards zero, so the remainder goes first.
                whole, part = (self._compute(x) for x in arguments)
                rest = self.add("Mod", [whole, part])
                return self.add("Div", [self.add("Sub", [whole, rest]), part])
        raise UserError(
            f"The network has maps of size {ast.unparse(expression)}, which has no ONNX form here; "
            "export without --onnx."
        )

    def used(self, outputs: Sequence[str]) -> tuple[list[onnx.NodeProto], list[TensorProto]]:
        """The nodes and tensors that the outputs need."""
        needed, kept = set(outputs), []
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                kept.append(node)
                needed.update(node.input)
        weights = [weight for name, weight in self.weights.items() if name in needed]
        return kept[::-1], weights
