"""A loss or gradient that is not finite, or a loss that explodes: what is kept to look at."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from PIL import Image

from eln_jax.evaluation.panels import colorize, make_palette
from eln_jax.method.state import TrainState
from eln_jax.training.processes import gather, is_first

FOLDER = "diverged"  # in the workdir
_SHOWN = 16  # images of each kind in the picture, at most


class Step(NamedTuple):
    """A step that has been started.

    Attributes:
        number: optimiser steps done after it.
        batch: what it was given, arrays on the host: this process's part.
        metrics: its figures, maybe still being computed.
    """

    number: int
    batch: Mapping[str, Mapping[str, np.ndarray]]
    metrics: dict[str, Any]


def describe(figures: Mapping[str, float], loss_limit: float) -> str:
    """Says in a few words what is wrong with a step's figures."""
    loss = figures["loss"]
    if not math.isfinite(loss):
        return f"the loss is not finite ({loss})"
    if loss_limit and loss > loss_limit:
        return f"the loss is {loss:.3g}, above divergence.loss_limit={loss_limit:g}"
    return f"the loss is {loss:.3g}, but a gradient is not finite"


def keep_batch(step: Step, workdir: Path, num_classes: int) -> Path:
    """Writes a step's figures and batch, as arrays and as a picture; returns the folder.

    Raises:
        OSError: they cannot be written.
    """
    folder = workdir / FOLDER / f"step_{step.number}"
    folder.mkdir(parents=True, exist_ok=True)
    count = jax.process_count()
    part = f"_of_process_{jax.process_index()}" if count > 1 else ""
    arrays = {f"{a}/{b}": value for a, parts in step.batch.items() for b, value in parts.items()}
    np.savez_compressed(folder / f"batch{part}.npz", **arrays)  # type: ignore[arg-type]
    _contact_sheet(step.batch, num_classes).save(folder / f"batch{part}.png", optimize=True)
    if is_first():
        # nan and infinity as words: JSON has none
        figures = {name: str(float(value)) for name, value in sorted(step.metrics.items())}
        (folder / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    return folder


def keep_state(state: TrainState, folder: Path) -> None:
    """Writes a state as `state` into a folder; all processes must call it.

    `orbax.checkpoint.StandardCheckpointer().restore(folder / "state")` reads it.
    """
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save((folder / "state").absolute(), state, force=True)


def first_not_finite(state: TrainState) -> str:
    """Names an array of a state that holds nan or infinity; empty if none does.

    Looked for on the host, where a checkpoint's arrays go anyway: a compiled search takes up to
    half a minute to compile, for hundreds of arrays.
    """
    found = ""
    for key, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        if jax.numpy.issubdtype(leaf.dtype, jax.numpy.floating):
            shards = [shard for shard in leaf.addressable_shards if shard.replica_id == 0]
            if not all(np.isfinite(np.asarray(shard.data)).all() for shard in shards):
                found = jax.tree_util.keystr(key, simple=True, separator="/")
                break
    return next(filter(None, gather(found)), "")


def _contact_sheet(batch: Mapping[str, Mapping[str, np.ndarray]], num_classes: int) -> Image.Image:
    """The first images of a batch side by side, labels below them."""
    palette, rows = make_palette(num_classes), []
    for part in batch.values():
        rows.append(np.concatenate(part["image"][:_SHOWN], axis=1))
        if "label" in part:
            rows.append(colorize(np.concatenate(part["label"][:_SHOWN], axis=1), palette))
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 4), (0, width - row.shape[1]), (0, 0))) for row in rows]
    return Image.fromarray(np.concatenate(padded))
