"""Checkpoints: everything that a run needs to go on as if it had never stopped.

A checkpoint holds the state, both data iterators and the loop's own bookkeeping; it becomes
visible by an atomic rename, so that a run killed inside a save finds the one before.
"""

import errno
import logging
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from eln_jax.errors import UserError
from eln_jax.method.state import TrainState

# Orbax warns at every save without a score; only evaluated steps have one.
# And it warns that what is opened to be read cannot be written, and shows with a traceback what it
# raises as well.
_NOT_NEWS = ("tracked_metric", "read_only=True", "Given directory is read only", "_SignalingThread")
logging.getLogger("absl").addFilter(
    lambda record: not any(words in str(record.msg) for words in _NOT_NEWS)
)


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
        self._check_room(step, state)
        try:
            self._manager.save(step, args=items, metrics=metrics)
        except (OSError, ValueError) as error:
            raise UserError(
                f"The checkpoint of step {step} cannot be written to {self._directory} "
                f"({_reason(error)}); earlier ones are whole: make room and start again."
            ) from error

    def _check_room(self, step: int, state: TrainState) -> None:
        """Looks first: an attempt without room ends in a page of other threads' tracebacks."""
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(self._directory).free
        if free < needed:
            raise UserError(
                f"The checkpoint of step {step} needs up to {needed / 1e6:.1f} MB, and there are "
                f"{free / 1e6:.1f} MB free for {self._directory}; earlier ones are whole: make "
                "room and start again."
            )

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
                f"({_reason(error)}); delete that folder to go on from the one before."
            ) from error
        return restored["state"], restored["progress"]

    def close(self) -> None:
        """Waits for what is under way and lets go of the directory."""
        self._manager.close()


class Weights(NamedTuple):
    """What of a checkpoint a trained model needs.

    Attributes:
        step: of the checkpoint.
        params: as in `TrainState`.
        batch_stats: as in `TrainState`.
        teacher: as in `TrainState`.
    """

    step: int
    params: dict[str, Any]
    batch_stats: dict[str, Any]
    teacher: dict[str, Any]


def read_weights(workdir: Path, which: str = "last") -> Weights:
    """Reads the weights of a run, maybe of one under way; changes nothing there.

    Args:
        workdir: the run's directory.
        which: "last", "best" (highest mean IoU on val of those kept) or a step's number.

    Returns:
        Arrays on the default device. The optimiser's state, the greater part, is not read.

    Raises:
        UserError: there is no such checkpoint, or it is damaged.
    """
    directory = (workdir / "checkpoints").absolute()
    if not directory.is_dir():
        raise UserError(f"{workdir}: holds no checkpoints; give the --workdir of a training.")
    handlers = {"state": ocp.PyTreeCheckpointHandler(), "progress": ocp.JsonCheckpointHandler()}
    options = ocp.CheckpointManagerOptions(
        read_only=True, create=False, best_fn=lambda metrics: metrics["mean_iou"]
    )
    with ocp.CheckpointManager(directory, item_handlers=handlers, options=options) as manager:
        step = _choose(which, manager, directory)
        try:
            saved = manager.item_metadata(step)["state"]
            sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
            wanted = {
                name: jax.tree.map(
                    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), saved[name]
                )
                for name in ("params", "batch_stats", "teacher")
            }
            restore_args = ocp.checkpoint_utils.construct_restore_args(wanted)
            items = ocp.args.Composite(
                state=ocp.args.PyTreeRestore(
                    wanted, restore_args=restore_args, partial_restore=True
                )
            )
            return Weights(step=step, **manager.restore(step, args=items)["state"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"The checkpoint {directory / str(step)} cannot be read ({_reason(error)})."
            ) from error


def _choose(which: str, manager: ocp.CheckpointManager, directory: Path) -> int:
    steps = sorted(manager.all_steps())
    if not steps:
        raise UserError(f"{directory}: holds no finished checkpoint yet.")
    if which == "last":
        return steps[-1]
    if which == "best":
        best = manager.best_step()
        if best is None:
            raise UserError(f"{directory}: no checkpoint has been evaluated yet; take the last.")
        return best
    if not which.isdigit() or int(which) not in steps:
        listed = ", ".join(str(step) for step in steps)
        raise UserError(
            f"There is no checkpoint {which!r} in {directory}: choose last, best or one of the "
            f"steps {listed}."
        )
    return int(which)


def _reason(error: Exception) -> str:
    full = os.strerror(errno.ENOSPC)
    if full in str(error):  # at the end of a long story
        return full
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]
