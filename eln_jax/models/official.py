"""Weights of the authors' PyTorch code (kinux98/SSL_ELN) as ours, and back.

Their checkpoint is a dict of state dicts, one a network: `enc_state_dict`, `dec_state_dict`,
`eln_state_dict` and `dec_0`, `dec_1`, ... for the auxiliary decoders. Depth, classes and the number
of auxiliary decoders follow from what it holds, and every entry of it is used exactly once.
"""

import functools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from eln_jax.errors import UserError
from eln_jax.models.encoders import ENCODERS
from eln_jax.models.resnet import ResNet
from eln_jax.models.segmenter import build_networks, init_networks
from eln_jax.models.torch_names import Layer, conv, give, norm, prefixed, resnet_layers, take

ELN_ENCODER = "resnet34"
_ENCODERS = {6: "resnet50", 23: "resnet101"}  # by the number of blocks in the third stage
_State = Mapping[str, Mapping[str, Any]]


class Official(NamedTuple):
    """An official checkpoint in our layout.

    Attributes:
        variables: {"params", "batch_stats"}, each {"student", "aux_decoders", "eln"}.
        encoder: "resnet50" or "resnet101"; the ELN's is a ResNet-34 always.
        num_classes: Without void.
        num_aux_decoders: K.
        batches_tracked: Its counts of batch-norm updates, by name; ours keep none.
    """

    variables: dict[str, Any]
    encoder: str
    num_classes: int
    num_aux_decoders: int
    batches_tracked: dict[str, int]


class _Network(NamedTuple):
    """One state dict of the checkpoint: where its weights go, and its layers in order."""

    name: str
    path: tuple[str, ...]
    layers: list[Layer]


def from_official(state: _State, source: str = "the checkpoint") -> Official:
    """Maps an official checkpoint to our variables.

    Args:
        state: {"enc_state_dict": {name: array}, ...}; what is no network (epoch, optimiser,
            scaler) is ignored.
        source: What it is, for messages.

    Returns:
        The variables as NumPy arrays, and what was inferred on the way.

    Raises:
        UserError: Not an official checkpoint, or an entry is missing, unknown or of another shape;
            the first such entry is named.
    """
    for name in ("enc_state_dict", "dec_state_dict", "eln_state_dict"):
        if not isinstance(state.get(name), Mapping):
            raise UserError(f"{source}: not an official checkpoint: it holds no {name}.")
    encoder = _infer_encoder(state["enc_state_dict"], source)
    num_classes = _infer_num_classes(state["dec_state_dict"], source)
    num_aux = 0
    while isinstance(state.get(f"dec_{num_aux}"), Mapping):
        num_aux += 1
    expected = _shapes(encoder, num_classes, num_aux)
    variables = {kind: {"student": {}, "aux_decoders": {}, "eln": {}} for kind in expected}
    counts: dict[str, int] = {}
    for name, path, layers in _networks(encoder, num_aux):
        wanted = {kind: _at(tree, path) for kind, tree in expected.items()}
        taken = take(state[name], layers, wanted, f"{source}: {name}")
        for kind, tree in taken.variables.items():
            _at(variables[kind], path[:-1])[path[-1]] = tree
        counts |= {f"{name}.{key}": count for key, count in taken.batches_tracked.items()}
    return Official(variables, encoder, num_classes, num_aux, counts)


def to_official(
    variables: Mapping[str, Any], batches_tracked: Mapping[str, int] | None = None
) -> dict[str, dict[str, np.ndarray]]:
    """Maps our variables to an official checkpoint; reverses `from_official` byte by byte.

    Args:
        variables: {"params", "batch_stats"}, each {"student", "aux_decoders", "eln"}, of a
            ResNet-50 or -101 with a ResNet-34 in the ELN.
        batches_tracked: Counts of batch-norm updates from `from_official`; None: all 0.

    Returns:
        {"enc_state_dict": {name: array}, ...} with names in the official code's order.

    Raises:
        UserError: The networks are none that the official code could load.
    """
    params = variables["params"]
    blocks = sum(name.startswith("layer3_") for name in params["student"]["encoder"])
    bottleneck = "conv3" in params["student"]["encoder"].get("layer1_0", {})
    eln_blocks = sum(name.startswith("layer3_") for name in params["eln"]["encoder"])
    if blocks not in _ENCODERS or not bottleneck or eln_blocks != 6:
        raise UserError(
            "The official code knows ResNet-50 and ResNet-101 with a ResNet-34 in the ELN; "
            "networks with other encoders have no official form."
        )
    if params["eln"]["encoder"]["conv1"]["kernel"].shape[2] == 3:
        raise UserError(
            "The official code's ELN sees the prediction; one whose encoder sees the image alone "
            "(model.eln_second_opinion, model.eln_frozen_encoder) has no official form."
        )
    state = {}
    for name, path, layers in _networks(_ENCODERS[blocks], len(params["aux_decoders"])):
        counts = {
            key.removeprefix(f"{name}."): count
            for key, count in (batches_tracked or {}).items()
            if key.startswith(f"{name}.")
        }
        parts = {kind: _at(tree, path) for kind, tree in variables.items()}
        state[name] = give(parts, layers, counts)
    return state


def _infer_encoder(state: Mapping[str, Any], source: str) -> str:
    blocks = sum(f"backbone.layer3.{i}.conv1.weight" in state for i in range(len(state)))
    if blocks not in _ENCODERS or "backbone.layer1.0.conv3.weight" not in state:
        raise UserError(
            f"{source}: enc_state_dict is neither a ResNet-50 nor a ResNet-101 "
            f"(its third stage has {blocks} blocks)."
        )
    return _ENCODERS[blocks]


def _infer_num_classes(state: Mapping[str, Any], source: str) -> int:
    weight = state.get("cls.classifier.2.weight")
    if not isinstance(weight, np.ndarray) or weight.ndim != 4:
        raise UserError(f"{source}: dec_state_dict holds no convolution cls.classifier.2.weight.")
    return weight.shape[0]


@functools.cache
def _shapes(encoder: str, num_classes: int, num_aux: int) -> Mapping[str, Any]:
    """The shapes that our own networks would have, found without computing anything."""
    networks = build_networks(encoder=encoder, output_stride=16, num_classes=num_classes)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.eval_shape(lambda key: init_networks(networks, key, (64, 64), num_aux), key)


def _networks(encoder: str, num_aux: int) -> Iterator[_Network]:
    """The state dicts of a checkpoint in its order."""
    backbone = prefixed(_resnet_layers(encoder, "downsample"), "backbone.")
    yield _Network("enc_state_dict", ("student", "encoder"), list(backbone))
    heads = [*_head_layers("cls.classifier", "seg_head")]
    heads += _head_layers("proj.projector", "proj_head")
    yield _Network("dec_state_dict", ("student", "decoder"), [*_decoder_layers(), *heads])
    eln = [
        *prefixed(_resnet_layers(ELN_ENCODER, "shortcut"), "backbone.", "encoder/"),
        *_decoder_layers(),
        *_head_layers("classifier", "head"),
    ]
    yield _Network("eln_state_dict", ("eln",), eln)
    for i in range(num_aux):
        yield _Network(f"dec_{i}", ("aux_decoders", str(i)), [*_decoder_layers(), *heads])


def _resnet_layers(encoder: str, shortcut: str) -> Iterator[Layer]:
    module = ENCODERS[encoder]()
    assert isinstance(module, ResNet)
    return resnet_layers(module, shortcut)


def _decoder_layers() -> Iterator[Layer]:
    """ASPP and fusion, in decoders and ELN alike."""
    for i in range(1, 5):
        yield conv(f"aspp.aspp{i}.atrous_conv", f"aspp/conv{i}")
        yield norm(f"aspp.aspp{i}.bn", f"aspp/bn{i}")
    yield conv("aspp.global_avg_pool.1", "aspp/pool_conv")
    yield conv("aspp.conv1", "aspp/project_conv")
    yield norm("aspp.bn1", "aspp/project_bn")
    yield conv("decoder.conv1", "fusion/low_conv")
    yield norm("decoder.bn1", "fusion/low_bn")
    for i in (1, 2):
        yield conv(f"decoder.last_conv{i}.0", f"fusion/conv{i}")
        yield norm(f"decoder.last_conv{i}.1", f"fusion/bn{i}")
    yield conv("decoder.last_conv3", "fusion/conv3", bias=True)


def _head_layers(torch: str, ours: str) -> Iterator[Layer]:
    yield conv(f"{torch}.0", f"{ours}/conv1", bias=True)
    yield conv(f"{torch}.2", f"{ours}/conv2", bias=True)


def _at(tree: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    for part in path:
        tree = tree[part]
    return tree
