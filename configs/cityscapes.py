"""Cityscapes, 2,975 street scenes of 1024x2048, 19 classes.

    python -m eln_jax.main --config=configs/cityscapes.py --workdir=runs/cityscapes \
        --config.data.root=CITYSCAPES --config.data.partition=ssl_eln/cityscapes/8_labeled_0

CITYSCAPES holds leftImg8bit and gtFine as they are unpacked from the official archives.

The variant "official" (configs/cityscapes.py:official) follows the authors' code in every row of
the table in docs/method.md. They report 70.3, 73.5 and 75.3 mIoU with ResNet-50 and 1/8, 1/4 and
1/2 of the labels.
"""

from eln_jax.data.builders import cityscapes
from eln_jax.defaults import apply_official, check_variant, default_config


def get_config(variant: str = ""):
    """Returns the configuration; the variant "official" follows the authors' code."""
    check_variant(variant, ("official",))
    config = default_config()
    config.crop_size = (512, 1024)
    config.batch_size_labeled = 4
    config.batch_size_unlabeled = 4
    config.steps.supervised = 100 * 266
    config.steps.eln = 58 * 266
    config.steps.semi_supervised = 342 * 266
    config.data.source = "cityscapes"
    config.data.num_classes = len(cityscapes.CLASS_NAMES)
    config.data.class_names = cityscapes.CLASS_NAMES
    config.eval.every = 2660
    config.eval.batch_size = 1
    config.checkpoint.every = 2660
    if variant == "official":
        apply_official(config)
        config.data.geometry = "crop"
    return config
