import errno
import os
import random
import re
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eln_jax.errors import UserError
from eln_jax.method.state import TrainState
from eln_jax.training import manifest
from eln_jax.training.checkpoint import REPLACED, Checkpoints
from eln_jax.training.damage import ASIDE
from eln_jax.training.weights import read_weights


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


def empty_a_file(checkpoint):
    """Cuts off the file of the state with the most bytes; returns its name."""
    files = [path for path in (checkpoint / "state").rglob("*") if path.is_file()]
    path = max(files, key=lambda p: p.stat().st_size)
    path.write_bytes(b"")
    return path.name


def test_a_damaged_checkpoint_is_named_and_left_alone(tmp_path):
    save_all(tmp_path, {1: None, 2: None})
    name = empty_a_file(tmp_path / "checkpoints" / "2")
    with pytest.raises(UserError, match=rf"step 2 is damaged: .*{name} has 0 bytes"):
        Checkpoints(tmp_path)
    with pytest.raises(UserError, match=rf"step 2 is damaged: .*{name} .*--checkpoint=1"):
        read_weights(tmp_path)
    assert read_weights(tmp_path, "1").step == 1
    assert steps_on_disk(tmp_path) == [1, 2]


def test_the_newest_whole_checkpoint_takes_the_place_of_damaged_ones(tmp_path):
    save_all(tmp_path, {1: None, 2: None})
    empty_a_file(tmp_path / "checkpoints" / "2")
    told = []
    checkpoints = Checkpoints(tmp_path, keep=2, previous_if_damaged=True, tell=told.append)
    assert (checkpoints.latest_step, steps_on_disk(tmp_path)) == (1, [1])
    assert "step 2 is damaged" in told[0]
    assert (tmp_path / ASIDE / "2" / "manifest.json").exists()
    checkpoints.save(make_state(2), {"at": 2}, None)  # as the run comes there again
    checkpoints.close()
    empty_a_file(tmp_path / "checkpoints" / "2")
    assert Checkpoints(tmp_path, previous_if_damaged=True, tell=told.append).latest_step == 1
    assert (tmp_path / ASIDE / "2_2").exists()


def test_without_a_whole_checkpoint_nothing_is_moved(tmp_path):
    save_all(tmp_path, {1: None, 2: None})
    for step in "12":
        empty_a_file(tmp_path / "checkpoints" / step)
    with pytest.raises(UserError, match=r"No checkpoint .* is whole"):
        Checkpoints(tmp_path, previous_if_damaged=True)
    assert steps_on_disk(tmp_path) == [1, 2]


def test_a_checkpoint_that_lost_its_manifest_does_not_count(tmp_path):
    save_all(tmp_path, {1: None})
    (tmp_path / "checkpoints" / "1" / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"manifest\.json is missing"):
        Checkpoints(tmp_path)


def test_a_checkpoint_of_a_version_without_manifests_is_read_with_a_word(tmp_path, monkeypatch):
    monkeypatch.setattr("eln_jax.training.manifest.write", lambda _: None)
    monkeypatch.setattr("eln_jax.training.damage.PROMISE", None)
    save_all(tmp_path, {1: None})
    told = []
    checkpoints = Checkpoints(tmp_path, tell=told.append)
    assert "without checksums" in told[0]
    assert checkpoints.restore(jax.eval_shape(lambda: make_state(0)))[1] == {"at": 1}
    assert read_weights(tmp_path).step == 1


def test_a_damaged_score_of_an_older_checkpoint_is_named(tmp_path):
    save_all(tmp_path, {1: 0.5, 2: None})
    (tmp_path / "checkpoints" / "1" / "metrics" / "metrics").write_text("{")
    for open_it in (Checkpoints, read_weights):
        with pytest.raises(UserError, match=r"damaged checkpoint .*metrics has 1 bytes"):
            open_it(tmp_path)


def test_another_network_is_no_damage(tmp_path):
    save_all(tmp_path, {1: None})
    other = make_state(0).replace(params={"w": jnp.zeros(4)})
    with pytest.raises(
        UserError, match=r"another network.*params/w is float32\[3\] there, float32\[4\] here"
    ):
        Checkpoints(tmp_path).restore(jax.eval_shape(lambda: other))


def test_steps_go_on_in_donated_memory_while_a_save_is_under_way(tmp_path, monkeypatch):
    go_on = threading.Event()

    def write(folder):
        go_on.wait(60)
        manifest_write(folder)

    manifest_write = manifest.write
    monkeypatch.setattr("eln_jax.training.manifest.write", write)
    step = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    checkpoints = Checkpoints(tmp_path)
    state = make_state(1).replace(batch_stats={"b": jnp.ones((500, 1000))})
    checkpoints.save(state, {"at": 1}, None)
    for _ in range(5):
        state = jax.block_until_ready(step(state))
        checkpoints.check()
    assert not steps_on_disk(tmp_path)
    go_on.set()
    checkpoints.close()
    saved, _ = Checkpoints(tmp_path).restore(jax.eval_shape(lambda: state))
    assert int(saved.step) == 1
    np.testing.assert_array_equal(saved.batch_stats["b"], np.ones((500, 1000)))


def ask_until_it_fails(checkpoints):
    while True:
        checkpoints.check()


@pytest.mark.parametrize(
    "ask",
    [ask_until_it_fails, lambda c: c.save(make_state(4), {"at": 4}, None), Checkpoints.close],
    ids=["check", "save", "close"],
)
def test_a_save_that_fails_in_the_background_is_told_in_a_sentence(
    tmp_path, monkeypatch, ask, caplog
):
    save_all(tmp_path, {1: None, 2: None})

    def fail(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("eln_jax.training.manifest.write", fail)
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(make_state(3), {"at": 3}, None)
    sentence = r"step 3 cannot be written .*No space left .*make room and start again"
    with pytest.raises(UserError, match=sentence):
        ask(checkpoints)
    checkpoints.close()
    monkeypatch.undo()
    assert not caplog.records  # no page of other threads' tracebacks
    assert steps_on_disk(tmp_path) == [1, 2]
    assert Checkpoints(tmp_path).restore(jax.eval_shape(lambda: make_state(0)))[1] == {"at": 2}


def test_a_checkpoint_is_not_given_up_for_a_better_one_that_is_never_finished(
    tmp_path, monkeypatch
):
    save_all(tmp_path, {1: None})

    def die(_):
        raise RuntimeError

    monkeypatch.setattr("eln_jax.training.manifest.write", die)
    with pytest.raises(UserError):
        save_all(tmp_path, {1: 0.5})
    assert steps_on_disk(tmp_path) == []
    monkeypatch.undo()
    assert Checkpoints(tmp_path).restore(jax.eval_shape(lambda: make_state(0)))[1] == {"at": 1}
    save_all(tmp_path, {1: 0.5})
    assert Checkpoints(tmp_path).best_step == 1
    assert not (tmp_path / REPLACED).exists()


def test_a_folder_that_vanished_is_not_made_again(tmp_path):
    save_all(tmp_path, {1: None})
    checkpoints = Checkpoints(tmp_path)
    (tmp_path / "checkpoints").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"written .*No such file.*same command goes on"):
        checkpoints.save(make_state(2), {"at": 2}, None)
    assert not (tmp_path / "checkpoints").exists()


def test_ten_flipped_bits_are_found_by_name(tmp_path):
    save_all(tmp_path, {1: 0.5})
    checkpoint, rng = tmp_path / "checkpoints" / "1", random.Random(0)
    files = sorted(p for p in checkpoint.rglob("*") if p.is_file() and p.stat().st_size)
    for path in rng.sample(files, 10):
        content = path.read_bytes()
        flipped = bytearray(content)
        flipped[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        for open_it in (Checkpoints, read_weights):
            with pytest.raises(UserError, match=re.escape(str(path))):
                open_it(tmp_path)
        path.write_bytes(content)
    assert read_weights(tmp_path).step == 1


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
