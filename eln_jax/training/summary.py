"""The end of a run: `summary.json`, curves, and the table on the screen."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich import box
from rich.table import Table

from eln_jax import __version__
from eln_jax.evaluation.curves import read_metrics, write_curves
from eln_jax.output import write_whole
from eln_jax.training.assembly import Parts
from eln_jax.training.bookkeeping import Bookkeeping
from eln_jax.training.logging import duration
from eln_jax.training.memory import peak_memory_bytes

# What a process knows of itself; the rest comes from the checkpoint.
_MEASURED = ("peak_memory_bytes", "devices", "eln_jax", "jax", "python")


def write(books: Bookkeeping, parts: Parts, workdir: Path) -> dict[str, Any]:
    """Writes `summary.json` and `curves.png`.

    Args:
        books: of the finished run.
        parts: of the run.
        workdir: the run's folder.

    Returns:
        What `summary.json` holds: the evaluation at the end of each phase, the last and the best
        one, time, memory and what it ran on.
    """
    ends = {row["phase"]: row for row in books.scores}  # the last of each phase
    summary = {
        "phases": ends,
        "last": books.scores[-1],
        "best": books.best(),
        "class_names": list(parts.data.train.class_names),
        "labeled": len(parts.data.partition.labeled),
        "unlabeled": len(parts.data.partition.unlabeled),
        "val": len(parts.data.partition.val),
        "seconds": books.seconds,
        "peak_memory_bytes": peak_memory_bytes(),
        "devices": [device.device_kind for device in parts.programs.mesh.devices.flat],
        "eln_jax": __version__,
        "jax": jax.__version__,
        "python": sys.version.split()[0],
    }
    path = workdir / "summary.json"
    summary |= _measured_before(path, summary["last"])
    _write_json(path, summary)
    write_curves(workdir / "curves.png", read_metrics(workdir / "metrics.jsonl"))
    return summary


def _measured_before(path: Path, last: dict[str, Any]) -> dict[str, Any]:
    """What the process that finished this run found, where ours has only been started after it."""
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if earlier.get("last") != last:
        return {}
    return {name: earlier[name] for name in _MEASURED if name in earlier}


def _write_json(path: Path, values: dict[str, Any]) -> None:
    write_whole(path, (json.dumps(values, indent=2) + "\n").encode())


def class_ious(row: Mapping[str, Any], network: str, class_names: Sequence[str]) -> np.ndarray:
    """Picks IoU of every class out of an evaluation; nan where a class is not defined."""
    values = [row[f"{network}/iou/{name}"] for name in class_names]
    return np.array([np.nan if v is None else v for v in values], np.float64)


def headline_table(runs: Mapping[str, dict[str, Any]]) -> Table:
    """Tabulates the last evaluation of each run: mean IoU, error detection, time.

    Args:
        runs: title -> summary.
    """
    table = Table(box=box.SIMPLE_HEAD, title="On the validation images, %", title_justify="left")
    for title in ("run", "network", "mean IoU", "AUROC: ELN", "AUROC: max. probability", "time"):
        table.add_column(title, justify="left" if title in ("run", "network") else "right")
    for title, summary in runs.items():
        row = summary["last"]
        networks = [n for n in ("student", "teacher") if f"{n}/mean_iou" in row]
        for network in networks:
            judged = network == networks[-1]
            table.add_row(
                title,
                network,
                _percent(row.get(f"{network}/mean_iou")),
                _percent(row.get("eln/auroc") if judged else None),
                _percent(row.get("max_prob/auroc") if judged else None),
                duration(summary["seconds"]) if judged else "",
            )
    return table


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"
