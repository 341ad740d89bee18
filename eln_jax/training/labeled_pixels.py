"""What a network shows on pixels of the labelled images, to which gates and ELN are fitted."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from eln_jax.method.views import sample_nearest
from eln_jax.training.sharding import put_batch, replicated

if TYPE_CHECKING:
    from eln_jax.training.assembly import Parts

# (network, variables, images) -> predicted classes [batch, rows, columns] and features
# [num_features, batch, rows, columns].
Shown = Callable[[Callable, Any, jax.Array], tuple[jax.Array, jax.Array]]

_THIN = np.s_[:, ::2, ::2]  # every second row and column of the logits' grid: neighbours are alike
_MOST_BATCHES = 50


def labeled_pixels(
    parts: "Parts", position: Mapping[str, Any], shown: Shown, network: Callable, variables: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Looks at about as many labelled crops as there are labelled images, at most 50 batches.

    Args:
        parts: of the run.
        position: of the labelled stream's iterator; the batches that come next are looked at.
        shown: a pure function; compiled once for all fits of a run, so always the same object.
        network: one of `parts.evaluation`, for `shown`.
        variables: of the network.

    Returns:
        Features [pixels, num_features], predicted classes and whether they are right, void left
        out; in every process those of all.
    """
    config = parts.config
    look = _look(shown, network, parts.programs.mesh)
    found = []
    for batch in labeled_batches(parts, position, _MOST_BATCHES):
        seen = look(variables, batch["image"], batch["label"])
        predicted, features, label = (np.asarray(x) for x in seen)
        valid = label != config.data.ignore_label
        right = predicted[valid] == label[valid]
        found.append((features[:, valid].T, predicted[valid], right))
    features, predicted, right = (np.concatenate(each) for each in zip(*found, strict=True))
    return features, predicted, right


def labeled_batches(
    parts: "Parts", position: Mapping[str, Any], most: int
) -> Iterator[dict[str, jax.Array]]:
    """The batches of labelled crops that come next, on the devices, without moving the stream on.

    Args:
        parts: of the run.
        position: of the labelled stream's iterator.
        most: batches, at most; fewer if fewer hold as many crops as there are labelled images. The
            stream goes on in the midst of an epoch, so some images come twice and others not.

    Yields:
        What the stream holds; all processes must take equally many.
    """
    once = -(-len(parts.data.partition.labeled) // parts.config.batch_size_labeled)
    iterator = iter(parts.data.streams["labeled"])
    iterator.set_state(position)
    try:
        for _ in range(min(most, once)):
            yield put_batch(next(iterator), parts.programs.mesh)
    finally:
        iterator.close()


@functools.lru_cache(maxsize=2)  # a run may fit both a gate and the ELN's comparison
def _look(shown, network, mesh):
    """The program that a fit runs on each batch."""

    @functools.partial(jax.jit, out_shardings=replicated(mesh))
    def look(variables, image, label):
        predicted, features = shown(network, variables, image)
        label = sample_nearest(label, (predicted.shape[1], predicted.shape[2]))
        return predicted[_THIN], features[:, *_THIN], label[_THIN]

    return look
