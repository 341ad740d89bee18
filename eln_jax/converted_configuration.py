"""How a converted PyTorch checkpoint is used: what it does not say itself."""

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
    config.model.num_aux_decoders = num_aux_decoders
    first, *others = config.method.loss_ceilings
    config.method.loss_ceilings = tuple([first, *others * num_aux_decoders][:num_aux_decoders])
    is_cityscapes = num_classes == len(cityscapes.CLASS_NAMES)
    config.data.geometry = "crop" if is_cityscapes else "warp"
    config.eval.protocol = "original" if is_cityscapes else "warp"
    config.crop_size = (512, 1024) if is_cityscapes else (505, 505)
    return config, _name_classes(config.data, num_classes, classes)


def torchvision_configuration(
    encoder: str, num_classes: int, classes: Path | None = None
) -> tuple[Any, str]:
    """The same for a DeepLabV3+ with torchvision's names, which has no ELN.

    Images are taken at their own size, and windows of 512x512 or, of Cityscapes, 768x768 pixels.

    Arguments, returned values and errors as of `official_configuration`.
    """
    config = default_config()
    config.model.architecture, config.model.encoder = "torchvision", encoder
    config.model.dropout = (0.1, 0.0, 0.0)
    is_cityscapes = num_classes == len(cityscapes.CLASS_NAMES)
    config.crop_size = (768, 768) if is_cityscapes else (512, 512)
    return config, _name_classes(config.data, num_classes, classes)


def _name_classes(data: Any, num_classes: int, classes: Path | None) -> str:
    """Sets the fields of the classes; returns a sentence on them for the screen."""
    data.num_classes = num_classes
    if classes is not None:
        found = read_classes(classes)
        if len(found.names) != num_classes:
            raise UserError(
                f"{classes} lists {len(found.names)} classes, the checkpoint has {num_classes}."
            )
        data.source = "folder"
        set_classes(data, found)
        return f"Classes: from {classes}."
    if num_classes == len(cityscapes.CLASS_NAMES):
        data.source, data.class_names = "cityscapes", cityscapes.CLASS_NAMES
    elif num_classes == len(voc.CLASS_NAMES):
        data.source, data.class_names, data.train_split = "voc", voc.CLASS_NAMES, "trainaug"
    else:
        return "Classes: not known, so called class 0, class 1, ...; --classes=FILE names them."
    return f"Classes: taken for those of {data.source}: {', '.join(data.class_names[:3])}, ..."
