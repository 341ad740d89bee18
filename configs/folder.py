"""Your own folder: images/{train,val} and masks/{train,val}, masks only where there is a label.

    python -m eln_jax.main --config=configs/folder.py --workdir=runs/mine \
        --config.data.root=my_images --config.data.num_classes=3

Every training image with a mask counts as labelled, every other one as unlabelled.
"""

from eln_jax.defaults import apply_laptop, check_variant, default_config


def get_config(variant: str = ""):
    """Returns the configuration; it has no variants."""
    check_variant(variant)
    config = apply_laptop(default_config())
    config.steps.supervised = 400
    config.steps.eln = 200
    config.steps.semi_supervised = 400
    config.data.labeled_fraction = 1.0
    config.eval.every = 200
    config.checkpoint.every = 100
    return config
