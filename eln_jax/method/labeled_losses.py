"""The losses on labelled images: supervised, auxiliary, and the ELN's.

`args` are the step's `eln_jax.method.steps.StepArguments`, `old` the `TrainState` before it.
"""

from functools import partial

import jax
import jax.numpy as jnp

from eln_jax.method import losses, passes, simulated, views


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


def supervised_term(student, batch, args):
    """The supervised loss alone, as `labeled_terms` returns it."""
    loss = _supervised_loss(student.split(student.logits)[0], batch["labeled"]["label"], args)
    total = args.settings.supervised_weight * loss
    return total, ({"supervised_loss": loss}, {"student": student.batch_stats})


def labeled_terms(params, old, student, batch, key, args):
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
        metrics |= losses.with_sum("aux_loss", aux_losses)
    metrics |= {f"aux_learns/{n}": (v > 0).astype(jnp.float32) for n, v in learning.items()}
    by_name = dict(zip(names, eln_losses, strict=True))
    if "simulated" in by_name:
        metrics["simulated_eln_loss"] = by_name.pop("simulated")
    metrics |= losses.with_sum("eln_loss", by_name)
    metrics |= {f"error_share/{n}": e for n, e in zip(names, error_shares, strict=True)}
    batch_stats = {
        "student": student.batch_stats,
        "aux_decoders": aux_stats,
        "eln": eln_stats,
    }
    return total, (metrics, batch_stats)


def _aux_names(settings) -> list[str]:
    return [str(i) for i in range(len(settings.loss_ceilings))]


def _eln_terms(params, old, predictions, batch, key, args):
    """The ELN's loss on every prediction, in one batched pass with statistics of their own.

    And the loss of its own segmentation of the image, if it makes one; the student's loss. It will
    judge predictions of the main decoder, the last of these, by its running statistics: those of
    the others, which err more, would spoil them.
    """
    settings, label = args.settings, batch["labeled"]["label"]
    image = passes.for_eln(views.to_unit(batch["labeled"]["image"]), args)
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
