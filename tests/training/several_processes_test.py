"""Training over several processes on loopback: as one process trains, killed or not."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests.tiny import QUICKSTART, tiny_overrides

TIMINGS = ("images_per_second", "seconds_per_step", "data_wait_share")
LONG = {"steps__supervised": "6", "steps__eln": "6", "steps__semi_supervised": "8"}
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
    for a, b in zip(rows(one, "val"), rows(several, "val"), strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() - {"phase", "split"}:
            np.testing.assert_allclose(b[name], a[name], rtol=1e-5, err_msg=name)
    summaries = [json.loads((w / "summary.json").read_text()) for w in (one, several)]
    assert summaries[0]["labeled"] == summaries[1]["labeled"]
    for name in ("report.html", "curves.png", "last_evaluation/thumbnails.zip"):
        assert (several / name).is_file()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("alone") / "run"
    train(1, workdir, **LONG)
    return workdir


def test_two_processes_train_as_one(alone, tmp_path):
    train(2, tmp_path / "run", **LONG)
    assert_alike(alone, tmp_path / "run")
    assert "step 20" in told(tmp_path / "run", 0)
    others = [line for line in told(tmp_path / "run", 1).splitlines() if "[Gloo]" not in line]
    assert not others
