"""The public data sets in the layouts in which they are published, one module each."""

from eln_jax.data.builders import camvid, cityscapes, voc

# Each has NAME, CLASS_NAMES, SPLITS and `open_split(root, split, ignore_label=255)`.
DATASETS = {module.NAME: module for module in (camvid, cityscapes, voc)}
