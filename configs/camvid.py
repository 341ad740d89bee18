"""CamVid (367 street scenes of 360x480, 11 classes) with an encoder that a laptop can afford.

    python -m eln_jax.main --config=configs/camvid.py --workdir=runs/camvid \
        --config.data.root=CAMVID --config.data.partition=CAMVID/partitions/8_labeled_0

CAMVID holds images/{train,val}/*.jpg and masks/{train,val}/*.png with ids 0-10 and 11 for void.
"""

from eln_jax.defaults import check_variant, default_config


def get_config(variant: str = ""):
    """Returns the configuration; it has no variants."""
    check_variant(variant)
    config = default_config()
    config.crop_size = (256, 256)
    config.batch_size_labeled = 8
    config.batch_size_unlabeled = 8
    config.steps.supervised = 450
    config.steps.eln = 250
    config.steps.semi_supervised = 500
    config.model.encoder = "efficientnet_lite0"
    config.model.eln_encoder = "efficientnet_lite0"
    config.model.width = 128
    config.model.embedding_size = 64
    config.model.eln_width = 64
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
    config.method.class_balance = "sqrt"
    # Two small windows a step: the paper's eight of 32x32 cost more than the networks on a CPU.
    config.method.contrastive_windows = 2
    config.method.contrastive_window_size = 16
    config.optim.learning_rate = 2e-3
    config.optim.encoder_factor = 0.2
    config.optim.schedule = "poly"
    config.eval.every = 250
    config.log.every = 10
    config.checkpoint.every = 50
    return config
