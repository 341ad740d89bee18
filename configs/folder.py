"""Your own folder of images and masks, masks only where there is a label.

    python -m eln_jax.main --config=configs/folder.py --workdir=runs/mine \
        --config.data.root=my_images --config.data.val_fraction=0.2

my_images holds images/ and masks/, searched with their subfolders; a fifth of the images with a
mask validates. With images/{train,val} and masks/{train,val} leave val_fraction out. Every other
image with a mask counts as labelled, the rest as unlabelled. The classes are those of classes.txt
in my_images, a line each as "1 cat", or are found by looking at the masks.
"""

from eln_jax.defaults import apply_laptop, check_variant, default_config


def get_config(variant: str = ""):
    """Returns the configuration; it has no variants."""
    check_variant(variant)
    config = apply_laptop(default_config())
    config.steps.supervised = 400
    config.steps.eln = 200
    config.steps.semi_supervised = 400
    # In trainings as short as this an ELN that segments by itself, from pretrained features that
    # stay as they are, finds more wrong labels than the paper's, in less time (docs/results.md).
    config.model.eln_second_opinion = True
    config.model.eln_frozen_encoder = True
    config.model.num_aux_decoders = 0
    config.method.loss_ceilings = ()
    # A threshold alone keeps nothing of classes that are often wrong.
    config.method.gate_mode = "class_floor"
    config.method.gate_fraction = 0.5
    config.data.num_classes = 0
    config.data.labeled_fraction = 1.0
    config.eval.every = 200
    config.checkpoint.every = 100
    return config
