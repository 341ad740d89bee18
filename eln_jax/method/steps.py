"""One pure function a phase: the paper's training, start to end.

The host picks the phase from the step number, so each phase compiles once:

    supervised_step        the student learns from labelled images
    eln_step               auxiliary decoders and the ELN join in, on the same images
    semi_supervised_step   the student also learns from unlabelled images, by the teacher's
                           pseudo-labels that the gate lets pass

Networks are passed in: `networks.student`, `.aux_decoder` and `.eln` are Linen modules as
`eln_jax.models.segmenter` wires them. A batch is {"labeled": {"image": uint8 [n, h, w, 3],
"label": uint8 [n, h, w]}} and, in the third phase, "unlabeled": {"image": uint8 [m, h, w, 3],
"inside": bool [m, h, w]}, False on padding, or with "label" in its place for the gate "oracle".
Where the ELN learns from simulated errors too, "labeled" has "simulated" beside "label" in the
phases with an ELN: uint8 [n, h', w'], the label map with errors made on purpose, best as coarse as
the logits.

Forward passes are in `eln_jax.method.passes`, what the labelled images teach in `labeled_losses`,
gradients and optimisers in `updates`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from eln_jax.method import gates, labeled_losses, losses, passes, state, updates, views

Batch = Mapping[str, Mapping[str, jax.Array]]
Metrics = dict[str, jax.Array]


@dataclass(frozen=True, kw_only=True)
class MethodSettings(gates.GateSettings):
    """Constants of the steps; `eln_jax.defaults` explains the fields of its `method` block."""

    num_classes: int
    ignore_label: int
    input_mean: tuple[float, ...]
    input_std: tuple[float, ...]
    eln_input_mean: tuple[float, ...]
    eln_input_std: tuple[float, ...]
    class_weights: tuple[float, ...] | None
    supervised_weight: float
    aux_weight: float
    eln_weight: float
    pseudo_label_weight: float
    contrastive_weight: float
    loss_ceilings: tuple[float, ...]
    temperature: float
    contrastive_windows: int
    contrastive_window_size: int
    contrastive_form: str
    ema_decay: float
    void_is_error: bool
    max_error_weight: float
    pseudo_label_batch_stats: bool
    average_batch_stats: bool
    record_all_batch_stats: bool
    simulated_weight: float = 0.0
    second_strong_view: bool = False
    feature_dropout: float = 0.0
    eln_in_semi_supervised: bool = True
    eln_second_opinion: bool = False


@dataclass(frozen=True)
class StepArguments:
    """What every step needs beside state and batch; bound once, by the training loop.

    Attributes:
        networks: student, aux_decoder and eln modules.
        resize: `(x [b, h, w, c], (height, width)) -> [b, height, width, c]`, as evaluation does it.
        tx: an optimiser for each entry of `TrainState.params`, for a learning rate of 1.
        learning_rate: schedule from the step number.
        settings: the method's constants.
        views: the strong view's constants.
        loss_limit: a step with a loss above it is bad, as one whose loss or gradient is not finite.
        skip_bad_steps: a bad step counts, but changes neither networks nor optimisers.
        accumulation: parts of a batch whose gradients are taken one after another.
    """

    networks: Any
    resize: Callable[[jax.Array, tuple[int, int]], jax.Array]
    tx: Mapping[str, optax.GradientTransformation]
    learning_rate: optax.Schedule
    settings: MethodSettings
    views: views.ViewSettings
    loss_limit: float = float("inf")
    skip_bad_steps: bool = False
    accumulation: int = 1


def supervised_step(
    old: state.TrainState, batch: Batch, key: jax.Array, *, args: StepArguments
) -> tuple[state.TrainState, Metrics]:
    """Phase 1: the supervised loss alone.

    Args:
        old: state before the step.
        batch: {"labeled": {"image", "label"}}.
        key: the run's key; the step folds its number in.
        args: networks, optimisers and constants.

    Returns:
        The new state and scalars to log.
    """
    trained = {"student": old.params["student"]}
    return updates.update(_supervised_phase, old, trained, batch, key, args)[:2]


def eln_step(
    old: state.TrainState, batch: Batch, key: jax.Array, *, args: StepArguments
) -> tuple[state.TrainState, Metrics]:
    """Phase 2: adds the auxiliary decoders and the ELN; arguments as in `supervised_step`."""
    return updates.update(_eln_phase, old, old.params, batch, key, args)[:2]


def semi_supervised_step(
    old: state.TrainState, batch: Batch, key: jax.Array, *, args: StepArguments
) -> tuple[state.TrainState, Metrics]:
    """Phase 3: adds pseudo-labels and pixel contrast on unlabelled images, and the teacher.

    Args:
        old: state before the step; its teacher was started by `state.start_teacher`.
        batch: {"labeled": {"image", "label"}, "unlabeled": {"image", "inside"}}.
        key: the run's key; the step folds its number in.
        args: networks, optimisers and constants.

    Returns:
        The new state and scalars to log.
    """
    trained = old.params
    if not args.settings.eln_in_semi_supervised:
        trained = {"student": old.params["student"]}
    new, metrics, stats = updates.update(_semi_supervised_phase, old, trained, batch, key, args)
    teacher = _new_teacher(old, new, stats["teacher"], args.settings)
    if args.skip_bad_steps:
        teacher = updates.unless(metrics["bad_step"], teacher, old.teacher)
    return new.replace(teacher=teacher), metrics


def _supervised_phase(params, old, batch, key, args):
    image = passes.for_student(views.to_unit(batch["labeled"]["image"]), args)
    student = passes.student_forward(params, old, [image], key, args)
    return labeled_losses.supervised_term(student, batch, args)


def _eln_phase(params, old, batch, key, args):
    image = passes.for_student(views.to_unit(batch["labeled"]["image"]), args)
    student = passes.student_forward(params, old, [image], key, args)
    return labeled_losses.labeled_terms(params, old, student, batch, key, args)


def _semi_supervised_phase(params, old, batch, key, args):
    settings = args.settings
    view_key, box_key, window_key, weak_window_key = jax.random.split(jax.random.fold_in(key, 1), 4)
    unit = views.to_unit(batch["unlabeled"]["image"])
    weak = passes.for_student(unit, args)
    mixes = [_mixer(box_key, unit, args)]
    strong = [passes.for_student(mixes[0](views.strong_view(view_key, unit, args.views)), args)]
    if settings.second_strong_view:
        second_view_key, second_box_key = jax.random.split(jax.random.fold_in(key, 5))
        mixes.append(_mixer(second_box_key, unit, args))
        second = views.strong_view(second_view_key, unit, args.views)
        strong.append(passes.for_student(mixes[1](second), args))
    teacher, teacher_stats = passes.teacher_forward(old, weak, args)
    image = passes.for_student(views.to_unit(batch["labeled"]["image"]), args)
    student = passes.student_forward(params, old, [image, weak], key, args, strong)
    if settings.eln_in_semi_supervised:
        total, (metrics, batch_stats) = labeled_losses.labeled_terms(
            params, old, student, batch, key, args
        )
    else:
        total, (metrics, batch_stats) = labeled_losses.supervised_term(student, batch, args)
    batch_stats["teacher"] = teacher_stats
    eln_logits, eln_stats = passes.eln_judgement(
        {**old.params, **params},
        batch_stats.get("eln", old.batch_stats["eln"]),
        passes.for_eln(unit, args),
        teacher.logits,
        args,
    )
    if settings.eln_in_semi_supervised:
        batch_stats["eln"] = eln_stats
    inside, truth = _inside_and_truth(batch["unlabeled"], teacher.logits.shape[1:3], args)
    coefficients = old.gate.get("coefficients")
    seen = gates.Evidence(teacher.logits, eln_logits, coefficients, truth)
    label, weight = gates.pseudo_labels(seen, inside, settings)
    valid_mask = gates.valid_mask(weight, settings)

    def contrast(embeddings, keys, label, mask, rng):
        return losses.windowed_contrastive_loss(
            embeddings,
            keys,
            label,
            mask,
            rng,
            num_windows=settings.contrastive_windows,
            window_size=settings.contrastive_window_size,
            num_classes=settings.num_classes,
            temperature=settings.temperature,
            form=settings.contrastive_form,
        )

    _, weak_logits, *strong_logits = student.split(student.logits)
    on_strong = [
        losses.mean(losses.cross_entropy(logits, mix(label), mix(weight)))
        for logits, mix in zip(strong_logits, mixes, strict=True)
    ]
    pseudo_label = {
        "weak": losses.mean(losses.cross_entropy(weak_logits, label, weight)),
        "strong": sum(on_strong) / len(on_strong),
    }
    if settings.feature_dropout > 0:
        features = jax.tree.map(lambda x: student.split(x)[1], student.features)
        disturbed = passes.disturbed_logits(params, old, features, key, args)
        pseudo_label["features"] = losses.mean(losses.cross_entropy(disturbed, label, weight))
    total = total + settings.pseudo_label_weight * sum(pseudo_label.values())
    metrics |= losses.with_sum("pseudo_label_loss", pseudo_label)
    if settings.contrastive_weight > 0:
        _, weak_embeddings, strong_embeddings = student.split(student.embeddings)[:3]
        keys, mix = teacher.embeddings, mixes[0]
        contrastive = {
            "weak": contrast(weak_embeddings, keys, label, valid_mask, weak_window_key),
            "strong": contrast(
                strong_embeddings, mix(keys), mix(label), mix(valid_mask), window_key
            ),
        }
        total = total + settings.contrastive_weight * sum(contrastive.values())
        metrics |= losses.with_sum("contrastive_loss", contrastive)
    kept = losses.mean((weight.sum(dtype=jnp.float32), inside.sum(dtype=jnp.float32)))
    return total, (metrics | {"valid_ratio": kept}, batch_stats)


def _mixer(key, unit, args):
    """Pastes boxes of the previous image into each, the same for all maps of a view."""
    if args.views.cutmix_probability == 0:
        return lambda x: x
    boxes = views.cutmix_boxes(key, unit.shape[0], args.views.cutmix_probability)
    return lambda x: views.paste_boxes(x, boxes)


def _inside_and_truth(unlabeled, size, args):
    """Which cells of the logits' grid lie on the image and, for the oracle, their true classes."""
    if args.settings.gate != "oracle":
        return views.sample_nearest(unlabeled["inside"], size), None
    truth = views.sample_nearest(unlabeled["label"], size)
    return truth != args.settings.ignore_label, truth


def _new_teacher(old, new, teacher_stats, settings):
    """The teacher after a step: weights averaged; statistics averaged or its own."""
    student = state.student_variables(new)
    average = state.exponential_moving_average
    return {
        "params": average(old.teacher["params"], student["params"], settings.ema_decay),
        "batch_stats": (
            average(old.teacher["batch_stats"], student["batch_stats"], settings.ema_decay)
            if settings.average_batch_stats
            else teacher_stats
        ),
    }
