"""What a single field of a configuration may hold: its type, choices and bounds."""

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


def check_fields(config: Any) -> None:
    """Refuses fields that nothing reads, missing ones, and values that cannot work by themselves.

    Raises:
        UserError: one sentence that names the field, its value and what would do.
    """
    _check_types(config)
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


def _check_types(config: Any) -> None:
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
