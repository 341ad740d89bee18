import jax
import numpy as np
import pytest

from eln_jax.errors import UserError
from eln_jax.models.official import from_official, to_official
from eln_jax.models.segmenter import build_networks, init_networks
from tests.golden_weights import golden_checkpoint, golden_numbers, golden_official


def shapes(num_aux_decoders=2, **settings):
    """Shapes of the variables of freshly built networks."""
    settings = {"encoder": "resnet50", "output_stride": 16, "num_classes": 21, **settings}
    networks = build_networks(**settings)
    init = lambda key: init_networks(networks, key, (64, 64), num_aux_decoders)  # noqa: E731
    return jax.eval_shape(init, jax.random.key(0))


def zeros(tree):
    return jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), tree)


def checkpoint(**changes):
    """The golden checkpoint; `enc__KEY=value` replaces an entry, None takes it out."""
    state = {name: dict(entries) for name, entries in golden_checkpoint().items()}
    for place, value in changes.items():
        network, _, key = place.partition("__")
        if value is None:
            del state[network][key]
        else:
            state[network][key] = value
    return state


def test_variables_fit_the_networks():
    official = golden_official()
    assert (official.encoder, official.num_classes, official.num_aux_decoders) == (
        "resnet50",
        21,
        2,
    )
    expected = shapes()
    assert jax.tree.structure(official.variables) == jax.tree.structure(expected)
    same = jax.tree.map(
        lambda ours, leaf: ours.shape == leaf.shape and ours.dtype == leaf.dtype,
        official.variables,
        expected,
    )
    assert jax.tree.all(same)


def test_round_trip_is_equal_in_bytes_and_order():
    state = golden_checkpoint()
    official = golden_official()
    back = to_official(official.variables, official.batches_tracked)
    keys = [f"{network}.{key}" for network, entries in back.items() for key in entries]
    assert sorted(keys) == sorted(golden_numbers()["shapes"])
    for network, entries in state.items():
        assert list(back[network]) == list(entries)
        for key, value in entries.items():
            ours = back[network][key]
            assert (ours.dtype, ours.shape) == (value.dtype, value.shape), key
            assert ours.tobytes() == value.tobytes(), key


def test_counts_of_updates_survive():
    key = "backbone.layer3.2.bn2.num_batches_tracked"
    state = checkpoint(**{f"eln_state_dict__{key}": np.array(266 * 500)})
    official = from_official(state)
    assert official.batches_tracked[f"eln_state_dict.{key}"] == 133_000
    back = to_official(official.variables, official.batches_tracked)
    assert back["eln_state_dict"][key] == 133_000
    assert back["enc_state_dict"][key] == 0


def test_other_depth_classes_and_number_of_decoders_are_inferred():
    variables = zeros(shapes(encoder="resnet101", num_classes=19, num_aux_decoders=1))
    state = to_official(variables)
    assert "backbone.layer3.22.bn3.running_var" in state["enc_state_dict"]
    assert state["eln_state_dict"]["backbone.conv1.weight"].shape == (64, 23, 7, 7)
    official = from_official({**state, "epoch": 3, "optimizer_state_dict": {"state": {}}})
    assert (official.encoder, official.num_classes, official.num_aux_decoders) == (
        "resnet101",
        19,
        1,
    )
    del state["dec_0"]
    official = from_official(state)
    assert official.num_aux_decoders == 0
    assert official.variables["params"]["aux_decoders"] == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"enc_state_dict__backbone.bn1.running_mean": None},
            r"enc_state_dict: backbone\.bn1\.running_mean is missing",
        ),
        (
            {"enc_state_dict__backbone.layer5.0.conv1.weight": np.zeros((1, 1, 1, 1))},
            r"enc_state_dict: backbone\.layer5\.0\.conv1\.weight is not known",
        ),
        (
            {"enc_state_dict__backbone.layer1.0.conv2.weight": np.zeros((64, 32, 3, 3))},
            r"conv2\.weight has shape \(64, 32, 3, 3\) where \(64, 64, 3, 3\) belongs",
        ),
        (
            {"enc_state_dict__backbone.bn1.weight": np.zeros((64, 1))},
            r"bn1\.weight has shape \(64, 1\) where \(64,\) belongs",
        ),
        ({"enc_state_dict__backbone.bn1.bias": 3.0}, r"backbone\.bn1\.bias is no array"),
        (
            {"enc_state_dict__backbone.layer3.5.conv1.weight": None},
            "neither a ResNet-50 nor a ResNet-101",
        ),
        (
            {"dec_state_dict__cls.classifier.2.weight": None},
            r"dec_state_dict holds no convolution cls\.classifier\.2\.weight",
        ),
        (
            # 20 classes in the main decoder, 21 elsewhere: its own bias is the first to differ.
            {"dec_state_dict__cls.classifier.2.weight": np.zeros((20, 256, 1, 1))},
            r"dec_state_dict: cls\.classifier\.2\.bias has shape \(21,\) where \(20,\) belongs",
        ),
    ],
)
def test_the_first_wrong_entry_is_named(changes, message):
    with pytest.raises(UserError, match=message):
        from_official(checkpoint(**changes), "x.pth")


@pytest.mark.parametrize("state", [{}, {"enc_state_dict": {}}, {"enc_state_dict": 3, "model": {}}])
def test_other_checkpoints_are_refused(state):
    with pytest.raises(UserError, match=r"x\.pth: not an official checkpoint: it holds no"):
        from_official(state, "x.pth")


@pytest.mark.parametrize(
    "settings", [{"encoder": "resnet18"}, {"encoder": "resnet34"}, {"eln_encoder": "resnet18"}]
)
def test_networks_without_an_official_form_are_refused(settings):
    with pytest.raises(UserError, match="no official form"):
        to_official(zeros(shapes(**settings)))
