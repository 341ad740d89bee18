"""What `python -m eln_jax.main` does: the run, and beside it the supervised-only one to compare."""

import copy
import json
from pathlib import Path
from typing import Any

from eln_jax.output import room_for
from eln_jax.training import loop, processes, summary
from eln_jax.training.logging import Progress, iou_table, print_table
from eln_jax.training.reporting import REPORT, SUPERVISED_ONLY, report_or_reason, write_run_report
from eln_jax.training.workdir import Resume


def train_all(
    config: Any,
    config_json: str,
    workdir: Path,
    resume: Resume = Resume(),  # noqa: B008 (a constant)
) -> int:
    """Trains, compares if the config says so, and shows the results.

    Args:
        config: fields as in `eln_jax.defaults`, already checked.
        config_json: the same as JSON.
        workdir: the run's folder; the supervised-only run lies in its `supervised_only`.
        resume: what an earlier run there may be continued in spite of.

    Returns:
        The exit code: 0 at the end, 128 + the signal's number if stopped.
    """
    runs = {}
    with Progress(log_every=config.log.every) as display:
        outcome = loop.train_and_evaluate(config, config_json, workdir, display, resume)
        if outcome.summary is None:
            return outcome.exit_code
        semi_supervised = config.steps.semi_supervised > 0
        runs["semi-supervised" if semi_supervised else "supervised"] = outcome.summary
        if config.compare_supervised:
            display.message("Now with the labelled images alone, for the same number of steps.")
            alone, alone_json = supervised_only(config, config_json)
            outcome = loop.train_and_evaluate(
                alone, alone_json, workdir / SUPERVISED_ONLY, display, resume
            )
            if outcome.summary is None:
                return outcome.exit_code
            runs = {"supervised only": outcome.summary} | runs
    if not processes.is_first():
        return 0
    _show(runs, workdir)

    def write_report() -> Path:
        with room_for(workdir / REPORT):
            return write_run_report(workdir, config, config_json)

    print(f"  report    {report_or_reason(write_report)}")
    return 0


def supervised_only(config: Any, config_json: str) -> tuple[Any, str]:
    """The same configuration with all its steps in the first phase, and nothing to compare."""
    alone, as_json = copy.deepcopy(config), json.loads(config_json)
    steps = {"supervised": sum(config.steps.values()), "eln": 0, "semi_supervised": 0}
    for name, count in steps.items():
        alone.steps[name] = count
    as_json["steps"] = steps
    alone.compare_supervised = as_json["compare_supervised"] = False
    return alone, json.dumps(as_json, indent=2, sort_keys=True) + "\n"


def _show(runs: dict[str, dict[str, Any]], workdir: Path) -> None:
    columns = {}
    for title, result in runs.items():
        networks = [n for n in ("student", "teacher") if f"{n}/mean_iou" in result["last"]]
        for network in networks:
            name = f"{title}, {network}" if len(networks) > 1 else title
            columns[name] = summary.class_ious(result["last"], network, result["class_names"])
    any_run = next(iter(runs.values()))
    print_table(iou_table(any_run["class_names"], columns))
    print_table(summary.headline_table(runs))
    panels = sorted((workdir / "panels").glob("*.png"))
    print("Results:")
    print(f"  figures   {workdir / 'summary.json'}, {workdir / 'metrics.jsonl'}")
    print(f"  curves    {workdir / 'curves.png'}")
    if panels:
        print(f"  pictures  {max(panels, key=lambda p: p.stat().st_mtime)}")
    print(f"  weights   {workdir / 'checkpoints'}")
