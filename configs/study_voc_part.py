"""Gates side by side on the seven classes of a part of PASCAL VOC, 84 of 641 labels (1/8).

    python -m eln_jax.study --config=configs/study_voc_part.py --output=runs/study_voc_part \
        --config.data.root=VOC

VOC is a folder VOC2012 with JPEGImages, SegmentationClassAug (palette) and the lists of
docs/results/partitions/voc_part in ImageSets/Segmentation. JPEGImages holds the images of
trainaug.txt and val.txt alone, for all that val.txt does not name are trained on. Only background,
cat, cow, dog, horse, person and sheep count, other classes are void: mean IoU over these seven is
no "VOC mIoU". Arms, steps and variants are those of configs/study_camvid.py.
"""

import importlib.util
from pathlib import Path

KEPT = {0: "background", 8: "cat", 10: "cow", 12: "dog", 13: "horse", 15: "person", 17: "sheep"}


def get_config(variant: str = ""):
    """Returns the study."""
    study = _camvid(variant)
    root = "{root}/ImageSets/Segmentation"
    study["overrides"] |= {
        "data.source": "folder",
        "data.images": "JPEGImages",
        "data.masks": "SegmentationClassAug",
        "data.num_classes": len(KEPT),
        "data.class_names": tuple(KEPT.values()),
        "data.class_ids": tuple(KEPT),
        "data.void_labels": tuple(i for i in range(1, 21) if i not in KEPT),
        "data.val_list": f"{root}/val.txt",
        "data.partition": f"{root}/8_labeled_{{seed}}.txt",
        # Few images are of equal size, and a batch that is not full costs as much as a full one.
        "eval.batch_size": 1,
    }
    if "all_labels" in study["arms"]:
        study["arms"]["all_labels"] |= {"data.partition": f"{root}/trainaug.txt"}
    return study


def _camvid(variant: str):
    """The study of the file beside this one."""
    path = Path(__file__).parent / "study_camvid.py"
    spec = importlib.util.spec_from_file_location("eln_jax_study_camvid", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(variant)
