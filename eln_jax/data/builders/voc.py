"""PASCAL VOC 2012 segmentation, with the augmented training set of SBD, from the devkit.

http://host.robots.ox.ac.uk/pascal/VOC/voc2012/; Hariharan et al., "Semantic contours from inverse
detectors", ICCV 2011.
"""

from collections.abc import Iterable
from pathlib import Path

from eln_jax.data.labels import make_code
from eln_jax.data.sources import ExampleFiles, FileSource
from eln_jax.errors import UserError

NAME = "voc"
SPLITS = ("train", "trainaug", "val")
CLASS_NAMES = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)


# VOC's own masks go first where an image has both: only they have void borders.
MASK_FOLDERS = ("SegmentationClass", "SegmentationClassAug")


def open_split(root: str | Path, split: str, ignore_label: int = 255) -> FileSource:
    """Lists a split; opens no image.

    Args:
      root: VOC2012, VOCdevkit, or the folder that holds it.
      split: "train" (1,464 images), "trainaug" (10,582) or "val" (1,449), or another list in
        ImageSets/Segmentation.
      ignore_label: Label of void.

    Raises:
      UserError: The layout is another one, or a listed image is missing.
    """
    examples = list_examples(Path(root), split)
    for example in examples:
        if not example.image.is_file():
            raise UserError(
                f"the list of the split {split!r} names {example.id!r}, but {example.image} is "
                "missing: add the image, or take the id out of the list."
            )
    return make_source(examples, split, ignore_label)


def list_examples(root: Path, split: str) -> list[ExampleFiles]:
    """Lists what a split names, whether the image is there or not; without a mask there is none.

    Raises:
      UserError: The layout is another one.
    """
    devkit = find_devkit(root)
    examples = []
    for key in split_ids(devkit, split):
        masks = (devkit / folder / f"{key}.png" for folder in MASK_FOLDERS)
        mask = next((path for path in masks if path.is_file()), None)
        examples.append(ExampleFiles(key, image_path(devkit, key), mask))
    return examples


def make_source(examples: Iterable[ExampleFiles], split: str, ignore_label: int) -> FileSource:
    """Makes the source of a split."""
    return FileSource(
        examples,
        make_code(len(CLASS_NAMES), ignore_label),
        class_names=CLASS_NAMES,
        description={"kind": NAME, "split": split},
    )


def image_path(devkit: Path, key: str) -> Path:
    """Returns where an image of the devkit lies."""
    return devkit / "JPEGImages" / f"{key}.jpg"


def find_devkit(root: Path) -> Path:
    """Returns the folder VOC2012 at or below `root`.

    Raises:
      UserError: There is none.
    """
    for folder in (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012"):
        if (folder / "JPEGImages").is_dir() and (folder / "ImageSets" / "Segmentation").is_dir():
            return folder
    raise UserError(
        f"{root} is not VOC 2012: give the folder VOC2012 of the devkit, with JPEGImages, "
        "SegmentationClass and ImageSets/Segmentation inside, as data.root."
    )


def _read_ids(path: Path) -> list[str]:
    """Reads an id a line; lists of two columns name the files of image and mask."""
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    return sorted({Path(line.split()[0]).stem for line in lines if line.strip()})


def split_ids(devkit: Path, split: str) -> list[str]:
    """Reads a list of ImageSets/Segmentation; "trainaug" may also be told by the masks there are.

    Raises:
      UserError: There is no such list.
    """
    lists = devkit / "ImageSets" / "Segmentation"
    names = ("trainaug", "train_aug") if split == "trainaug" else (split,)
    for name in names:
        if (lists / f"{name}.txt").is_file():
            return _read_ids(lists / f"{name}.txt")
    augmented = devkit / "SegmentationClassAug"
    if split == "trainaug" and augmented.is_dir():
        return sorted(
            {path.stem for path in augmented.glob("[!.]*.png")} - set(split_ids(devkit, "val"))
        )
    known = ", ".join(sorted(path.stem for path in lists.glob("*.txt"))) or "there are none"
    hint = (
        " or a folder SegmentationClassAug with the masks of the augmented set"
        if split == "trainaug"
        else ""
    )
    raise UserError(f"{lists} has no list {split}.txt{hint}: choose one of its lists ({known}).")
