"""How a checkpoint of the authors' code is used: what it does not say itself."""

from pathlib import Path
from typing import Any

from eln_jax.configuration import set_classes
from eln_jax.data.builders import cityscapes, voc
from eln_jax.data.classes import read_classes
from eln_jax.defaults import apply_official, default_config
from eln_jax.errors import UserError


def official_configuration(
    encoder: str,
    eln_encoder: str,
    num_classes: int,
    num_aux_decoders: int,
    classes: Path | None = None,
) -> tuple[Any, str]:
    """Makes the configuration with which a converted checkpoint evaluates and predicts.

    The number of classes tells the data set: 21 is PASCAL VOC, 19 Cityscapes. Any other is treated
    as VOC, whose crops of 8n + 1 pixels decide how images are padded.

    Args:
        encoder: of the student.
        eln_encoder: of the ELN.
        num_classes: without void.
        num_aux_decoders: K, 0 or more.
        classes: a file as `data.classes.read_classes` reads it; None: the data set's.

    Returns:
        The configuration, and a sentence on the classes for the screen.

    Raises:
        UserError: the file cannot be used, or lists another number of classes.
    """
    config = apply_official(default_config())
    config.dtype = "float32"  # theirs is mixed precision in training alone
    config.model.encoder, config.model.eln_encoder = encoder, eln_encoder
    config.model.num_aux_decoders = max(num_aux_decoders, 1)  # not used, and no field can say 0
    if num_classes == len(cityscapes.CLASS_NAMES):
        names = cityscapes.CLASS_NAMES
        config.data.source, config.data.geometry = "cityscapes", "crop"
        config.crop_size = (512, 1024)
    else:
        names = voc.CLASS_NAMES if num_classes == len(voc.CLASS_NAMES) else ()
        if names:
            config.data.source, config.data.train_split = "voc", "trainaug"
        config.data.geometry = config.eval.protocol = "warp"
        config.crop_size = (505, 505)
    config.data.num_classes, config.data.class_names = num_classes, names
    if classes is not None:
        found = read_classes(classes)
        if len(found.names) != num_classes:
            raise UserError(
                f"{classes} lists {len(found.names)} classes, the checkpoint has {num_classes}."
            )
        config.data.source = "folder"
        set_classes(config.data, found)
        return config, f"Classes: from {classes}."
    if names:
        listed = ", ".join(names[:3])
        return config, f"Classes: taken for those of {config.data.source}: {listed}, ..."
    return config, "Classes: not known, so called class 0, class 1, ...; --classes=FILE names them."
