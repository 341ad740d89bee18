"""CamVid (367 street scenes of 360x480, 11 classes) with an encoder that a laptop can afford.

    python -m eln_jax.main --config=configs/camvid.py --workdir=runs/camvid \
        --config.data.root=CAMVID --config.data.partition=CAMVID/partitions/8_labeled_0

CAMVID holds images/{train,val}/*.jpg and masks/{train,val}/*.png with ids 0-10 and 11 for void.
"""

from eln_jax.defaults import apply_laptop, check_variant, default_config


def get_config(variant: str = ""):
    """Returns the configuration; it has no variants."""
    check_variant(variant)
    config = apply_laptop(default_config())
    config.steps.supervised = 450
    config.steps.eln = 250
    config.steps.semi_supervised = 500
    config.data.num_classes = 11
    config.data.class_names = (
        "sky",
        "building",
        "pole",
        "road",
        "pavement",
        "tree",
        "sign",
        "fence",
        "car",
        "pedestrian",
        "bicyclist",
    )
    config.data.void_labels = (11,)
    config.eval.every = 250
    config.checkpoint.every = 50
    return config
