"""How long the rest of a study will take, by hand."""

import json
from pathlib import Path
from types import SimpleNamespace

from eln_jax.studies import running


def run(name, parent=None, **steps):
    until = sum(steps.values()) + (parent.until if parent else 0)
    return SimpleNamespace(folder=Path(name), parent=parent, steps=steps, until=until)


def finish(run, output, seconds):
    """Leaves what a finished run leaves; its seconds are those of its parents too."""
    (output / run.folder).mkdir()
    summary = {"last": {"step": run.until}, "seconds": seconds}
    (output / run.folder / "summary.json").write_text(json.dumps(summary))


def test_nobody_knows_before_the_first_run_has_ended(tmp_path):
    first = run("first", supervised=10)
    assert running.remaining([first], [first], tmp_path) == 0


def test_what_is_left_by_what_a_step_took_and_by_a_guess_where_none_was(tmp_path):
    first, second = run("first", supervised=10), run("second", supervised=30)
    branch, other = (run(name, first, semi_supervised=4) for name in ("branch", "other"))
    runs = [first, second, branch, other, run("eln", first, eln=5)]
    finish(first, tmp_path, 20.0)
    # A step of a phase not met yet is guessed to take 3 and 5 times a supervised one.
    assert running.remaining(runs[1:], runs, tmp_path) == 2 * (30 + 5 * (4 + 4) + 3 * 5)
    finish(branch, tmp_path, 20.0 + 44.0)
    finish(second, tmp_path, 100.0)
    # Supervised 120 s of 40 steps, semi-supervised 44 s of 4: the guess goes by the slower phase.
    assert running.seconds_per_step(runs, tmp_path) == {"supervised": 3.0, "semi_supervised": 11.0}
    assert running.remaining(runs[3:], runs, tmp_path) == 11 * 4 + 3 * 3 * 5
    # Of a run that has not come to its end nothing is known.
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "summary.json").write_text('{"last": {"step": 12}, "seconds": 9.0}')
    assert running.seconds_per_step(runs, tmp_path)["semi_supervised"] == 11.0
