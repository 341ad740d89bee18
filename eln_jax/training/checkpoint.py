"""Checkpoints: everything that a run needs to go on as if it had never stopped.

A checkpoint holds the state, both data iterators and the loop's own bookkeeping; it becomes
visible by an atomic rename, so that a run killed inside a save finds the one before.
"""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from eln_jax.method.state import TrainState


class Checkpoints:
    """The checkpoints of one working directory: the latest few and the best."""

    def __init__(self, workdir: Path, *, keep: int = 1):
        """Opens (or creates) `workdir`/checkpoints.

        Args:
            workdir: the run's directory.
            keep: number of latest checkpoints that stay, beside the best.
        """
        policy = checkpoint_managers.AnyPreservationPolicy(
            [
                checkpoint_managers.LatestN(keep),
                checkpoint_managers.BestN(
                    n=1,
                    get_metric_fn=lambda metrics: metrics["mean_iou"],
                    keep_checkpoints_without_metrics=False,
                ),
            ]
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy,
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
        scored = [
            (info.metrics["mean_iou"], info.step)
            for info in self._manager._checkpoints.get()  # no public list carries the metrics
            if info.metrics is not None
        ]
        return max(scored)[1] if scored else None

    def save(self, state: TrainState, progress: dict[str, Any], mean_iou: float | None) -> None:
        """Writes a checkpoint; one of the same step that is complete already is left alone.

        Args:
            state: all arrays.
            progress: JSON-able bookkeeping, such as the iterators' states.
            mean_iou: on val, if this step was evaluated.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), progress=ocp.args.JsonSave(progress)
            ),
            metrics=None if mean_iou is None else {"mean_iou": mean_iou},
        )

    def restore(self, like: TrainState, step: int | None = None) -> tuple[TrainState, dict]:
        """Reads a checkpoint.

        Args:
            like: a state of the same structure, shapes, dtypes and shardings (arrays or
                `jax.ShapeDtypeStruct`).
            step: which one; None for the latest.

        Returns:
            The state and the progress that were saved.
        """
        step = self.latest_step if step is None else step
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(abstract), progress=ocp.args.JsonRestore()
            ),
        )
        return restored["state"], restored["progress"]

    def close(self) -> None:
        """Waits for what is under way and lets go of the directory."""
        self._manager.close()
