"""Checkpoints: everything that a run needs to go on as if it had never stopped.

A checkpoint holds the state, both data iterators and the loop's own bookkeeping. It is written in
the background, and becomes visible, together with the checksums of its files, by an atomic rename:
a run killed inside a save finds the one before.
"""

import errno
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from eln_jax.errors import StorageError, UserError
from eln_jax.method.state import TrainState
from eln_jax.training import damage, manifest
from eln_jax.training.processes import gather, is_first
from eln_jax.training.workdir import CONFIG

# Orbax warns at every save without a score; only evaluated steps have one.
# And it warns that what is opened to be read cannot be written, that a folder which has gone
# cannot be deleted, and shows with a traceback what it raises as well; so does asyncio, per array.
_NOT_NEWS = (
    "tracked_metric",
    "read_only=True",
    "Given directory is read only",
    "_SignalingThread",
    "Handler Commit operations",
    "Finalize thread",
    "Waiting for previous save",
    "for deletion or renaming",
    "exception was never retrieved",
)
for _name in ("absl", "asyncio"):
    logging.getLogger(_name).addFilter(
        lambda record: not any(words in str(record.msg) for words in _NOT_NEWS)
    )


def _hide_late_failures(raised: Any, otherwise: Callable[[Any], Any] = sys.unraisablehook) -> None:
    """After a failed save arrays still under way fail too, with nobody left to hear of it."""
    if str(raised.exc_value) != "Event loop is closed":
        otherwise(raised)


sys.unraisablehook = _hide_late_failures

REPLACED = "checkpoints_replaced"  # folder in the workdir


class _Sealed(ocp.path.atomicity.AtomicRenameTemporaryPath):
    """Where a checkpoint is written; its manifest is the last thing before it becomes visible."""

    async def finalize(self) -> None:
        """Called once, by the first process, when the files of all processes are there."""
        folder = self.get()
        if store := self._checkpoint_metadata_store:
            store.wait_until_finished()
            store.update(
                file_path=folder / "_CHECKPOINT_METADATA", commit_timestamp_nsecs=time.time_ns()
            )
            store.wait_until_finished()
        manifest.write(Path(folder))
        Path(folder).rename(self.get_final())


class Checkpoints:
    """The checkpoints of one working directory: the latest few and the best."""

    def __init__(
        self,
        workdir: Path,
        *,
        keep: int = 1,
        previous_if_damaged: bool = False,
        tell: Callable[[str], None] = print,
    ):
        """Opens (or creates) `workdir`/checkpoints, and looks whether the latest one is whole.

        Args:
            workdir: the run's directory.
            keep: number of latest checkpoints that stay, beside the best.
            previous_if_damaged: set damaged ones aside and go on from the newest whole one.
            tell: takes a sentence for the screen.

        Raises:
            UserError: the latest is damaged, and no other may be taken or none is whole.
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
            temporary_path_class=_Sealed,
        )
        self._directory = (workdir / "checkpoints").absolute()
        self._replaced = (workdir / REPLACED).absolute()
        self._saving: int | None = None  # step of the save under way
        self._clear_away()
        damage.settle(self._directory, previous_if_damaged=previous_if_damaged, tell=tell)
        try:
            self._manager = ocp.CheckpointManager(self._directory, options=options)
        except (ValueError, KeyError) as error:  # an older one's scores are read as well
            raise UserError(cannot_be_opened(self._directory, error)) from error
        self._device = self._directory.stat().st_dev
        self._seen_config = False

    @property
    def latest_step(self) -> int | None:
        """Step of the latest checkpoint, None if there is none."""
        return self._manager.latest_step()

    @property
    def best_step(self) -> int | None:
        """Step of the checkpoint with the highest mean IoU on val, None if none was evaluated."""
        return self._manager.best_step()

    def save(self, state: TrainState, progress: dict[str, Any], mean_iou: float | None) -> None:
        """Begins to write a checkpoint, once the one before is written; the state may then change.

        One of the same step that is complete already is left alone, unless it was written without
        a score (by a stop amid its evaluation) and now has one.

        Args:
            state: all arrays.
            progress: JSON-able bookkeeping, such as the iterators' states.
            mean_iou: on val, if this step was evaluated.

        Raises:
            UserError: it, or the one before, cannot be written, e.g. because the disk is full.
        """
        self.wait()
        step = int(state.step)
        self._check_folder(step)
        self.check_room(state, step)
        if step in self._manager.all_steps():
            if mean_iou is None or self._manager.metrics(step) is not None:
                return
            self._replace(step)
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(_apart(state)), progress=ocp.args.JsonSave(progress)
        )
        metrics = None if mean_iou is None else {"mean_iou": mean_iou}
        try:
            self._manager.save(step, args=items, metrics=metrics, custom_metadata=damage.PROMISE)
        except Exception as error:
            raise self._not_written(step, error) from error
        self._saving = step

    def check(self) -> None:
        """Looks whether the save under way has failed; does not wait for it.

        Raises:
            UserError: it has.
        """
        # Orbax's own check_for_errors would take the error away from the thread that, without it,
        # goes on to delete the older checkpoints.
        if self._saving is not None and not self._manager.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Waits for the save under way.

        Raises:
            UserError: it failed.
        """
        if self._saving is None:
            return
        step, self._saving = self._saving, None
        try:
            self._manager.wait_until_finished()
        except Exception as error:  # whatever ended orbax's threads
            raise self._not_written(step, error) from error
        if is_first() and self._replaced.exists():
            shutil.rmtree(self._replaced, ignore_errors=True)

    def _not_written(self, step: int, error: Exception) -> StorageError:
        reason = reason_of(error)
        what_to_do = (
            "make room and start again"
            if reason == os.strerror(errno.ENOSPC)
            else "once the folder can be written to, the same command goes on"
        )
        whole = "" if self.latest_step is None else " earlier ones are whole:"
        return StorageError(
            f"The checkpoint of step {step} cannot be written to {self._directory} ({reason});"
            f"{whole} {what_to_do}."
        )

    def _check_folder(self, step: int) -> None:
        """Looks first: into a folder that is not there orbax would write, to whatever disk it is.

        If it went amid the last save, orbax has made one in its place, which the run's config.json
        does not lie beside.
        """
        try:
            if self._seen_config:
                (self._directory.parent / CONFIG).stat()
            self._seen_config = (self._directory.parent / CONFIG).exists()
            same = self._directory.stat().st_dev == self._device
        except OSError as error:
            raise self._not_written(step, error) from error
        if not same:
            raise StorageError(
                f"{self._directory} now lies on another disk than when the run started: bring back "
                "what was mounted there, and start again."
            )

    def check_room(self, state: TrainState, step: int | None = None) -> None:
        """Looks whether a checkpoint has room: an attempt without takes time for nothing.

        Args:
            state: what would be saved.
            step: of it; None before the first.

        Raises:
            UserError: it has not.
        """
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        try:
            free = shutil.disk_usage(self._directory).free
        except OSError as error:
            raise self._not_written(step or 0, error) from error
        if free < needed:
            which = "A checkpoint" if step is None else f"The checkpoint of step {step}"
            whole = "" if self.latest_step is None else " earlier ones are whole:"
            raise StorageError(
                f"{which} needs up to {needed / 1e6:.1f} MB, and there are {free / 1e6:.1f} MB "
                f"free for {self._directory};{whole} make room and start again."
            )

    def _replace(self, step: int) -> None:
        """Takes a checkpoint out of the way of a better one, until that is written."""
        if is_first():
            self._replaced.mkdir(exist_ok=True)
            (self._directory / str(step)).rename(self._replaced / str(step))
        gather(None)
        self._manager.reload()

    def _clear_away(self) -> None:
        """Deletes what a killed save left, and puts back what that was to replace."""
        if is_first():
            for path in self._directory.glob("*" + ocp.path.atomicity.TMP_DIR_SUFFIX + "*"):
                shutil.rmtree(path)
            for old in self._replaced.glob("*"):
                if not (self._directory / old.name).exists():
                    old.rename(self._directory / old.name)
            shutil.rmtree(self._replaced, ignore_errors=True)
        gather(None)

    def restore(self, like: TrainState, step: int | None = None) -> tuple[TrainState, dict]:
        """Reads a checkpoint; waits for a save under way.

        Args:
            like: a state of the same structure, shapes, dtypes and shardings (arrays or
                `jax.ShapeDtypeStruct`).
            step: which one; None for the latest.

        Returns:
            The state and the progress that were saved.

        Raises:
            UserError: it is of another network, or cannot be read.
        """
        self.wait()
        step = self.latest_step if step is None else step
        folder = self._directory / str(step)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract), progress=ocp.args.JsonRestore()
        )
        try:
            different = _difference(folder / "state", abstract)
            restored = None if different else self._manager.restore(step, args=items)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"The checkpoint {folder} cannot be read ({reason_of(error)}); move that folder "
                "elsewhere to go on from the one before."
            ) from error
        if restored is None:
            raise UserError(
                f"The checkpoint {folder} is of another network, optimiser or fitted gate than "
                f"the configuration describes ({different}): give the configuration that it was "
                "trained with, or another --workdir."
            )
        return restored["state"], restored["progress"]

    def close(self) -> None:
        """Waits for what is under way and lets go of the directory.

        Raises:
            UserError: the save under way failed.
        """
        try:
            self.wait()
        finally:
            self._manager.close()


def _difference(saved: Path, wanted: TrainState) -> str:
    """Names an array that is not in a checkpoint as it is wanted; empty if all are.

    Orbax would read another dtype without a word, and complains of another shape at length.
    """

    def arrays(tree):
        leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
        named = ((jax.tree_util.keystr(key, simple=True, separator="/"), x) for key, x in leaves)
        return {name: f"{x.dtype}{list(x.shape)}" for name, x in named}

    metadata = ocp.StandardCheckpointHandler().metadata(saved)  # type: ignore[arg-type]
    there, here = arrays(metadata.tree), arrays(wanted)
    for name in sorted(there.keys() | here.keys()):
        if there.get(name) != here.get(name):
            return f"{name} is {there.get(name, 'missing')} there, {here.get(name, 'missing')} here"
    return ""


def _apart(state: TrainState) -> TrainState:
    """The state in memory that the next step, which donates its own, does not overwrite.

    On accelerators orbax has copied everything to the host when `save` returns. On a CPU it would
    read the devices' memory itself. Copied by NumPy, which compiles nothing.
    """
    if jax.default_backend() != "cpu":
        return state

    def copy(leaf):
        return jax.make_array_from_single_device_arrays(
            leaf.shape,
            leaf.sharding,
            [jax.device_put(np.array(s.data), s.device) for s in leaf.addressable_shards],
        )

    return jax.tree.map(copy, state)


def cannot_be_opened(directory: Path, error: Exception) -> str:
    """A sentence on a folder of checkpoints that orbax cannot open."""
    faults = (damage.find_fault(directory / str(s)) for s in damage.finished_steps(directory))
    fault = next(filter(None, faults), "") or reason_of(error)
    return (
        f"{directory} holds a damaged checkpoint ({fault}): put the file back, or move that "
        "checkpoint's folder elsewhere."
    )


def reason_of(error: Exception) -> str:
    """What an exception says, in one line."""
    full = os.strerror(errno.ENOSPC)
    if full in str(error):  # at the end of a long story
        return full
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]
