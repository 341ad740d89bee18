"""What a configuration may hold: types, choices, bounds, and values that fit one another."""

import math
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from eln_jax.defaults import default_config
from eln_jax.errors import UserError, did_you_mean

CHOICES = {
    "dtype": ("float32", "bfloat16"),
    "model.encoder": (
        "resnet_tiny",
        "resnet18",
        "resnet34",
        "resnet50",
        "resnet101",
        "efficientnet_lite0",
        "efficientnet_lite1",
        "efficientnet_lite2",
    ),
    "model.architecture": ("official", "torchvision"),
    "model.output_stride": (8, 16),
    "model.eln_input": ("image_and_logits", "image_and_probabilities", "logits"),
    "model.eln_stem": ("random", "pretrained"),
    "data.source": ("folder", "voc", "cityscapes", "camvid", "records", "synthetic"),
    "data.geometry": ("scale_crop", "crop", "warp"),
    "data.simulated.confusion": ("measured", "uniform"),
    "method.gate": (
        "none",
        "confidence",
        "entropy",
        "margin",
        "eln",
        "eln_and_confidence",
        "class_calibrated",
        "oracle",
    ),
    "method.gate_mode": ("threshold", "quantile", "class_quantile", "class_floor", "soft"),
    "method.class_balance": ("none", "sqrt"),
    "method.contrastive_form": ("info_nce", "official"),
    "optim.name": ("adamw", "sgd"),
    "optim.schedule": ("constant", "poly", "cosine"),
    "eval.protocol": ("original", "warp"),
}
CHOICES["model.eln_encoder"] = CHOICES["model.encoder"]

AT_LEAST_ONE = (
    "batch_size_labeled",
    "batch_size_unlabeled",
    "accumulation",
    "steps.supervised",
    "model.width",
    "model.low_width",
    "model.embedding_size",
    "model.eln_width",
    "data.threads",
    "data.synthetic.train_size",
    "data.synthetic.val_size",
    "method.contrastive_windows",
    "method.contrastive_window_size",
    "method.gate_fit_every",
    "eval.every",
    "eval.batch_size",
    "log.every",
    "checkpoint.every",
    "checkpoint.keep",
)
NOT_NEGATIVE = (
    "seed",
    "model.num_aux_decoders",
    "steps.eln",
    "steps.semi_supervised",
    "data.labeled_count",
    "data.max_unreadable",
    "data.partition_seed",
    "data.synthetic.seed",
    "data.workers",
    "method.supervised_weight",
    "method.aux_weight",
    "method.eln_weight",
    "method.pseudo_label_weight",
    "method.contrastive_weight",
    "method.max_error_weight",
    "method.simulated_weight",
    "method.feature_dropout",
    "method.student_reset_every",
    "views.brightness",
    "views.contrast",
    "views.saturation",
    "optim.weight_decay",
    "optim.power",
    "optim.warmup_steps",
    "optim.clip_norm",
    "divergence.loss_limit",
    "divergence.max_skipped_steps",
    "eval.max_images",
    "log.panel_images",
)
# Element type and length of the tuples; None: any length.
TUPLES = {
    "crop_size": (int, 2),
    "model.dropout": (float, 3),
    "model.eln_dropout": (float, 3),
    "data.class_names": (str, None),
    "data.class_ids": (int, None),
    "data.class_colors": (str, None),
    "data.void_labels": (int, None),
    "data.void_colors": (str, None),
    "data.scale_range": (float, 2),
    "data.simulated.error_rate": (float, 2),
    "data.simulated.ops": (str, None),
    "data.synthetic.image_size": (int, 2),
    "method.loss_ceilings": (float, None),
    "views.blur_sigma": (float, 2),
}
POSITIVE = ("method.temperature", "optim.learning_rate", "optim.encoder_factor")
WITHIN_ZERO_AND_ONE = (
    "data.labeled_fraction",
    "data.val_fraction",
    "data.flip",
    "method.ema_decay",
    "method.gate_threshold",
    "method.gate_fraction",
    "method.gate_confidence",
    "views.jitter_probability",
    "views.grey_probability",
    "views.blur_probability",
    "views.cutmix_probability",
    "optim.momentum",
)
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
    _check_fields(config)
    _check_tuples(config)
    for name, choices in CHOICES.items():
        value = get(config, name)
        if value not in choices:
            listed = ", ".join(map(str, choices))
            raise UserError(
                f"{name}={value} is not known; choose one of {listed}."
                + did_you_mean(str(value), [str(c) for c in choices])
            )
    bounds = (
        (AT_LEAST_ONE, lambda v: v >= 1, "at least 1"),
        (NOT_NEGATIVE, lambda v: v >= 0, "0 or more"),
        (POSITIVE, lambda v: v > 0, "greater than 0"),
        (WITHIN_ZERO_AND_ONE, lambda v: 0 <= v <= 1, "between 0 and 1"),
    )
    for names, holds, words in bounds:
        for name in names:
            value = get(config, name)
            if not holds(value):
                raise UserError(f"{name}={value} must be {words}.")
    for name in ("seed", "data.partition_seed", "data.synthetic.seed"):
        if get(config, name) >= 2**31:
            raise UserError(f"{name}={get(config, name)} must be below 2**31.")
    _check_crop(config)
    _check_data(config)
    if needs_data and config.data.source != "synthetic" and not config.data.root:
        raise UserError(
            f"data.root is empty; say where the data set lies with --config.data.root=DIR "
            f"(data.source is {config.data.source})."
        )
    _check_method(config)


def _check_fields(config: Any) -> None:
    """Refuses fields that nothing reads, missing ones, and values of another type."""
    if not isinstance(config, ConfigDict):
        raise UserError("get_config() must return the configuration; see configs/quickstart.py.")
    defaults = default_config()
    known, found = list(field_names(defaults)), set(field_names(config))
    for name in sorted(found - set(known)):
        raise UserError(f"There is no field {name}." + did_you_mean(name, known))
    for name in known:
        if name not in found:
            raise UserError(f"The configuration has no {name}; start from default_config().")
        value, default = get(config, name), get(defaults, name)
        if type(value) is not type(default):
            raise UserError(
                f"{name}={value!r} must be of the type of its default, {default!r}, "
                f"{type(default).__name__}."
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{name}={value} must be a finite number.")


def _check_tuples(config: Any) -> None:
    words = {int: "whole numbers", float: "numbers", str: "names"}
    for name, (kind, length) in TUPLES.items():
        values = get(config, name)
        accepted = (int, float) if kind is float else kind
        fits = all(isinstance(v, accepted) and not isinstance(v, bool) for v in values)
        if fits and kind is float and not all(math.isfinite(v) for v in values):
            raise UserError(f"{name}={values} must be finite numbers.")
        if not fits or length not in (None, len(values)):
            count = "a tuple of" if length is None else str(length)
            raise UserError(f"{name}={values} must be {count} {words[kind]}.")


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


def field_names(config: Any, prefix: str = "") -> Iterator[str]:
    """Yields the dotted name of every field."""
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from field_names(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def get(config: Any, name: str) -> Any:
    """Returns the value of a dotted field name."""
    value: Any = config
    for part in name.split("."):
        value = value[part]
    return value
