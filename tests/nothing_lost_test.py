"""What ends a training from outside: kill -9 at any moment, full disks, folders that vanish."""

import json
import random
import shutil
import signal
import subprocess
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from eln_jax.training import damage
from tests.commands_test import command, overrides
from tests.tiny import QUICKSTART, tiny_overrides

pytestmark = pytest.mark.slow

LAST = 24  # steps of the training
KILLS = 20
TIMINGS = ("images_per_second", "seconds_per_step", "data_wait_share")


def start(workdir, **changes):
    fields = tiny_overrides(
        **{
            "steps__supervised": "8",
            "steps__eln": "8",
            "steps__semi_supervised": "8",
            "checkpoint__every": "2",
            "eval__every": "4",
            "optim__schedule": "poly",
        }
        | changes
    )
    return command("main", f"--config={QUICKSTART}", f"--workdir={workdir}", *overrides(fields))


def train_to_the_end(workdir, **changes):
    process = start(workdir, **changes)
    _, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors


def refusal(process, code=3):
    _, errors = process.communicate(timeout=300)
    assert process.returncode == code, errors
    assert len(errors.strip().splitlines()) == 1, errors
    return errors


def metric_rows(workdir):
    """Rows without timings; a line that is being written is left out."""
    path = workdir / "metrics.jsonl"
    rows = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        rows.append({k: v for k, v in row.items() if k not in TIMINGS})
    return rows


def last_step(workdir):
    return max((row["step"] for row in metric_rows(workdir)), default=0)


def unfinished(workdir):
    """Steps of the saves that have been begun and not ended."""
    return [int(p.name.split(".")[0]) for p in (workdir / "checkpoints").glob("*checkpoint-tmp*")]


def saved(workdir, step=LAST):
    """All arrays of a checkpoint, and what it says of iterators and scores."""
    folder = workdir / "checkpoints" / str(step)
    assert damage.find_fault(folder) == ""
    with ocp.StandardCheckpointer() as checkpointer:
        state = checkpointer.restore((folder / "state").absolute())
    books = json.loads((folder / "progress" / "metadata").read_text())
    del books["seconds"]
    return jax.device_get(state), books


def wait_until(process, holds):
    """Looks again and again, many times a second, as long as the process runs."""
    deadline = time.monotonic() + 600
    while not holds():
        assert time.monotonic() < deadline
        try:
            process.wait(0.002)
        except subprocess.TimeoutExpired:
            continue
        raise AssertionError(process.communicate())


def let_run(process, seconds):
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return
    raise AssertionError(process.communicate())


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("unbroken")
    train_to_the_end(workdir)
    return workdir


def assert_as_unbroken(workdir, unbroken):
    assert metric_rows(workdir) == metric_rows(unbroken)
    (state, books), (expected, expected_books) = saved(workdir), saved(unbroken)
    jax.tree.map(np.testing.assert_array_equal, state, expected)
    assert books == expected_books
    assert damage.finished_steps(workdir / "checkpoints") == damage.finished_steps(
        unbroken / "checkpoints"
    )


def test_kill_9_at_twenty_moments_changes_nothing(unbroken, tmp_path):
    rng = random.Random(0)
    moments = ["start"] * 4 + ["step"] * 8 + ["save"] * 8
    rng.shuffle(moments)
    inside = 0
    for number, moment in enumerate(moments):
        # Targets rise over all three phases; a step is one that was not there before.
        target = 1 + number * (LAST - 3) // (KILLS - 1)
        target = max(target, min(last_step(tmp_path) + 1, LAST - 1))
        process = start(tmp_path)
        if moment == "start":
            let_run(process, rng.uniform(0, 6))
        elif moment == "step":
            wait_until(process, lambda target=target: last_step(tmp_path) >= target)
            let_run(process, rng.uniform(0, 0.1))
        else:
            old = unfinished(tmp_path)
            wait_until(
                process,
                lambda target=target, old=old: any(
                    step >= target - 1 for step in set(unfinished(tmp_path)) - set(old)
                ),
            )
            let_run(process, rng.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        inside += moment == "save" and bool(unfinished(tmp_path))
        print(number, moment, "step", last_step(tmp_path), "unfinished", unfinished(tmp_path))
        assert last_step(tmp_path) < LAST
    print("killed inside a save:", inside)
    assert inside >= 2
    train_to_the_end(tmp_path)
    assert_as_unbroken(tmp_path, unbroken)


@pytest.fixture
def mount(tmp_path):
    """Mounts at tmp_path/mnt; skips the test where that is not allowed."""
    place = tmp_path / "mnt"
    place.mkdir()

    def do(*arguments):
        done = subprocess.run(
            ["mount", *arguments, place], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"no right to mount here: {done.stderr.strip()}")
        return place

    yield do
    subprocess.run(["umount", "--lazy", place], capture_output=True, check=False)


def test_a_full_disk_costs_no_checkpoint(unbroken, mount):
    place = mount("-t", "tmpfs", "-o", "size=100m", "tmpfs")
    workdir = place / "run"
    process = start(workdir)
    wait_until(process, (workdir / "checkpoints" / "4").exists)
    free = shutil.disk_usage(place).free
    filler = place / "filler"
    filler.write_bytes(bytes(free - 500_000))
    assert "make room" in refusal(process)
    steps = damage.finished_steps(workdir / "checkpoints")
    assert steps
    assert steps[-1] < LAST
    for step in steps:
        assert damage.find_fault(workdir / "checkpoints" / str(step)) == ""
    refusal(start(workdir))  # still full
    filler.unlink()
    train_to_the_end(workdir)
    assert_as_unbroken(workdir, unbroken)


def test_a_folder_that_vanishes_is_waited_for(unbroken, mount, tmp_path):
    # As a bucket does whose mount ends: in its place lies an empty folder.
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    place = mount("--bind", str(bucket))
    process = start(place / "run")
    wait_until(process, (place / "run" / "checkpoints" / "4").exists)
    subprocess.run(["umount", "--lazy", place], check=True)
    assert "same command goes on" in refusal(process)
    # Nothing was written beside the bucket, but for what was being written at that moment.
    assert len(list(place.glob("run/checkpoints/*"))) <= 1
    assert not list(place.glob("run/*.json*"))
    mount("--bind", str(bucket))
    train_to_the_end(place / "run")
    assert_as_unbroken(place / "run", unbroken)


def test_a_read_only_folder_is_told_at_the_start(mount):
    place = mount("-t", "tmpfs", "-o", "size=1m,ro", "tmpfs")
    assert "Read-only file system" in refusal(start(place / "run"), code=2)
