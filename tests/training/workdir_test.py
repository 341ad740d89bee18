import errno
import json

import pytest

from eln_jax.errors import StorageError, UserError
from eln_jax.training import workdir
from eln_jax.training.workdir import claimed, keep_config


def claim(workdir, *, force=False, tell=print, **config):
    config_json = json.dumps({"data": {"root": "here"}, "seed": 0} | config)
    with claimed(workdir, config_json, force=force, tell=tell):
        keep_config(workdir, config_json)


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


def test_every_changed_field_is_shown_with_what_becomes_of_it(tmp_path):
    claim(tmp_path)
    finish_a_step(tmp_path)
    told = []
    changed = {
        "seed": 2,
        "data": {"root": "there"},
        "divergence": {"loss_limit": 0.0, "max_skipped_steps": 3},
    }
    with pytest.raises(UserError, match=r"seed: 0 -> 2.*--force_config"):
        claim(tmp_path, tell=told.append, **changed)
    assert told[1:] == [
        "  data.root: here -> there (allowed)",
        "  divergence.max_skipped_steps: 0 -> 3 (allowed)",  # newer than the run: at its default
        "  seed: 0 -> 2 (refused)",
    ]
    claim(tmp_path, tell=told.append, force=True, **changed)
    assert told[-1] == "  seed: 0 -> 2 (forced)"
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 2
    assert json.loads((tmp_path / "config.json.before_step_5").read_text())["seed"] == 0


def test_a_field_newer_than_the_run_may_be_at_its_default_alone(tmp_path):
    claim(tmp_path)
    finish_a_step(tmp_path)
    told = []
    claim(tmp_path, tell=told.append, model={"eln_frozen_encoder": False})
    assert not told
    (tmp_path / "config.json").write_text('{"data": {"root": "here"}, "seed": 0, "model": {}}')
    with pytest.raises(UserError, match=r"model\.eln_frozen_encoder: False -> True"):
        claim(tmp_path, model={"eln_frozen_encoder": True})


def test_a_forced_start_that_fails_leaves_the_configuration(tmp_path):
    claim(tmp_path)
    finish_a_step(tmp_path)
    with claimed(tmp_path, json.dumps({"seed": 7}), force=True):
        pass  # the network did not fit
    claim(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 0


STEPS = {"supervised": 3, "eln": 3, "semi_supervised": 3}


@pytest.mark.parametrize(
    "steps",
    [
        {"supervised": 1, "eln": 1, "semi_supervised": 9},  # step 5 would lie in the third phase
        {"supervised": 4, "eln": 3, "semi_supervised": 3},
        {"supervised": 4, "eln": 0, "semi_supervised": 0},
        {"supervised": 3, "eln": 1, "semi_supervised": 0},  # fewer than were done
    ],
)
def test_a_schedule_in_which_what_is_done_has_no_place_is_refused_even_if_forced(tmp_path, steps):
    claim(tmp_path, steps=STEPS)
    finish_a_step(tmp_path)
    with pytest.raises(UserError, match="has done 5 steps"):
        claim(tmp_path, force=True, steps=steps)
    claim(tmp_path, force=True, steps=STEPS | {"eln": 2, "semi_supervised": 7})


def test_the_configuration_that_trained_the_steps_so_far_is_kept(tmp_path):
    claim(tmp_path)
    finish_a_step(tmp_path)
    for seed in (1, 2):  # the first forced start saved nothing
        claim(tmp_path, force=True, seed=seed)
    assert json.loads((tmp_path / "config.json.before_step_5").read_text())["seed"] == 0


def test_a_full_disk_at_the_start_is_told_as_one_later(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(workdir, "_compare_config", fail)
    with pytest.raises(StorageError, match="There is no room in"):
        claim(tmp_path)


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
