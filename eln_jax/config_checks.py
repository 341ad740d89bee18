"""What a configuration may hold: each field by itself, and values that fit one another."""

from typing import Any

from eln_jax.config_fields import check_fields
from eln_jax.errors import UserError, did_you_mean

MAX_BLUR_SIGMA = 20.0  # pixels: the kernel is six times as long, and every tap costs
# What the other sources decide themselves.
FOLDER_ONLY = (
    "val_list",
    "val_fraction",
    "classes",
    "class_ids",
    "class_colors",
    "void_labels",
    "void_colors",
)


def check(config: Any, *, needs_data: bool = True) -> None:
    """Refuses values that cannot work.

    Args:
        config: the configuration.
        needs_data: it must say where the data set lies.

    Raises:
        UserError: one sentence that names the field, its value and what would do.
    """
    check_fields(config)
    _check_crop(config)
    _check_data(config)
    if needs_data:
        _check_root(config.data)
    _check_method(config)


def _check_root(data: Any) -> None:
    if data.source != "synthetic" and not data.root:
        raise UserError(
            f"data.root is empty; say where the data set lies with --config.data.root=DIR "
            f"(data.source is {data.source})."
        )
    if data.source == "synthetic" and data.root:
        raise UserError(
            f"data.root={data.root} would not be looked at, as data.source=synthetic draws its "
            "scenes itself: for images of your own take --config=configs/folder.py, for the scenes "
            "leave data.root out."
        )


def _check_crop(config: Any) -> None:
    crop = config.crop_size
    if any(side < 32 for side in crop):
        raise UserError(f"crop_size={crop} must be (height, width) of 32 or more.")
    for side in crop:
        # Sides of 8n or 8n+1 halve to the same grid in every encoder; 8n+1 keeps corners aligned
        # (505 and 513 are the usual ones).
        if side % 8 > 1:
            lower = side // 8 * 8
            raise UserError(
                f"crop_size={crop} does not fit the stride: {side} must be a multiple of 8 or one "
                f"more, such as {lower}, {lower + 1} or {lower + 8}."
            )
    if crop[0] % 8 != crop[1] % 8:
        raise UserError(
            f"crop_size={crop} must be multiples of 8 in both sides or one more in both, such as "
            f"{tuple(side // 8 * 8 for side in crop)}."
        )


def _check_data(config: Any) -> None:
    data = config.data
    if data.num_classes == 0 and data.source != "folder":
        raise UserError(f"data.num_classes=0 needs data.source=folder, not {data.source}.")
    if data.num_classes and not 2 <= data.num_classes <= 254:
        raise UserError(f"data.num_classes={data.num_classes} must be between 2 and 254.")
    for name in FOLDER_ONLY:
        if data[name] and data.source != "folder":
            raise UserError(f"data.{name} needs data.source=folder, not {data.source}.")
    if data.num_classes and data.classes:
        raise UserError(
            f"data.classes={data.classes} needs data.num_classes=0, which lets the list decide; it "
            f"is {data.num_classes}."
        )
    if data.val_list and data.val_fraction:
        raise UserError("Give data.val_list or data.val_fraction, not both.")
    if data.partition and data.val_fraction:
        raise UserError(
            "data.val_fraction could draw images that data.partition labels: name the validation "
            "images with data.val_list."
        )
    for name in ("labeled_count", "labeled_balanced"):
        if data.partition and data[name]:
            raise UserError(
                f"data.{name}={data[name]} is for a draw, but data.partition={data.partition} "
                "lists the labelled images: give one of the two."
            )
    if not data.num_classes <= data.ignore_label <= 255:
        raise UserError(
            f"data.ignore_label={data.ignore_label} must lie outside the {data.num_classes} class "
            "ids and be at most 255."
        )
    if len(set(data.class_names)) != len(data.class_names):
        raise UserError(f"data.class_names={data.class_names} must all be different.")
    if data.num_classes and data.class_names and len(data.class_names) != data.num_classes:
        raise UserError(
            f"data.class_names has {len(data.class_names)} names for "
            f"data.num_classes={data.num_classes}."
        )
    low, high = data.scale_range
    if not 0 < low <= high:
        raise UserError(f"data.scale_range={data.scale_range} must be two rising factors above 0.")
    _check_simulated(data.simulated)
    if not data.partition and not data.labeled_count and data.labeled_fraction == 0:
        raise UserError(
            "No image is labelled: set data.partition, data.labeled_count or data.labeled_fraction."
        )


def _check_simulated(simulated: Any) -> None:
    low, high = simulated.error_rate
    if not 0 <= low <= high <= 1:
        raise UserError(
            f"data.simulated.error_rate={simulated.error_rate} must be two rising shares from 0 "
            "to 1."
        )
    if simulated.ops:
        from eln_jax.data.simulated_errors.simulation import OPS  # imports scipy: only here

        for name in simulated.ops:
            if name not in OPS:
                raise UserError(
                    f"data.simulated.ops names {name!r}, which is no simulated error; choose from "
                    f"{', '.join(OPS)}." + did_you_mean(name, OPS)
                )


SHARES = ("quantile", "class_quantile", "class_floor")  # modes that keep a share of the pixels


def _check_method(config: Any) -> None:
    method, model, steps = config.method, config.model, config.steps
    if len(method.loss_ceilings) != model.num_aux_decoders:
        raise UserError(
            f"model.num_aux_decoders={model.num_aux_decoders} needs as many "
            f"method.loss_ceilings; there are {len(method.loss_ceilings)}: {method.loss_ceilings}."
        )
    if any(ceiling < 0 for ceiling in method.loss_ceilings):
        raise UserError(f"method.loss_ceilings={method.loss_ceilings} must not be negative.")
    for name in ("dropout", "eln_dropout"):
        rates = model[name]
        if len(rates) != 3 or not all(0 <= rate <= 0.99 for rate in rates):
            raise UserError(f"model.{name}={rates} must be three rates from 0 to 0.99.")
    _check_eln(method, model)
    _check_gate(method, steps)
    if not method.average_batch_stats and not method.pseudo_label_batch_stats:
        raise UserError(
            "method.average_batch_stats=False leaves the teacher with stale running statistics; "
            "set method.pseudo_label_batch_stats=True with it."
        )
    if method.temperature < 0.03:
        raise UserError(
            f"method.temperature={method.temperature} must be at least 0.03: below, differences "
            "between pixels leave the range of float32."
        )
    if config.optim.warmup_steps >= sum(steps.values()):
        raise UserError(
            f"optim.warmup_steps={config.optim.warmup_steps} must be fewer than the run's "
            f"{sum(steps.values())} steps."
        )
    if config.compare_supervised and not steps.eln and not steps.semi_supervised:
        raise UserError(
            "compare_supervised=True has nothing to compare with: steps.eln and "
            "steps.semi_supervised are 0."
        )
    low, high = config.views.blur_sigma
    if not 0 < low <= high <= MAX_BLUR_SIGMA:
        raise UserError(
            f"views.blur_sigma={config.views.blur_sigma} must be two rising numbers above 0, at "
            f"most {MAX_BLUR_SIGMA}."
        )
    if config.views.cutmix_probability and config.batch_size_unlabeled == config.accumulation:
        raise UserError(
            f"views.cutmix_probability={config.views.cutmix_probability} pastes boxes of other "
            f"images, but batch_size_unlabeled={config.batch_size_unlabeled} and accumulation="
            f"{config.accumulation} leave one at a time: let it be two or more, or set the "
            "probability to 0."
        )
    if model.architecture == "torchvision" and config.accumulation in (
        config.batch_size_labeled,
        config.batch_size_unlabeled,
    ):
        raise UserError(
            "model.architecture=torchvision normalises each image's mean over the batch, which "
            "takes two images or more at a time: raise the batch sizes, or lower accumulation."
        )
    if not 0 <= config.views.hue <= 0.5:
        raise UserError(f"views.hue={config.views.hue} must be between 0 and 0.5 turns.")


def _check_eln(method: Any, model: Any) -> None:
    if model.eln_frozen_encoder and model.eln_input == "logits":
        raise UserError(
            "model.eln_frozen_encoder=True needs the image, which model.eln_input=logits hides: "
            "give another eln_input, or False."
        )
    if model.eln_frozen_encoder and not model.eln_pretrained:
        raise UserError(
            "model.eln_frozen_encoder=True would keep the random weights that "
            "model.eln_pretrained='' asks for: give pretrained ones, or False."
        )
    if model.eln_second_opinion and model.eln_input != "image_and_logits":
        raise UserError(
            f"model.eln_input={model.eln_input} says nothing with model.eln_second_opinion=True, "
            "which always sees the image alone: leave it at image_and_logits, or give False."
        )
    if method.simulated_weight > 0 and (model.eln_second_opinion or method.eln_weight == 0):
        reason = (
            "model.eln_second_opinion=True, which learns from labels alone"
            if model.eln_second_opinion
            else "method.eln_weight=0, of which it is a share"
        )
        raise UserError(
            f"method.simulated_weight={method.simulated_weight} teaches nothing with {reason}: "
            "give 0, or change that."
        )


def _check_gate(method: Any, steps: Any) -> None:
    if steps.semi_supervised and asks_eln(method):
        for name, value in (("steps.eln", steps.eln), ("method.eln_weight", method.eln_weight)):
            if not value:
                raise UserError(
                    f"method.gate={method.gate} needs a trained ELN, but {name}=0; give {name} or "
                    "another gate."
                )
    if method.gate == "eln_and_confidence" and method.gate_mode in SHARES:
        raise UserError(
            f"method.gate_mode={method.gate_mode} cannot keep its share where "
            "method.gate=eln_and_confidence leaves out what is not confident: give threshold, or "
            "the gate eln."
        )
    unused = method.gate in ("none", "oracle") or method.gate_mode in ("quantile", "class_quantile")
    if method.gate_threshold and unused:
        raise UserError(
            f"method.gate_threshold={method.gate_threshold} says nothing with method.gate="
            f"{method.gate} and method.gate_mode={method.gate_mode}: give 0, or another mode."
        )
    if method.gate in ("none", "oracle") and method.gate_mode != "threshold":
        raise UserError(
            f"method.gate={method.gate} has no score to rank or to weigh by; give "
            f"method.gate_mode=threshold, not {method.gate_mode}."
        )
    if method.gate_fraction == 0:
        raise UserError("method.gate_fraction=0 would keep no pseudo-label; give a share above 0.")
    if method.feature_dropout > 0.9:
        raise UserError(
            f"method.feature_dropout={method.feature_dropout} must be at most 0.9: with fewer "
            "channels nothing can be recognised."
        )


def asks_eln(method: Any) -> bool:
    """Whether the gate goes by what the ELN says."""
    return method.gate in ("eln", "eln_and_confidence")
