"""DeepLabV3+ checkpoints of PyTorch codes with torchvision's names as ours, and back.

Such a code keeps one state dict: `backbone.` before torchvision's names of a ResNet, and
`classifier.` with `project` (low features), `aspp` and `classifier` (fusion and classes), as the
widely used VainF/DeepLabV3Plus-Pytorch has it. torchvision's own networks are DeepLabV3, which has
no low features.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from eln_jax.errors import UserError
from eln_jax.models.encoders import ENCODERS
from eln_jax.models.resnet import ResNet
from eln_jax.models.segmenter import build_networks
from eln_jax.models.torch_names import Layer, conv, give, norm, prefixed, resnet_layers, take

# Under which name training codes put a network's weights beside optimiser and the like.
_ENVELOPES = ("enc_state_dict", "state_dict", "model_state_dict", "model_state", "model")
_BLOCKS = {  # blocks of the third stage, and whether they are bottlenecks
    (2, False): "resnet18",
    (6, False): "resnet34",
    (6, True): "resnet50",
    (23, True): "resnet101",
}
_CLASSES = "classifier.classifier.3.weight"
_IGNORED = ("aux_classifier.",)


class Converted(NamedTuple):
    """A checkpoint in our layout.

    Attributes:
        variables: {"params", "batch_stats"}, each {"student"}. The head of the embeddings, which
            the checkpoint has not, is 0: it takes no part in prediction.
        encoder: name in `ENCODERS`.
        num_classes: without void.
        batches_tracked: its counts of batch-norm updates, by name; ours keep none.
    """

    variables: dict[str, Any]
    encoder: str
    num_classes: int
    batches_tracked: dict[str, int]


def open_envelope(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    """Takes the network's state dict out of what a training code has saved."""
    for name in _ENVELOPES:
        if isinstance(checkpoint.get(name), Mapping):
            return checkpoint[name]
    return checkpoint


def from_torchvision(state: Mapping[str, Any], source: str = "the checkpoint") -> Converted:
    """Maps a state dict to our variables.

    Args:
        state: name -> array.
        source: what it is, for messages.

    Raises:
        UserError: it is of another network, or an entry is missing, unknown or of another shape;
            the first such entry is named.
    """
    weight = state.get(_CLASSES)
    if not isinstance(weight, np.ndarray) or weight.ndim != 4:
        raise UserError(
            f"{source}: neither an official checkpoint (with enc_state_dict) nor a DeepLabV3+ with "
            f"torchvision's names (with {_CLASSES}); of any other network the encoder alone can be "
            "used, to start a training (model.pretrained=FILE)."
        )
    blocks = sum(f"backbone.layer3.{i}.conv1.weight" in state for i in range(len(state)))
    encoder = _BLOCKS.get((blocks, "backbone.layer1.0.conv3.weight" in state))
    if encoder is None:
        raise UserError(f"{source}: its backbone is no ResNet-18, -34, -50 or -101.")
    expected = _shapes(encoder, weight.shape[0])
    taken = take(state, list(_layers(encoder)), expected, source, ignore=_IGNORED)
    embeddings = jax.tree.map(
        lambda leaf: np.zeros(leaf.shape, leaf.dtype), expected["params"]["decoder"]["proj_head"]
    )
    taken.variables["params"]["decoder"]["proj_head"] = embeddings
    variables = {kind: {"student": tree} for kind, tree in taken.variables.items()}
    return Converted(variables, encoder, weight.shape[0], taken.batches_tracked)


def to_torchvision(
    variables: Mapping[str, Any], encoder: str, batches_tracked: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """Reverses `from_torchvision`, byte by byte."""
    parts = {kind: tree["student"] for kind, tree in variables.items()}
    return give(parts, _layers(encoder), batches_tracked)


def _shapes(encoder: str, num_classes: int) -> Mapping[str, Any]:
    networks = build_networks(
        encoder=encoder, output_stride=16, num_classes=num_classes, architecture="torchvision"
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    return jax.eval_shape(networks.student.init, key, image)


def _layers(encoder: str) -> Iterator[Layer]:
    """The layers of a state dict in its order."""
    module = ENCODERS[encoder]()
    assert isinstance(module, ResNet)
    yield from prefixed(resnet_layers(module), "backbone.", "encoder/")
    yield from prefixed(_decoder_layers(), "classifier.", "decoder/")


def _decoder_layers() -> Iterator[Layer]:
    yield conv("project.0", "low_conv")
    yield norm("project.1", "low_bn")
    for i in range(4):
        yield conv(f"aspp.convs.{i}.0", f"aspp/conv{i + 1}")
        yield norm(f"aspp.convs.{i}.1", f"aspp/bn{i + 1}")
    yield conv("aspp.convs.4.1", "aspp/pool_conv")
    yield norm("aspp.convs.4.2", "aspp/pool_bn")
    yield conv("aspp.project.0", "aspp/project_conv")
    yield norm("aspp.project.1", "aspp/project_bn")
    yield conv("classifier.0", "conv")
    yield norm("classifier.1", "bn")
    yield conv("classifier.3", "classes", bias=True)
