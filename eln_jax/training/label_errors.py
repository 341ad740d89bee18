"""Simulated errors in training: they begin with the ELN's first phase and follow the student's."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eln_jax.data.stream import StreamIterator
from eln_jax.method.state import TrainState, student_variables
from eln_jax.models.layers import resize_bilinear
from eln_jax.training.assembly import Parts
from eln_jax.training.bookkeeping import Bookkeeping
from eln_jax.training.interruption import StopRequest
from eln_jax.training.labeled_pixels import labeled_batches
from eln_jax.training.sharding import replicated

_MOST_BATCHES = 100  # that are counted


def with_label_errors(
    iterator: StreamIterator,
    parts: Parts,
    state: TrainState,
    books: Bookkeeping,
    stop: StopRequest,
) -> StreamIterator:
    """Goes on with the same batches, which have simulated errors beside the labels.

    Args:
        iterator: of the labelled stream; closed if another one takes its place.
        parts: of the run.
        state: at the beginning of the phase; its student is measured.
        books: keep what was measured, so that a run that goes on draws the same errors.
        stop: polled; measuring is given up if asked to stop.

    Returns:
        An iterator that stands where the given one stood; that one, if no errors are wanted.
    """
    make_stream = parts.data.with_simulated_errors
    if make_stream is None or stop.requested:
        return iterator
    position = iterator.get_state()
    iterator.close()
    if parts.config.data.simulated.confusion == "measured" and books.confusion is None:
        books.confusion = measure_confusion(parts, state, position, stop)
    erring = iter(make_stream(np.array(books.confusion) if books.confusion else None))
    erring.set_state(position)
    return erring


def measure_confusion(
    parts: Parts, state: TrainState, position: dict[str, Any], stop: StopRequest
) -> list[list[int]] | None:
    """Counts which classes the student takes for which on labelled crops as it is trained on them.

    Validation images would tell more, but their labels must not teach.

    Args:
        parts: of the run.
        state: whose student predicts.
        position: of the labelled stream's iterator; the batches that come next are counted.
        stop: polled; a counting that is stopped is given up.

    Returns:
        Pixels [num_classes][num_classes]: rows are the truth, columns the prediction; None if
        stopped.
    """
    config = parts.config
    classes, void = config.data.num_classes, config.data.ignore_label

    @partial(jax.jit, out_shardings=replicated(parts.programs.mesh))
    def count(variables, image, label):
        logits, _ = parts.evaluation.network({"network": variables}, image)
        predicted = resize_bilinear(logits, label.shape[1:]).argmax(-1)
        cell = jnp.where(label == void, classes**2, label.astype(jnp.int32) * classes + predicted)
        return jnp.bincount(cell.ravel(), length=classes**2 + 1)[:-1]

    total = np.zeros(classes**2, np.int64)
    for batch in labeled_batches(parts, position, _MOST_BATCHES):
        stop.agree()
        if stop.requested:
            return None
        total += np.asarray(count(student_variables(state), batch["image"], batch["label"]))
    return total.reshape(classes, classes).tolist()
