import errno
import json

import numpy as np
import pytest

from eln_jax.errors import UserError
from eln_jax.models.torch_names import flatten
from eln_jax.models.variables import load_variables, save_variables


def small_variables():
    rng = np.random.default_rng(0)
    network = {"encoder": {"conv1": {"kernel": rng.standard_normal((3, 3, 2, 4), np.float32)}}}
    norm = {"encoder": {"bn1": {"mean": np.arange(4.0, dtype=np.float32)}}}
    return {
        "params": {"student": network, "aux_decoders": {"0": network, "10": network}},
        "batch_stats": {"student": norm, "aux_decoders": {"0": norm, "10": norm}},
    }


def test_round_trip(tmp_path):
    variables = small_variables()
    # A kernel seen through a transposition: its bytes must be written in the order of its shape.
    kernel = np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1)
    variables["params"]["eln"] = {"kernel": kernel}
    save_variables(tmp_path / "a" / "b", variables, {"encoder": "resnet50", "epoch": None})
    loaded, metadata = load_variables(tmp_path / "a" / "b")
    assert metadata == {"encoder": "resnet50", "epoch": None}
    before, after = flatten(variables), flatten(loaded)
    assert before.keys() == after.keys()
    for key, value in before.items():
        np.testing.assert_array_equal(after[key], value)
        assert after[key].dtype == value.dtype


def test_a_full_disk_is_an_error_of_the_system(tmp_path, full):
    (tmp_path / "model.safetensors").symlink_to(full)
    with pytest.raises(OSError, match="No space left") as error:
        save_variables(tmp_path, small_variables(), {})
    assert error.value.errno == errno.ENOSPC


def test_no_auxiliary_decoders(tmp_path):
    save_variables(tmp_path, {"params": {"student": {"w": np.zeros(1)}}}, {})
    loaded, _ = load_variables(tmp_path)
    assert loaded["params"]["aux_decoders"] == loaded["batch_stats"]["aux_decoders"] == {}


def test_altered_or_incomplete_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"holds no model\.json"):
        load_variables(tmp_path)
    save_variables(tmp_path, small_variables(), {})
    arrays, metadata = tmp_path / "model.safetensors", tmp_path / "model.json"
    whole = arrays.read_bytes()
    arrays.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UserError, match="altered since it was written"):
        load_variables(tmp_path)
    arrays.write_bytes(whole)
    load_variables(tmp_path)
    for text in ("", "[]", "{}", json.dumps({"sha256": 3})):
        metadata.write_text(text)
        with pytest.raises(UserError, match="damaged"):
            load_variables(tmp_path)
    arrays.unlink()
    with pytest.raises(UserError, match=r"holds no model\.safetensors"):
        load_variables(tmp_path)
