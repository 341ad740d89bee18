"""One pure function a phase, and the update they share: the paper's training, start to end.

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
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from eln_jax import target
from eln_jax.method import gates, losses, simulated, state, views

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
        resize: `(x [b, h, w, c], (height, width)) -> [b, height, width, c]`, aligned corners.
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
    return _update(_supervised_phase, old, trained, batch, key, args)[:2]


def eln_step(
    old: state.TrainState, batch: Batch, key: jax.Array, *, args: StepArguments
) -> tuple[state.TrainState, Metrics]:
    """Phase 2: adds the auxiliary decoders and the ELN; arguments as in `supervised_step`."""
    return _update(_eln_phase, old, old.params, batch, key, args)[:2]


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
    new, metrics, stats = _update(_semi_supervised_phase, old, trained, batch, key, args)
    return new.replace(teacher=_new_teacher(old, new, stats["teacher"], args.settings)), metrics


def _supervised_phase(params, old, batch, key, args):
    image = _for_student(views.to_unit(batch["labeled"]["image"]), args)
    student = _student_forward(params, old, [image], key, args)
    return _supervised_term(student, batch, args)


def _eln_phase(params, old, batch, key, args):
    image = _for_student(views.to_unit(batch["labeled"]["image"]), args)
    student = _student_forward(params, old, [image], key, args)
    return _labeled_terms(params, old, student, batch, key, args)


def _semi_supervised_phase(params, old, batch, key, args):
    settings = args.settings
    view_key, box_key, window_key, weak_window_key = jax.random.split(jax.random.fold_in(key, 1), 4)
    unit = views.to_unit(batch["unlabeled"]["image"])
    weak = _for_student(unit, args)
    mixes = [_mixer(box_key, unit, args)]
    strong = [_for_student(mixes[0](views.strong_view(view_key, unit, args.views)), args)]
    if settings.second_strong_view:
        second_view_key, second_box_key = jax.random.split(jax.random.fold_in(key, 5))
        mixes.append(_mixer(second_box_key, unit, args))
        second = views.strong_view(second_view_key, unit, args.views)
        strong.append(_for_student(mixes[1](second), args))
    teacher, teacher_stats = _teacher_forward(old, weak, args)
    image = _for_student(views.to_unit(batch["labeled"]["image"]), args)
    student = _student_forward(params, old, [image, weak], key, args, strong)
    if settings.eln_in_semi_supervised:
        total, (metrics, batch_stats) = _labeled_terms(params, old, student, batch, key, args)
    else:
        total, (metrics, batch_stats) = _supervised_term(student, batch, args)
    batch_stats["teacher"] = teacher_stats
    eln_logits, eln_stats = _eln_judgement(
        {**old.params, **params},
        batch_stats.get("eln", old.batch_stats["eln"]),
        _for_eln(unit, args),
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
        disturbed = _disturbed_logits(params, old, features, key, args)
        pseudo_label["features"] = losses.mean(losses.cross_entropy(disturbed, label, weight))
    total = total + settings.pseudo_label_weight * sum(pseudo_label.values())
    metrics |= _with_sum("pseudo_label_loss", pseudo_label)
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
        metrics |= _with_sum("contrastive_loss", contrastive)
    kept = losses.mean((weight.sum(dtype=jnp.float32), inside.sum(dtype=jnp.float32)))
    return total, (metrics | {"valid_ratio": kept}, batch_stats)


@dataclass
class _StudentPass:
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


def _student_forward(params, old, images, key, args, strong=()) -> _StudentPass:
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
    return _StudentPass(
        features, prediction.logits, prediction.embeddings, updates["batch_stats"], sizes
    )


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


def _disturbed_logits(params, old, features, key, args) -> jax.Array:
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


def _for_student(unit, args) -> jax.Array:
    """Normalises images in [0, 1] as the student's encoder expects them."""
    return views.normalize(unit, args.settings.input_mean, args.settings.input_std)


def _for_eln(unit, args) -> jax.Array:
    """Normalises images in [0, 1] as the ELN's encoder expects them."""
    return views.normalize(unit, args.settings.eln_input_mean, args.settings.eln_input_std)


def _supervised_loss(logits, label, args) -> jax.Array:
    weights = args.settings.class_weights
    return losses.mean(
        losses.cross_entropy(
            args.resize(logits, label.shape[1:]),
            label,
            label != args.settings.ignore_label,
            None if weights is None else jnp.array(weights),
        )
    )


def _supervised_term(student, batch, args):
    """The supervised loss alone, as `_labeled_terms` returns it."""
    loss = _supervised_loss(student.split(student.logits)[0], batch["labeled"]["label"], args)
    total = args.settings.supervised_weight * loss
    return total, ({"supervised_loss": loss}, {"student": student.batch_stats})


def _labeled_terms(params, old, student, batch, key, args):
    """Supervised, auxiliary and ELN losses on the labelled images (phases 2 and 3)."""
    settings, label = args.settings, batch["labeled"]["label"]
    logits = student.split(student.logits)[0]
    supervised = _supervised_loss(logits, label, args)
    metrics = {"supervised_loss": supervised}
    total = settings.supervised_weight * supervised

    features = jax.tree.map(lambda x: jax.lax.stop_gradient(student.split(x)[0]), student.features)
    predictions, aux_stats, aux_losses, learning = [], {}, {}, {}

    def aux_loss(params, given):
        prediction, updates = args.networks.aux_decoder.apply(
            {"params": params, "batch_stats": given["batch_stats"]},
            given["features"],
            train=True,
            dropout=True,
            mutable=["batch_stats"],
            rngs={"dropout": given["key"]},
        )
        loss = _supervised_loss(prediction.logits, given["label"], args)
        return loss, (prediction.logits, updates)

    for name, ceiling in zip(_aux_names(settings), settings.loss_ceilings, strict=True):
        aux, (aux_logits, updates) = losses.differentiated_if_needed(
            aux_loss,
            params["aux_decoders"][name],
            {
                "features": features,
                "label": label,
                "batch_stats": old.batch_stats["aux_decoders"][name],
                "key": jax.random.fold_in(key, 10 + int(name)),
            },
        )
        aux_stats[name] = updates["batch_stats"]
        predictions.append(aux_logits)
        aux_losses[name] = aux
        learning[name] = losses.below_ceiling_only(aux, supervised, ceiling)

    names = [*_aux_names(settings), "main"]
    predictions.append(logits)
    eln_weights = [settings.eln_weight] * len(names)
    if settings.simulated_weight > 0:
        made_up = simulated.soft_logits(
            jax.random.fold_in(key, 4),
            batch["labeled"]["simulated"],
            settings.num_classes,
            (logits.shape[1], logits.shape[2]),
        )
        names.insert(0, "simulated")  # the main decoder's prediction stays the last
        predictions.insert(0, made_up.astype(logits.dtype))
        eln_weights.insert(0, settings.eln_weight * settings.simulated_weight)
    eln_losses, opinion_loss, eln_stats, error_shares = _eln_terms(
        params, old, predictions, batch, key, args
    )
    total = total + settings.aux_weight * sum(learning.values())
    total = total + sum(w * loss for w, loss in zip(eln_weights, eln_losses, strict=True))
    if opinion_loss is not None:
        total = total + settings.eln_weight * opinion_loss
        metrics["opinion_loss"] = opinion_loss
    if aux_losses:
        metrics |= _with_sum("aux_loss", aux_losses)
    metrics |= {f"aux_learns/{n}": (v > 0).astype(jnp.float32) for n, v in learning.items()}
    by_name = dict(zip(names, eln_losses, strict=True))
    if "simulated" in by_name:
        metrics["simulated_eln_loss"] = by_name.pop("simulated")
    metrics |= _with_sum("eln_loss", by_name)
    metrics |= {f"error_share/{n}": e for n, e in zip(names, error_shares, strict=True)}
    batch_stats = {
        "student": student.batch_stats,
        "aux_decoders": aux_stats,
        "eln": eln_stats,
    }
    return total, (metrics, batch_stats)


def _with_sum(name: str, parts: dict[str, jax.Array]) -> Metrics:
    """Figures to log: the sum under `name`, the parts under `name/part`."""
    return {name: sum(parts.values(), jnp.zeros(()))} | {
        f"{name}/{part}": v for part, v in parts.items()
    }


def _aux_names(settings) -> list[str]:
    return [str(i) for i in range(len(settings.loss_ceilings))]


def _eln_terms(params, old, predictions, batch, key, args):
    """The ELN's loss on every prediction, in one batched pass with statistics of their own.

    And the loss of its own segmentation of the image, if it makes one; the student's loss. It will
    judge predictions of the main decoder, the last of these, by its running statistics: those of
    the others, which err more, would spoil them.
    """
    settings, label = args.settings, batch["labeled"]["label"]
    image = _for_eln(views.to_unit(batch["labeled"]["image"]), args)
    size, count = label.shape[1:], len(predictions)
    logits = jax.lax.stop_gradient(jnp.concatenate(predictions))
    judge = partial(
        args.networks.eln.apply,
        {"params": params["eln"], "batch_stats": old.batch_stats["eln"]},
        image,
        logits,
        train=True,
        dropout=True,
        groups=(
            *((image.shape[0], settings.record_all_batch_stats),) * (count - 1),
            image.shape[0],
        ),
        mutable=["batch_stats"],
        rngs={"dropout": jax.random.fold_in(key, 3)},
    )
    opinion_loss = None
    if settings.eln_second_opinion:
        (eln_logits, opinion), updates = judge(method="judge")
        opinion_loss = _supervised_loss(opinion, label, args)
    else:
        eln_logits, updates = judge()
    eln_logits = args.resize(eln_logits[..., None], size)[..., 0]
    predicted = args.resize(logits, size).argmax(-1)
    valid = label != settings.ignore_label
    counted = jnp.ones_like(valid) if settings.void_is_error else valid
    eln_losses, error_shares = [], []
    for eln_part, predicted_part in zip(
        jnp.split(eln_logits, count), jnp.split(predicted, count), strict=True
    ):
        correct_mask = predicted_part == label
        eln_losses.append(
            losses.eln_loss(eln_part, correct_mask, counted, settings.max_error_weight)
        )
        wrong = (~correct_mask & valid).sum(dtype=jnp.float32)
        error_shares.append(losses.mean((wrong, valid.sum(dtype=jnp.float32))))
    return eln_losses, opinion_loss, updates["batch_stats"], error_shares


def _teacher_forward(old, weak, args):
    """The teacher's prediction without dropout, and its batch statistics after the pass."""
    prediction, updates = args.networks.student.apply(
        old.teacher,
        weak,
        train=args.settings.pseudo_label_batch_stats,
        mutable=["batch_stats"],
    )
    return prediction, updates["batch_stats"]


def _eln_judgement(params, batch_stats, image, logits, args):
    """The ELN's logits of "right" on the teacher's prediction, and its batch statistics."""
    eln_logits, updates = args.networks.eln.apply(
        {"params": jax.lax.stop_gradient(params["eln"]), "batch_stats": batch_stats},
        image,
        logits,
        train=args.settings.pseudo_label_batch_stats,
        mutable=["batch_stats"],
    )
    return eln_logits, updates["batch_stats"]


def _update(phase, old, trained, batch, key, args):
    """Differentiates a phase's loss by the trained parts and lets their optimisers step.

    Returns:
        The new state, its teacher still the old one; scalars to log; the batch statistics, those
        of the teacher's pass among them.
    """
    key = jax.random.fold_in(key, old.step)
    grads, total, metrics, batch_stats = _gradients(phase, old, trained, batch, key, args)
    learning_rate = args.learning_rate(old.step)
    params, opt_state = dict(old.params), dict(old.opt_state)
    for name, grad in grads.items():
        updates, opt_state[name] = args.tx[name].update(grad, opt_state[name], params[name])
        updates = jax.tree.map(lambda u: learning_rate * u, updates)
        params[name] = optax.apply_updates(params[name], updates)
    metrics |= {
        "loss": total,
        "learning_rate": learning_rate,
        "grad_norm/student": optax.tree.norm(grads["student"]),
    }
    bad = ~jnp.isfinite(total + metrics["grad_norm/student"]) | (total > args.loss_limit)
    new = old.replace(
        step=old.step + 1,
        params=params,
        batch_stats={name: batch_stats[name] for name in old.batch_stats},
        opt_state=opt_state,
    )
    if args.skip_bad_steps:
        bad |= ~jnp.isfinite(optax.tree.norm(grads))
        new = jax.tree.map(partial(jnp.where, bad), old.replace(step=new.step), new)
    return new, metrics | {"bad_step": bad}, batch_stats


def _gradients(phase, old, trained, batch, key, args):
    """Gradients, loss, scalars and batch statistics of a batch, taken in parts one after another.

    Each part is a batch of its own to batch norm and losses; gradients and scalars are the parts'
    means, the running statistics move once a part.
    """
    differentiate = jax.value_and_grad(partial(phase, args=args), has_aux=True)
    before = {**old.batch_stats, "teacher": old.teacher["batch_stats"]}

    def one(batch_stats, part, key):
        teacher = {**old.teacher, "batch_stats": batch_stats["teacher"]}
        seen = old.replace(batch_stats={n: batch_stats[n] for n in old.batch_stats})
        (total, (metrics, moved)), grads = differentiate(
            trained, seen.replace(teacher=teacher), part, key
        )
        return {**batch_stats, **moved}, (grads, total, metrics)

    count = args.accumulation
    if count == 1:
        batch_stats, (grads, total, metrics) = one(before, batch, key)
        return grads, total, dict(metrics), batch_stats

    def add(carried, numbered):
        # One part after another, also where the loop is written out: that is what saves memory.
        (sums, batch_stats), (number, part) = jax.lax.optimization_barrier((carried, numbered))
        batch_stats, found = one(batch_stats, part, jax.random.fold_in(key, number))
        return (jax.tree.map(jnp.add, sums, found), batch_stats), None

    # Every count-th image: so each device keeps the images that it has.
    parts = jax.tree.map(lambda x: jnp.swapaxes(x.reshape(-1, count, *x.shape[1:]), 0, 1), batch)
    first = jax.tree.map(lambda x: x[0], parts)
    shapes = jax.eval_shape(lambda: one(before, first, key)[1])
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    # XLA runs the body of a loop many times slower on a CPU.
    unroll = count if target.platform() == "cpu" else 1
    (sums, batch_stats), _ = jax.lax.scan(
        add, (zeros, before), (jnp.arange(count), parts), unroll=unroll
    )
    grads, total, metrics = jax.tree.map(lambda x: x / count, sums)
    return grads, total, dict(metrics), batch_stats


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
