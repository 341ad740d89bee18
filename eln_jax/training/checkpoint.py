"""Checkpoints: everything that a run needs to go on as if it had never stopped.

A checkpoint holds the state, both data iterators and the loop's own bookkeeping; it becomes
visible by an atomic rename, so that a run killed inside a save finds the one before.
"""

import logging
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from eln_jax.errors import UserError
from eln_jax.method.state import TrainState

# Orbax warns at every save without a score; only evaluated steps have one.
logging.getLogger("absl").addFilter(lambda record: "tracked_metric" not in str(record.msg))


class Checkpoints:
    """The checkpoints of one working directory: the latest few and the best."""

    def __init__(self, workdir: Path, *, keep: int = 1):
        """Opens (or creates) `workdir`/checkpoints.

        Args:
            workdir: the run's directory.
            keep: number of latest checkpoints that stay, beside the best.
        """

        def mean_iou(metrics):
            return metrics["mean_iou"]

        best = checkpoint_managers.BestN(
            n=1, get_metric_fn=mean_iou, keep_checkpoints_without_metrics=False
        )
        latest = checkpoint_managers.LatestN(keep)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=checkpoint_managers.AnyPreservationPolicy([latest, best]),
            best_fn=mean_iou,  # without it orbax forgets the scores when it is closed
            best_mode="max",
            cleanup_tmp_directories=True,
            # Saving returns when the files are complete: the next step donates the state's
            # buffers, which on a CPU are the very memory that a background save would read.
            enable_async_checkpointing=False,
        )
        self._directory = (workdir / "checkpoints").absolute()
        self._manager = ocp.CheckpointManager(self._directory, options=options)

    @property
    def latest_step(self) -> int | None:
        """Step of the latest checkpoint, None if there is none."""
        return self._manager.latest_step()

    @property
    def best_step(self) -> int | None:
        """Step of the checkpoint with the highest mean IoU on val, None if none was evaluated."""
        return self._manager.best_step()

    def save(self, state: TrainState, progress: dict[str, Any], mean_iou: float | None) -> None:
        """Writes a checkpoint.

        One of the same step that is complete already is left alone, unless it was written without
        a score (by a stop amid its evaluation) and now has one.

        Args:
            state: all arrays.
            progress: JSON-able bookkeeping, such as the iterators' states.
            mean_iou: on val, if this step was evaluated.

        Raises:
            UserError: it cannot be written, e.g. because the disk is full.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            if mean_iou is None or self._manager.metrics(step) is not None:
                return
            self._manager.delete(step)
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), progress=ocp.args.JsonSave(progress)
        )
        metrics = None if mean_iou is None else {"mean_iou": mean_iou}
        try:
            self._manager.save(step, args=items, metrics=metrics)
        except (OSError, ValueError) as error:
            raise UserError(
                f"The checkpoint of step {step} cannot be written to {self._directory} "
                f"({_first_line(error)}); earlier ones are whole: make room and start again."
            ) from error

    def restore(self, like: TrainState, step: int | None = None) -> tuple[TrainState, dict]:
        """Reads a checkpoint.

        Args:
            like: a state of the same structure, shapes, dtypes and shardings (arrays or
                `jax.ShapeDtypeStruct`).
            step: which one; None for the latest.

        Returns:
            The state and the progress that were saved.

        Raises:
            UserError: it is damaged or of another network.
        """
        step = self.latest_step if step is None else step
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract), progress=ocp.args.JsonRestore()
        )
        try:
            restored = self._manager.restore(step, args=items)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"The checkpoint {self._directory / str(step)} cannot be read "
                f"({_first_line(error)}); delete that folder to go on from the one before."
            ) from error
        return restored["state"], restored["progress"]

    def close(self) -> None:
        """Waits for what is under way and lets go of the directory."""
        self._manager.close()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]
