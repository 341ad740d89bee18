"""Gates: which pseudo-labels are worth learning from.

A gate maps the teacher's logits and the ELN's logits to a boolean `valid_mask`; all of them live
in the one dictionary `GATES`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Gate = Callable[[jax.Array, jax.Array, float], jax.Array]


def keep_all(logits: jax.Array, eln_logits: jax.Array, threshold: float) -> jax.Array:
    """Keeps every pseudo-label."""
    del eln_logits, threshold
    return jnp.ones(logits.shape[:-1], bool)


def keep_confident(logits: jax.Array, eln_logits: jax.Array, threshold: float) -> jax.Array:
    """Keeps a pixel whose maximum softmax probability exceeds the threshold."""
    del eln_logits
    return jax.nn.softmax(logits).max(-1) > threshold


def keep_low_entropy(logits: jax.Array, eln_logits: jax.Array, threshold: float) -> jax.Array:
    """Keeps a pixel where 1 - entropy / log(num_classes) exceeds the threshold."""
    del eln_logits
    log_probability = jax.nn.log_softmax(logits)
    entropy = -(jnp.exp(log_probability) * log_probability).sum(-1)
    return 1.0 - entropy / jnp.log(logits.shape[-1]) > threshold


def keep_eln(logits: jax.Array, eln_logits: jax.Array, threshold: float) -> jax.Array:
    """Keeps a pixel that the ELN says is right with a probability above the threshold (eq. 8)."""
    del logits
    return jax.nn.sigmoid(eln_logits) > threshold


GATES: dict[str, Gate] = {
    "none": keep_all,
    "confidence": keep_confident,
    "entropy": keep_low_entropy,
    "eln": keep_eln,
}


def pseudo_labels(
    logits: jax.Array, eln_logits: jax.Array, *, gate: str, threshold: float
) -> tuple[jax.Array, jax.Array]:
    """Turns a teacher's prediction into labels and the mask of those worth trusting.

    Args:
        logits: float32 [batch, height, width, num_classes] of the teacher.
        eln_logits: float32 [batch, height, width], the ELN's logit of "this label is right".
        gate: a name in `GATES`.
        threshold: in [0, 1]; a pixel is kept above it.

    Returns:
        `pseudo_label` int32 and `valid_mask` bool, both [batch, height, width].
    """
    valid_mask = GATES[gate](logits, eln_logits, threshold)
    return logits.argmax(-1).astype(jnp.int32), valid_mask
