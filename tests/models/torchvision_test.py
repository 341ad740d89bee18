"""DeepLabV3+ checkpoints with torchvision's names: the outputs of the PyTorch code, and back.

`golden/deeplabv3plus.json` lists the entries of VainF/DeepLabV3Plus-Pytorch's deeplabv3plus_
resnet50 (5 classes, output stride 16) with their shapes, `deeplabv3plus.npz` what it computed of an
image (float32, CPU) with the values that `golden_value` gives each entry.
"""

import json

import jax
import numpy as np
import pytest

from eln_jax.errors import UserError
from eln_jax.models.layers import resize_bilinear_centred
from eln_jax.models.segmenter import build_networks
from eln_jax.models.torchvision import from_torchvision, open_envelope, to_torchvision
from tests.golden_weights import FOLDER, golden_value


@pytest.fixture(scope="module")
def state():
    shapes = json.loads((FOLDER / "deeplabv3plus.json").read_text())
    return {key: np.asarray(golden_value(key, tuple(shape))) for key, shape in shapes.items()}


@pytest.fixture(scope="module")
def converted(state):
    return from_torchvision(state)


def test_the_network_computes_what_the_pytorch_code_does(converted):
    networks = build_networks(
        encoder=converted.encoder,
        output_stride=16,
        num_classes=converted.num_classes,
        architecture="torchvision",
    )
    variables = {kind: tree["student"] for kind, tree in converted.variables.items()}
    with np.load(FOLDER / "deeplabv3plus.npz") as golden:
        image, expected = golden["image"].astype(np.float32), golden["logits"]
    logits = jax.jit(networks.student.apply)(variables, image).logits
    found = resize_bilinear_centred(logits, expected.shape[1:3])
    bound = 1e-4 * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=bound)


def test_there_and_back_is_the_same_byte_by_byte(state, converted):
    assert (converted.encoder, converted.num_classes) == ("resnet50", 5)
    again = to_torchvision(converted.variables, converted.encoder, converted.batches_tracked)
    assert list(again) == list(state)
    assert all(again[key].tobytes() == state[key].tobytes() for key in state)


def test_an_auxiliary_classifier_is_left_behind_and_anything_else_named(state):
    extra = np.zeros(3, np.float32)
    assert from_torchvision(state | {"aux_classifier.4.bias": extra}).num_classes == 5
    with pytest.raises(UserError, match=r"x\.pth: classifier\.more is not known"):
        from_torchvision(state | {"classifier.more": extra}, "x.pth")
    missing = {key: value for key, value in state.items() if "aspp.convs.4.1" not in key}
    with pytest.raises(UserError, match=r"aspp\.convs\.4\.1\.weight is missing"):
        from_torchvision(missing)
    without = {key: value for key, value in state.items() if "layer3" not in key}
    with pytest.raises(UserError, match="its backbone is no ResNet"):
        from_torchvision(without)
    with pytest.raises(UserError, match="neither an official checkpoint"):
        from_torchvision({"backbone.conv1.weight": extra})


@pytest.mark.parametrize("name", ["model_state", "state_dict", ""])
def test_the_state_dict_is_found_beside_what_else_was_saved(name):
    state = {"a": 1}
    assert open_envelope({name: state, "epoch": 3} if name else state) == state
