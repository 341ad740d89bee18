"""PASCAL VOC 2012 with the augmented training set: 10,582 images, 21 classes.

    python -m eln_jax.main --config=configs/voc.py --workdir=runs/voc --config.data.root=VOC \
        --config.data.partition=ssl_eln/voc/8_labeled_0

VOC is the devkit's folder VOC2012, or one above it; the augmented set needs SegmentationClassAug.

The variant "official" (configs/voc.py:official) follows the authors' code in every row of the table
in docs/method.md. They report 76.6 mIoU with ResNet-101 and a quarter of the labels, 73.2 with
ResNet-50 and an eighth.

The variants "8gb" and "80gb" are meant for devices with so much memory: the same batches in
bfloat16. "8gb" also takes crops of 321 x 321, a third of the batch at a time, and rematerialises:
with crops of 513 x 513 it needed 11.7 GiB as compiled for TPUs (docs/performance.md, Memory).
"""

from eln_jax.data.builders import voc
from eln_jax.defaults import apply_official, check_variant, default_config


def get_config(variant: str = ""):
    """Returns the configuration; variants: "official", "8gb", "80gb"."""
    check_variant(variant, ("official", "8gb", "80gb"))
    config = default_config()
    config.crop_size = (513, 513)
    config.model.encoder = "resnet101"
    config.data.source = "voc"
    config.data.train_split = "trainaug"
    config.data.num_classes = len(voc.CLASS_NAMES)
    config.data.class_names = voc.CLASS_NAMES
    config.eval.every = 2660
    config.checkpoint.every = 2660
    if variant in ("8gb", "80gb"):
        config.dtype = "bfloat16"
    if variant == "8gb":
        config.crop_size = (321, 321)
        config.accumulation = 3
        config.rematerialize = True
    if variant == "official":
        apply_official(config)
        config.crop_size = (505, 505)
        config.data.geometry = "warp"
        config.eval.protocol = "warp"
    return config
