import io
import json
import os
import signal
import struct
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console
from tensorboardX.proto import event_pb2

from eln_jax.errors import UserError
from eln_jax.training import logging
from eln_jax.training.logging import MetricsLogger, Progress


def read(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def logged(workdir, steps, **kwargs):
    logger = MetricsLogger(workdir, tensorboard=False, **kwargs)
    for step in steps:
        logger.write(step, "eln", "train", {"loss": np.float32(step) / 3})
    logger.close()


def test_a_row_is_plain_json(tmp_path):
    logger = MetricsLogger(tmp_path, tensorboard=False)
    figures = {
        "a": np.float32(0.1),
        "b": float("nan"),
        "c": np.int64(3),
        "d": np.float64(np.inf),
        "e": 2,
    }
    logger.write(7, "eln", "val", figures)
    expected = {"step": 7, "phase": "eln", "split": "val"}
    expected |= {"a": float(np.float32(0.1)), "b": None, "c": 3, "d": None, "e": 2}
    assert read(tmp_path) == [expected]  # before close: nothing is held back
    logger.close()


def test_going_on_drops_later_rows_and_equals_an_unbroken_run(tmp_path):
    for name in ("broken", "whole"):
        (tmp_path / name).mkdir()
    logged(tmp_path / "whole", range(1, 7))
    logged(tmp_path / "broken", range(1, 6))
    logged(tmp_path / "broken", range(4, 7), resume_step=3)
    texts = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("broken", "whole")]
    assert texts[0] == texts[1]


def test_an_unfinished_line_is_dropped(tmp_path):
    logged(tmp_path, [1, 2])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "phase": "el')
    logged(tmp_path, [3], resume_step=2)
    assert [row["step"] for row in read(tmp_path)] == [1, 2, 3]
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_start_from_nothing_drops_everything(tmp_path):
    logged(tmp_path, [1, 2])
    logged(tmp_path, [1])
    assert [row["step"] for row in read(tmp_path)] == [1]


def test_a_foreign_file_is_refused_and_left_alone(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("hello\nworld\n")
    with pytest.raises(UserError, match="is not a row of metrics"):
        MetricsLogger(tmp_path, tensorboard=False)
    assert (tmp_path / "metrics.jsonl").read_text() == "hello\nworld\n"


def test_rows_survive_kill_9(tmp_path):
    program = (
        "import sys, pathlib\n"
        "from eln_jax.training.logging import MetricsLogger\n"
        "logger = MetricsLogger(pathlib.Path(sys.argv[1]), tensorboard=False)\n"
        "logger.write(1, 'eln', 'train', {'loss': 1.0})\n"
        "print('written', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    ) as process:
        assert process.stdout.readline() == b"written\n"
        process.send_signal(signal.SIGKILL)
    assert [row["loss"] for row in read(tmp_path)] == [1.0]


def events(workdir):
    """Reads TensorBoard's record files: length, its checksum, the event, its checksum."""
    found = []
    for path in sorted((workdir / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            found.append(event_pb2.Event.FromString(data[12 : 12 + length]))
            data = data[12 + length + 4 :]
    return found


def test_tensorboard_gets_scalars_images_and_the_place_to_go_on_from(tmp_path):
    logger = MetricsLogger(tmp_path, resume_step=4)
    logger.write(5, "eln", "val", {"eln/auroc": 0.75, "undefined": float("nan")})
    logger.images(5, {"panels": np.zeros((4, 6, 3), np.uint8)})
    logger.close()
    values = {v.tag: (e.step, v) for e in events(tmp_path) for v in e.summary.value}
    assert set(values) == {"val/eln/auroc", "panels"}
    assert values["val/eln/auroc"][0] == 5
    assert values["val/eln/auroc"][1].simple_value == 0.75
    assert (values["panels"][1].image.height, values["panels"][1].image.width) == (4, 6)
    restarts = [e.step for e in events(tmp_path) if e.HasField("session_log")]
    assert restarts[0] == 5  # what an earlier start wrote from this step on is hidden


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def plain_progress(log_every=1):
    output, clock = io.StringIO(), Clock()
    return (
        Progress(log_every, Console(file=output, width=40, highlight=False), clock),
        output,
        clock,
    )


def test_plain_lines_tell_phase_step_losses_speed_and_time_left():
    progress, output, clock = plain_progress()
    progress.start("eln", 100, 200, 200)
    progress.update(101, {"eln_loss": 2.0})
    clock.now = 30.0
    figures = {"supervised_loss": 0.1234, "eln_loss": 1.5, "loss": 2, "images_per_second": 12.345}
    progress.update(111, {**figures, "valid_ratio": 0.5})
    progress.message("done [with brackets]")
    lines = output.getvalue().splitlines()
    assert lines[0] == "Phase eln: steps 100 to 200 of 200 (the first one compiles)"
    assert lines[1] == "step 101/200 | eln | losses: eln 2"
    assert lines[2] == (
        "step 111/200 | eln | losses: supervised 0.123, eln 1.5, total 2 | 12.3 images/s"
        " | phase ends in 4 min 27 s | run ends in 4 min 27 s"
    )
    assert lines[3] == "done [with brackets]"


def test_time_left_of_unmeasured_phases_is_a_lower_bound():
    progress, output, clock = plain_progress()
    progress.start("supervised", 0, 10, 30)
    progress.update(1, {})
    clock.now = 60.0
    progress.update(7, {"loss": 1.0})
    assert (
        output.getvalue()
        .splitlines()[-1]
        .endswith("phase ends in 30 s | run in more than 3 min 50 s")
    )


def test_the_first_step_of_a_phase_does_not_count_for_its_speed():
    progress, output, clock = plain_progress()
    progress.start("supervised", 0, 10, 20)
    progress.update(1, {})
    progress.start("semi_supervised", 10, 20, 20)
    clock.now = 500.0  # compiling
    progress.update(11, {})
    clock.now = 502.0
    progress.update(12, {"loss": 1.0})
    assert "run ends in 16 s" in output.getvalue()


def test_plain_lines_are_few():
    progress, output, clock = plain_progress(log_every=50)
    progress.start("eln", 0, 1000, 1000)
    for step in range(1, 1001):
        clock.now += 1.0
        progress.update(step, {"loss": 1.0})
    steps = [line.split()[1] for line in output.getvalue().splitlines()[1:]]
    assert steps == [f"{s}/1000" for s in [*range(1, 1000, 50), 1000]]

    progress, output, clock = plain_progress()
    progress.start("eln", 0, 1000, 1000)
    for step in range(1, 100):
        clock.now += 1.0
        progress.update(step, {"loss": 1.0} if step % 3 else {})
    lines = output.getvalue().splitlines()[1:]
    assert [int(line.split()[1].split("/")[0]) for line in lines][:4] == [1, 11, 22, 32]


def test_live_display_shows_the_same_and_goes_away():
    output, clock = io.StringIO(), Clock()
    console = Console(file=output, force_terminal=True, width=110, highlight=False)
    with Progress(1, console, clock) as progress:
        progress.start("eln", 0, 100, 200)
        progress.update(1, {})
        clock.now = 10.0
        progress.update(11, {"eln_loss": 1.5, "images_per_second": 8.0})
        progress._live.refresh()
        progress.status("evaluating: 3 of 9 images")
        progress._live.refresh()
        progress.message("a message that stays")
        progress.start("semi_supervised", 100, 200, 200)
        progress.update(101, {})
    progress.close()
    text = output.getvalue()
    for part in (
        *("11/100", "11/200", "eln 1.5", "8 images/s", "phase ends in 1 min 29 s"),
        *("evaluating: 3 of 9 images", "a message that stays", "101/200"),
    ):
        assert part in text
    assert text.rstrip().endswith("\x1b[2K") or "\x1b[?25h" in text  # erased, cursor back


def test_duration():
    assert [logging.duration(s) for s in (0.4, 59.4, 60, 250, 3600, 7500)] == [
        *("0 s", "59 s", "1 min 00 s", "4 min 10 s", "1 h 00 min", "2 h 05 min")
    ]


def printed(table, **kwargs):
    output = io.StringIO()
    logging.print_table(table, Console(file=output, **kwargs))
    return output.getvalue()


def test_iou_table_plain():
    results = {
        "supervised": np.array([0.5, np.nan, 0.2]),
        "semi-supervised, teacher": np.array([0.75, np.nan, 0.1]),
    }
    text = printed(logging.iou_table(["sky", "a rather long name of a class " * 4, "car"], results))
    assert text.isascii()
    rows = [line.replace("|", " ").split() for line in text.splitlines()]
    assert ["sky", "50.0", "75.0"] in rows
    assert ["car", "20.0", "10.0"] in rows
    assert ["mean", "35.0", "42.5"] in rows
    assert any(row[-2:] == ["-", "-"] for row in rows)
    assert "a rather long name of a class " * 4 in text  # not cut at 80 columns


def test_iou_table_on_a_terminal_marks_the_best():
    table = logging.iou_table(["sky"], {"a": np.array([0.5]), "b": np.array([0.25])})
    text = printed(table, force_terminal=True, width=80, color_system="standard")
    assert "\x1b[1m50.0\x1b[0m" in text
    assert "\x1b[1m25.0\x1b[0m" not in text


def test_iou_table_without_any_defined_class():
    text = printed(logging.iou_table(["sky"], {"a": np.array([np.nan])}))
    assert text.count(" - ") == 2
