import json

import numpy as np
import pytest

from eln_jax import convert
from eln_jax.errors import UserError
from eln_jax.models.torch_file import read_torch_file, write_torch_file
from eln_jax.models.torch_names import flatten
from eln_jax.models.variables import load_variables
from tests.golden_weights import golden_checkpoint, golden_official


@pytest.fixture
def folder(tmp_path):
    """A folder whose files, 400 MB each, do not outlive the test."""
    yield tmp_path
    for path in tmp_path.rglob("*"):
        if path.is_file():
            path.unlink()


def test_official_checkpoint_there_and_back(folder, capsys):
    optimiser = {"state": {0: {"step": np.array(3)}}, "param_groups": [{"betas": (0.9, 0.999)}]}
    others = {"epoch": 7, "scaler_state_dict": {"scale": 65536.0}}
    checkpoint = {**others, "optimizer_state_dict": optimiser, **golden_checkpoint()}
    source, target, back = folder / "x.pth", folder / "converted", folder / "back.pth"
    write_torch_file(source, checkpoint)

    assert convert.main([f"--input={source}", f"--output={target}"]) == 0
    printed = capsys.readouterr().out
    assert "resnet50, 21 classes, 2 auxiliary decoders" in printed
    assert "101.6 million weights" in printed
    assert str(target) in printed
    source.unlink()
    variables, metadata = load_variables(target)
    ours, expected = flatten(variables), flatten(golden_official().variables)
    assert ours.keys() == expected.keys()
    assert all(np.array_equal(ours[key], expected[key]) for key in expected)
    assert metadata["encoder"] == "resnet50"
    assert metadata["source"]["epoch"] == 7

    assert convert.main([f"--input={target}", f"--output={back}"]) == 0
    again = read_torch_file(back)
    assert again.pop("epoch") == 7
    first, second = flatten(golden_checkpoint()), flatten(again)
    assert first.keys() == second.keys()
    assert all(first[key].tobytes() == second[key].tobytes() for key in first)


def test_mistakes_are_one_sentence(folder):
    def message(source, target):
        with pytest.raises(UserError) as error:
            convert.main([f"--input={source}", f"--output={target}"])
        return str(error.value)

    source, target = folder / "x.pth", folder / "out"
    assert "there is no such file" in message(source, target)
    write_torch_file(source, {"model": {"conv1.weight": np.zeros((1, 1, 1, 1))}})
    assert "not an official checkpoint" in message(source, target)
    write_torch_file(source, {1: 2})
    assert "not a dict of named weights" in message(source, target)
    assert not target.exists()
    target.mkdir()
    (target / "mine.txt").write_text("keep")
    assert "exists already" in message(source, target)
    assert "holds no model.json" in message(target, folder / "back.pth")
    assert "must be a new .pth file" in message(target, folder / "back")
    (target / "model.json").write_text(json.dumps({"sha256": {}}))
    (target / "model.safetensors").write_bytes(b"")
    assert "damaged" in message(target, folder / "back.pth")
    with pytest.raises(UserError, match="--output"):
        convert.main([f"--input={source}"])
