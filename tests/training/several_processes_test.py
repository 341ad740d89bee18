"""Training over several processes on loopback: as one process trains, killed or not."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time

import chex
import numpy as np
import pytest

from eln_jax.training.weights import read_weights
from tests.tiny import QUICKSTART, tiny_overrides

TIMINGS = ("images_per_second", "seconds_per_step", "data_wait_share")
RANKINGS = ("auroc", "aupr", "risk_coverage")
LONG = {"steps__supervised": "6", "steps__eln": "6", "steps__semi_supervised": "8"}
# Rounding grows from step to step, fastest in the ELN: a small rate keeps it small for so many.
# What the gradients are is seen in their norms.
LONG |= {"optim__learning_rate": "0.0001"}
# A row is a step, and evaluations are few: these tests are about many steps.
RARELY = {"eval__every": "10", "checkpoint__every": "5"}
PATIENCE = 600  # seconds; a busy machine compiles for long


def free_port():
    with socket.socket() as server:
        server.bind(("localhost", 0))
        return server.getsockname()[1]


def start(count, workdir, **changes):
    """Starts a training over that many processes; what they print goes to files beside it."""
    flags = [f"--config={QUICKSTART}", f"--workdir={workdir}"]
    fields = tiny_overrides(**(RARELY | {"log__panel_images": "0"} | changes))
    flags += [f"--config.{name}={value}" for name, value in fields]
    # Of other programs than the suite's, with one device each.
    env = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
    if count > 1:
        flags.append("--distributed")
        env |= {
            "JAX_COORDINATOR_ADDRESS": f"localhost:{free_port()}",
            "JAX_NUM_PROCESSES": str(count),
        }
    started = []
    for index in range(count):
        with output(workdir, index).open("w") as told:
            started.append(
                subprocess.Popen(
                    [sys.executable, "-m", "eln_jax.main", *flags],
                    env=env | {"JAX_PROCESS_ID": str(index)},
                    stdout=told,
                    stderr=subprocess.STDOUT,
                )
            )
    return started


def codes_of(started):
    """Waits for the processes; returns their exit codes."""
    try:
        return [process.wait(timeout=PATIENCE) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()


def train(count, workdir, **changes):
    codes = codes_of(start(count, workdir, **changes))
    assert codes == [0] * count, "\n".join(told(workdir, index) for index in range(count))


def output(workdir, index):
    """The file of what a process printed."""
    return workdir.with_name(f"{workdir.name}.{index}.txt")


def told(workdir, index):
    return output(workdir, index).read_text()


def rows(workdir, split):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return [
        {k: v for k, v in row.items() if k not in TIMINGS} for row in found if row["split"] == split
    ]


def assert_alike(one, several):
    """Losses of every step, the evaluations, and what is kept of the last one."""
    own, theirs = rows(one, "train"), rows(several, "train")
    assert [row["step"] for row in theirs] == [row["step"] for row in own]
    for a, b in zip(own, theirs, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            if "loss" in name:
                np.testing.assert_allclose(b[name], a[name], rtol=1e-5, atol=1e-7, err_msg=name)
            if "grad_norm" in name:
                np.testing.assert_allclose(b[name], a[name], rtol=1e-4, err_msg=name)
    for a, b in zip(rows(one, "val"), rows(several, "val"), strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() - {"phase", "split"}:
            # Few pixels are wrong, and rounding changes their places in a ranking.
            rtol = 1e-3 if name.split("/")[-1].startswith(RANKINGS) else 1e-5
            assert (a[name] is None) == (b[name] is None)
            if a[name] is not None:
                np.testing.assert_allclose(b[name], a[name], rtol=rtol, err_msg=name)
    summaries = [json.loads((w / "summary.json").read_text()) for w in (one, several)]
    assert summaries[0]["labeled"] == summaries[1]["labeled"]
    for name in ("report.html", "curves.png", "last_evaluation/thumbnails.zip"):
        assert (several / name).is_file()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("alone") / "run"
    train(1, workdir, **LONG)
    return workdir


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("together") / "run"
    train(2, workdir, **LONG)
    return workdir


def wait_for_row(workdir, step, started):
    """Returns when a row of this step or a later one is there, or a process has ended."""
    path = workdir / "metrics.jsonl"
    deadline = time.monotonic() + PATIENCE
    while all(process.poll() is None for process in started):
        assert time.monotonic() < deadline
        if path.is_file() and f'"step": {step},' in path.read_text():
            return
        time.sleep(0.02)


def assert_identical(one, other):
    for split in ("train", "val"):
        assert rows(one, split) == rows(other, split)
    saved = [read_weights(workdir) for workdir in (one, other)]
    assert saved[0].step == saved[1].step == 20
    chex.assert_trees_all_equal(*saved)


def test_two_processes_train_the_first_phase_as_one(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for count, workdir in ((1, one), (2, two)):
        train(count, workdir, steps__eln="0", steps__semi_supervised="0")
    assert_alike(one, two)


@pytest.mark.slow
def test_two_processes_train_as_one(alone, together):
    assert_alike(alone, together)
    assert "step 20" in told(together, 0)
    others = [line for line in told(together, 1).splitlines() if "[Gloo]" not in line]
    assert not others


@pytest.mark.slow
def test_a_signal_to_one_stops_both_and_one_process_goes_on(alone, tmp_path):
    workdir = tmp_path / "run"
    started = start(2, workdir, **LONG)
    wait_for_row(workdir, 3, started)
    started[1].send_signal(signal.SIGTERM)
    assert codes_of(started) == [143, 143], told(workdir, 0) + told(workdir, 1)
    assert "and saved; the same command goes on" in told(workdir, 0)
    train(1, workdir, **LONG)
    assert_alike(alone, workdir)


@pytest.mark.slow
def test_when_one_dies_the_other_ends_and_both_go_on_as_if_nothing_had_been(together, tmp_path):
    workdir = tmp_path / "run"
    started = start(2, workdir, **LONG)
    wait_for_row(workdir, 7, started)
    started[1].kill()
    first, second = codes_of(started)
    assert second == -signal.SIGKILL
    assert first not in (0, None)
    train(2, workdir, **LONG)
    assert_identical(together, workdir)


@pytest.mark.slow
def test_four_processes_train_as_one(alone, tmp_path):
    train(4, tmp_path / "run", **LONG)
    assert_alike(alone, tmp_path / "run")


@pytest.mark.slow
def test_two_processes_with_a_split_state_train_as_one(alone, tmp_path):
    train(2, tmp_path / "run", shard_state="true", **LONG)
    assert_alike(alone, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("gate", ["eln", "class_calibrated"])
def test_two_processes_fit_a_gate_as_one(gate, tmp_path):
    """With a second opinion too, whose comparison is fitted at the same steps."""
    fitted = LONG | {
        "model__eln_second_opinion": "true",
        "model__num_aux_decoders": "0",
        "method__loss_ceilings": "()",
        "method__gate": gate,
        "method__gate_mode": "class_floor",
        "method__gate_fit_every": "3",
    }
    one, two = tmp_path / "one", tmp_path / "two"
    for count, workdir in ((1, one), (2, two)):
        train(count, workdir, **fitted)
    assert_alike(one, two)


@pytest.mark.slow
def test_two_processes_killed_at_random_moments_end_as_if_they_had_not_been(together, tmp_path):
    workdir, draw = tmp_path / "run", random.Random(0)
    for step in sorted(draw.sample(range(1, 20), 5)):
        started = start(2, workdir, **LONG)
        wait_for_row(workdir, step, started)
        time.sleep(draw.uniform(0, 0.5))  # also amid a step, an evaluation or a checkpoint
        for process in draw.sample(started, draw.choice((1, 2))):
            process.kill()
        assert 0 not in codes_of(started)
    train(2, workdir, **LONG)
    assert_identical(together, workdir)
