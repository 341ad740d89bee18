"""The weights of a checkpoint, for use: read beside a training that may still be going on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from eln_jax.errors import UserError
from eln_jax.training import damage, processes
from eln_jax.training.checkpoint import cannot_be_opened, reason_of


class Weights(NamedTuple):
    """What of a checkpoint a trained model needs.

    Attributes:
        step: of the checkpoint.
        params: as in `TrainState`.
        batch_stats: as in `TrainState`.
        teacher: as in `TrainState`.
        gate: as in `TrainState`; empty where no gate is fitted.
    """

    step: int
    params: dict[str, Any]
    batch_stats: dict[str, Any]
    teacher: dict[str, Any]
    gate: dict[str, Any]


def read_weights(
    workdir: Path, which: str = "last", tell: Callable[[str], None] = print
) -> Weights:
    """Reads the weights of a run, maybe of one under way; changes nothing there.

    Args:
        workdir: the run's directory.
        which: "last", "best" (highest mean IoU on val of those kept) or a step's number.
        tell: takes a sentence for the screen.

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
    try:
        opened = ocp.CheckpointManager(directory, item_handlers=handlers, options=options)
    except (ValueError, KeyError) as error:
        raise UserError(cannot_be_opened(directory, error)) from error
    with opened as manager:
        step = processes.gather(_choose(which, manager, directory))[0]  # all take the same
        if fault := damage.find_fault(directory / str(step)):
            if not (directory / str(step)).exists():
                raise UserError(
                    f"The training in {workdir} has just deleted its checkpoint of step {step}, as "
                    "it keeps the newest few: start again."
                )
            others = [other for other in sorted(manager.all_steps()) if other != step]
            raise UserError(
                f"The checkpoint of step {step} is damaged: {fault}; put the file back"
                + (f", or take another: --checkpoint={others[-1]}." if others else ".")
            )
        damage.tell_if_unchecked(directory / str(step), tell)
        try:
            saved = manager.item_metadata(step)["state"]
            fitted = saved.get("gate")  # an empty one is not stored
            sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
            wanted = {
                name: jax.tree.map(
                    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), saved[name]
                )
                for name in ("params", "batch_stats", "teacher", *(["gate"] if fitted else []))
            }
            restore_args = ocp.checkpoint_utils.construct_restore_args(wanted)
            items = ocp.args.Composite(
                state=ocp.args.PyTreeRestore(
                    wanted, restore_args=restore_args, partial_restore=True
                )
            )
            found = manager.restore(step, args=items)["state"]
            return Weights(step=step, **{"gate": {}} | found)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"The checkpoint {directory / str(step)} cannot be read ({reason_of(error)})."
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
