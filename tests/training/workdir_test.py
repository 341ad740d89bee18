import json

import pytest

from eln_jax.errors import UserError
from eln_jax.training.workdir import claimed


def claim(workdir, **config):
    with claimed(workdir, json.dumps({"data": {"root": "here"}, "seed": 0} | config)):
        pass


def finish_a_step(workdir):
    (workdir / "checkpoints" / "5").mkdir(parents=True)


def test_a_second_training_in_the_same_folder_is_refused(tmp_path):
    config = json.dumps({"seed": 0})
    with (
        claimed(tmp_path, config),
        pytest.raises(UserError, match="Another process is training in"),
        claimed(tmp_path, config),
    ):
        pass
    with claimed(tmp_path, config):  # free again
        pass


def test_a_run_with_a_finished_checkpoint_keeps_its_configuration(tmp_path):
    claim(tmp_path)
    claim(tmp_path, seed=1)  # nothing was trained yet
    finish_a_step(tmp_path)
    with pytest.raises(UserError, match="seed: 1 -> 2"):
        claim(tmp_path, seed=2)
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 1


def test_a_checkpoint_that_was_never_finished_holds_nothing(tmp_path):
    claim(tmp_path)
    (tmp_path / "checkpoints" / "5.orbax-checkpoint-tmp").mkdir(parents=True)
    claim(tmp_path, seed=1)


def test_a_data_set_may_move(tmp_path):
    claim(tmp_path)
    finish_a_step(tmp_path)
    claim(tmp_path, data={"root": "elsewhere"})


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_a_damaged_configuration_is_named(tmp_path, text):
    claim(tmp_path)
    finish_a_step(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        claim(tmp_path)
    assert (tmp_path / "config.json").read_text() == text
