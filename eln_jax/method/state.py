"""What training carries from step to step, and the teacher's exponential moving average."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

Tree = Any


class TrainState(struct.PyTreeNode):
    """All arrays that a step reads and writes.

    Attributes:
        step: int32 scalar, optimiser steps done.
        params: {"student": {encoder, decoder}, "aux_decoders": {"0": ..., "1": ...}, "eln": ...}.
        batch_stats: running statistics of batch norm, in the same tree as `params`.
        teacher: {"params": ..., "batch_stats": ...} of the student's form.
        opt_state: the optimiser's state of each entry of `params`.
        gate: what a gate has been fitted to (`coefficients` of calibrated gates), else empty.
    """

    step: jax.Array
    params: dict[str, Tree]
    batch_stats: dict[str, Tree]
    teacher: dict[str, Tree]
    opt_state: dict[str, Tree]
    gate: dict[str, jax.Array] = struct.field(default_factory=dict)


def student_variables(state: TrainState) -> dict[str, Tree]:
    """Returns the student's variables, {"params": ..., "batch_stats": ...}."""
    return {"params": state.params["student"], "batch_stats": state.batch_stats["student"]}


def start_teacher(state: TrainState) -> TrainState:
    """Makes the teacher a copy of the student, as the third phase begins (paper section 3.3)."""
    return state.replace(teacher=jax.tree.map(jnp.copy, student_variables(state)))


def reset_student(state: TrainState) -> TrainState:
    """Makes the student a copy of the teacher, as the official code does every 266 steps."""
    teacher = jax.tree.map(jnp.copy, state.teacher)
    return state.replace(
        params={**state.params, "student": teacher["params"]},
        batch_stats={**state.batch_stats, "student": teacher["batch_stats"]},
    )


def exponential_moving_average(average: Tree, value: Tree, decay: float) -> Tree:
    """Returns decay * average + (1 - decay) * value, leaf by leaf."""
    return jax.tree.map(lambda a, v: decay * a + (1.0 - decay) * v, average, value)
