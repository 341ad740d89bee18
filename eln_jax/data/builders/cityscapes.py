"""Cityscapes, fine annotations, from the unpacked leftImg8bit and gtFine.

https://www.cityscapes-dataset.com
"""

from pathlib import Path

from eln_jax.data.labels import LabelCode
from eln_jax.data.sources import ExampleFiles, FileSource
from eln_jax.errors import UserError

NAME = "cityscapes"
SPLITS = ("train", "val")
# Class -> id in *_gtFine_labelIds.png; the order is that of the benchmark's 19 train ids.
LABEL_IDS = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
CLASS_NAMES = tuple(LABEL_IDS)
IMAGE_ENDING, MASK_ENDING = "_leftImg8bit.png", "_gtFine_labelIds.png"


def open_split(root: str | Path, split: str, ignore_label: int = 255) -> FileSource:
    """Lists a split; opens no image. An id is "city/city_000000_000019".

    Args:
      root: Folder with leftImg8bit and gtFine.
      split: "train" (2,975 images), "val" (500) or "test" (1,525, whose masks are all void).
      ignore_label: Label of void.

    Raises:
      UserError: The layout is another one.
    """
    root = Path(root)
    images, masks = root / "leftImg8bit" / split, root / "gtFine" / split
    for folder in (images, masks):
        if not folder.is_dir():
            raise UserError(
                f"{root} is not Cityscapes: there is no {folder}; give the folder with leftImg8bit "
                "and gtFine (unpacked from leftImg8bit_trainvaltest.zip and "
                "gtFine_trainvaltest.zip) as data.root."
            )
    examples = []
    for image in images.glob(f"*/[!.]*{IMAGE_ENDING}"):
        key = f"{image.parent.name}/{image.name.removesuffix(IMAGE_ENDING)}"
        mask = masks / f"{key}{MASK_ENDING}"
        examples.append(ExampleFiles(key, image, mask if mask.is_file() else None))
    if not examples:
        raise UserError(f"there are no images CITY/*{IMAGE_ENDING} below {images}.")
    return FileSource(
        examples,
        label_code(ignore_label),
        class_names=CLASS_NAMES,
        description={"kind": NAME, "split": split},
    )


def label_code(ignore_label: int = 255) -> LabelCode:
    """Turns label ids into train ids; every other id is void, as in the benchmark."""
    ids = dict.fromkeys((*range(34), 255), ignore_label)
    ids |= {stored: label for label, stored in enumerate(LABEL_IDS.values())}
    return LabelCode(ids, {}, len(LABEL_IDS), ignore_label)
