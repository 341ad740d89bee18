"""A run that begins from another run's checkpoint: what both have in common is trained once."""

import shutil
from pathlib import Path
from typing import Any

import jax

from eln_jax.errors import UserError
from eln_jax.method.state import TrainState
from eln_jax.training import assembly
from eln_jax.training.bookkeeping import Bookkeeping, score
from eln_jax.training.checkpoint import Checkpoints
from eln_jax.training.gate_fitting import unfitted_gate
from eln_jax.training.sharding import replicated
from eln_jax.training.workdir import differences


def branch_off(
    config: Any,
    workdir: Path,
    trunk_config: Any,
    trunk: Path,
    step: int,
    *,
    previous_if_damaged: bool = False,
) -> None:
    """Makes a workdir that goes on from a trunk's checkpoint as if it had come there itself.

    A workdir that has a checkpoint of its own is left alone.

    Args:
        config: of the run to be made. It may differ from the trunk's in what the trunk's phases do
            not read; after supervised steps alone, in ELN and auxiliary decoders too.
        workdir: of the run to be made.
        trunk_config: of the run to begin from.
        trunk: workdir of that run, which is finished.
        step: of its checkpoint.
        previous_if_damaged: damaged checkpoints of the run that goes on are set aside.

    Raises:
        UserError: the trunk read other images, or its checkpoint cannot be used.
    """
    checkpoints = Checkpoints(
        workdir, keep=config.checkpoint.keep, previous_if_damaged=previous_if_damaged
    )
    try:
        if checkpoints.latest_step is not None:
            return
        parts = assembly.build(config)
        like = parts.programs.abstract_state()
        supervised_alone = step <= config.steps.supervised
        if supervised_alone:
            like = assembly.build(trunk_config).programs.abstract_state()
        source = Checkpoints(trunk)
        try:
            # A gate is fitted in the last phase, of which a trunk knows nothing.
            state, saved = source.restore(like.replace(gate={}), step)
        finally:
            source.close()
        if supervised_alone:
            state = _with_untrained_networks(state, parts.programs.initial_state())
        state = state.replace(
            gate=jax.device_put(unfitted_gate(config), replicated(parts.programs.mesh))
        )
        books = Bookkeeping(**saved)
        _check_images(books.fingerprint, parts.data.fingerprint, trunk)
        books.fingerprint = parts.data.fingerprint
        # Before the checkpoint: without one, a start that was broken off is made anew.
        shutil.copyfile(trunk / "metrics.jsonl", workdir / "metrics.jsonl")
        checkpoints.save(state, books.to_json(), score(books.scores[-1]))
    finally:
        checkpoints.close()


def _with_untrained_networks(state: TrainState, initial: TrainState) -> TrainState:
    """The state with all but the student, which supervised steps leave alone, as at the start."""

    def student_of(learnt, fresh):
        return {**fresh, "student": learnt["student"]}

    return state.replace(
        params=student_of(state.params, initial.params),
        batch_stats=student_of(state.batch_stats, initial.batch_stats),
        opt_state=student_of(state.opt_state, initial.opt_state),
    )


def _check_images(old: dict[str, Any], new: dict[str, Any], trunk: Path) -> None:
    """The trunk has read no unlabelled image, and made no error on purpose."""
    changes = [
        change
        for change in differences(old, new)
        if not change.startswith(("unlabeled.", "labeled.simulation"))
    ]
    if changes:
        raise UserError(
            f"The data has changed since the run in {trunk} began ({'; '.join(changes[:5])}); put "
            "it back, or give another --output."
        )
