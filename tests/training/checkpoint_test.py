import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eln_jax.errors import UserError
from eln_jax.method.state import TrainState
from eln_jax.training.checkpoint import Checkpoints


def make_state(step):
    weights = {"w": jnp.full((3,), float(step))}
    return TrainState(jnp.int32(step), weights, {}, {}, {})


def steps_on_disk(workdir):
    return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())


def save_all(workdir, scores):
    checkpoints = Checkpoints(workdir, keep=2)
    for step, score in scores.items():
        checkpoints.save(make_state(step), {"at": step}, score)
    checkpoints.close()


def test_what_was_saved_comes_back(tmp_path):
    save_all(tmp_path, {1: None, 2: None})
    state, progress = Checkpoints(tmp_path).restore(jax.eval_shape(lambda: make_state(0)))
    assert progress == {"at": 2}
    np.testing.assert_array_equal(state.params["w"], [2, 2, 2])


def test_the_best_survives_beside_the_latest_and_across_restarts(tmp_path):
    save_all(tmp_path, {1: 0.9, 2: 0.1, 3: None, 4: 0.2})
    save_all(tmp_path, {5: 0.3, 6: None, 7: 0.4})
    assert steps_on_disk(tmp_path) == [1, 6, 7]
    assert Checkpoints(tmp_path).best_step == 1


def test_a_score_that_comes_late_is_added(tmp_path):
    save_all(tmp_path, {1: None})
    save_all(tmp_path, {1: 0.7, 2: 0.1, 3: 0.2, 4: 0.3})
    assert steps_on_disk(tmp_path) == [1, 3, 4]


def test_leftovers_of_a_killed_save_are_cleared_away(tmp_path):
    save_all(tmp_path, {1: None})
    (tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp").mkdir()
    assert Checkpoints(tmp_path).latest_step == 1
    assert steps_on_disk(tmp_path) == [1]


def test_a_damaged_checkpoint_is_named(tmp_path):
    save_all(tmp_path, {1: None})
    for file in (tmp_path / "checkpoints" / "1" / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.raises(UserError, match="cannot be read"):
        Checkpoints(tmp_path).restore(jax.eval_shape(lambda: make_state(0)))


def test_without_room_one_sentence_tells_and_the_one_before_is_whole(tmp_path, monkeypatch):
    save_all(tmp_path, {1: None})
    size = jax.tree.reduce(lambda total, leaf: total + leaf.nbytes, make_state(2), 0)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=size - 1))
    with pytest.raises(UserError, match=r"step 2 needs up to .* make room and start again"):
        save_all(tmp_path, {2: None})
    assert steps_on_disk(tmp_path) == [1]
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=size))
    save_all(tmp_path, {2: None})
    assert steps_on_disk(tmp_path) == [1, 2]
