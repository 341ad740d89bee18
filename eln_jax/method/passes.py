"""Forward passes of the networks within a step: what each is shown, and what of it is recorded.

`args` are the step's `eln_jax.method.steps.StepArguments`, `old` the `TrainState` before it.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from eln_jax.method import views


@dataclass
class StudentPass:
    """One batched pass of the student over several inputs, each with its own batch statistics."""

    features: Any
    logits: jax.Array
    embeddings: jax.Array
    batch_stats: Any
    sizes: tuple[int, ...]

    def split(self, x: jax.Array) -> list[jax.Array]:
        """Cuts [sum(sizes), ...] into the inputs' parts."""
        ends = [sum(self.sizes[: i + 1]) for i in range(len(self.sizes) - 1)]
        return jnp.split(x, ends)


def student_forward(params, old, images, key, args, strong=()) -> StudentPass:
    """Runs the student; strong views, unlike what it will be shown, move no running statistics."""
    groups = tuple(image.shape[0] for image in images)
    recorded = args.settings.record_all_batch_stats
    groups += tuple(view.shape[0] if recorded else (view.shape[0], False) for view in strong)
    images = [*images, *strong]
    sizes = tuple(image.shape[0] for image in images)
    (features, prediction), updates = args.networks.student.apply(
        {"params": params["student"], "batch_stats": old.batch_stats["student"]},
        jnp.concatenate(images) if len(images) > 1 else images[0],
        train=True,
        dropout=True,
        groups=groups,
        method="features_and_prediction",
        mutable=["batch_stats"],
        rngs={"dropout": jax.random.fold_in(key, 2)},
    )
    return StudentPass(
        features, prediction.logits, prediction.embeddings, updates["batch_stats"], sizes
    )


def disturbed_logits(params, old, features, key, args) -> jax.Array:
    """The student's logits where whole channels of its encoder's features are dropped.

    UniMatch (Yang et al. 2023, section 3.2). Such a pass moves no running statistics.
    """
    drop_key, dropout_key = jax.random.split(jax.random.fold_in(key, 6))
    features = views.drop_channels(drop_key, features, args.settings.feature_dropout)
    prediction, _ = args.networks.student.apply(
        {"params": params["student"], "batch_stats": old.batch_stats["student"]},
        features,
        train=True,
        dropout=True,
        method="decode",
        mutable=["batch_stats"],
        rngs={"dropout": dropout_key},
    )
    return prediction.logits


def teacher_forward(old, weak, args):
    """The teacher's prediction without dropout, and its batch statistics after the pass."""
    prediction, updates = args.networks.student.apply(
        old.teacher,
        weak,
        train=args.settings.pseudo_label_batch_stats,
        mutable=["batch_stats"],
    )
    return prediction, updates["batch_stats"]


def eln_judgement(params, batch_stats, image, logits, args):
    """The ELN's logits of "right" on the teacher's prediction, and its batch statistics.

    The statistics, too, carry no gradient: those that this step has moved depend on the weights.
    """
    eln_logits, updates = args.networks.eln.apply(
        jax.lax.stop_gradient({"params": params["eln"], "batch_stats": batch_stats}),
        image,
        logits,
        train=args.settings.pseudo_label_batch_stats,
        mutable=["batch_stats"],
    )
    return eln_logits, updates["batch_stats"]


def for_student(unit, args) -> jax.Array:
    """Normalises images in [0, 1] as the student's encoder expects them."""
    return views.normalize(unit, args.settings.input_mean, args.settings.input_std)


def for_eln(unit, args) -> jax.Array:
    """Normalises images in [0, 1] as the ELN's encoder expects them."""
    return views.normalize(unit, args.settings.eln_input_mean, args.settings.eln_input_std)
