"""Your own folder: images/{train,val} and masks/{train,val}, masks only where there is a label.

    python -m eln_jax.main --config=configs/folder.py --workdir=runs/mine \
        --config.data.root=my_images --config.data.num_classes=3

Every training image with a mask counts as labelled, every other one as unlabelled.
"""

from eln_jax.defaults import check_variant, default_config


def get_config(variant: str = ""):
    """Returns the configuration; it has no variants."""
    check_variant(variant)
    config = default_config()
    config.crop_size = (256, 256)
    config.batch_size_labeled = 8
    config.batch_size_unlabeled = 8
    config.steps.supervised = 400
    config.steps.eln = 200
    config.steps.semi_supervised = 400
    config.model.encoder = "efficientnet_lite0"
    config.model.eln_encoder = "efficientnet_lite0"
    config.model.width = 128
    config.model.embedding_size = 64
    config.model.eln_width = 64
    config.data.labeled_fraction = 1.0
    config.method.class_balance = "sqrt"
    config.method.contrastive_windows = 2
    config.method.contrastive_window_size = 16
    config.optim.learning_rate = 2e-3
    config.optim.encoder_factor = 0.2
    config.optim.schedule = "poly"
    config.eval.every = 200
    config.log.every = 10
    config.checkpoint.every = 100
    return config
