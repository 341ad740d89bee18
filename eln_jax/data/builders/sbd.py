"""The masks of SBD as they are published, in .mat files, as the augmented training set of VOC.

Hariharan et al., "Semantic contours from inverse detectors", ICCV 2011;
http://home.bharathh.info/pubs/codes/SBD/download.html
"""

import io
import shutil
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from eln_jax.data.builders import voc
from eln_jax.data.progress import Progress
from eln_jax.errors import UserError
from eln_jax.output import write_whole

# Where the folder with cls, img, train.txt and val.txt may lie.
PLACES = ("sbd", "benchmark_RELEASE/dataset", "dataset", ".")
AUGMENTED = "SegmentationClassAug"


def find_sbd(root: Path) -> Path | None:
    """Returns the folder that holds SBD's `cls/*.mat` at or below `root`, if there is one."""
    for place in PLACES:
        if next((root / place / "cls").glob("*.mat"), None):
            return root / place
    return None


def add_augmented_set(sbd: Path, devkit: Path, progress: Progress | None = None) -> None:
    """Adds to a devkit the split "trainaug": SBD and VOC's training set, less VOC's validation set.

    Writes SegmentationClassAug/*.png, for the images of which VOC has no mask, missing images, and
    last ImageSets/Segmentation/trainaug.txt. Started again it goes on where it stopped.

    Args:
      sbd: Folder with `cls/*.mat`, and `img/*.jpg` for images that the devkit lacks.
      devkit: The folder VOC2012, which is written to.
      progress: Shows how far it is.

    Raises:
      UserError: A mask is missing or is none.
    """
    listed = devkit / "ImageSets" / "Segmentation" / "trainaug.txt"
    if listed.is_file():
        return
    wanted = _ids(sbd) | set(voc.split_ids(devkit, "train"))
    wanted -= set(voc.split_ids(devkit, "val"))
    folder = devkit / AUGMENTED
    if not folder.is_dir():
        masks = [
            key
            for key in sorted(wanted)
            if not (devkit / "SegmentationClass" / f"{key}.png").is_file()
        ]
        _convert(sbd, masks, folder.with_name(f"{AUGMENTED}.part"), progress)
        folder.with_name(f"{AUGMENTED}.part").rename(folder)
    for key in wanted:
        image = devkit / "JPEGImages" / f"{key}.jpg"
        if not image.is_file() and (sbd / "img" / image.name).is_file():
            write_whole(image, (sbd / "img" / image.name).read_bytes())
    write_whole(listed, "".join(f"{key}\n" for key in sorted(wanted)).encode())


def link_devkit(given: Path, devkit: Path) -> None:
    """Makes a devkit of links to the files of another one, which is not to be written to."""
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (devkit / name).mkdir(parents=True, exist_ok=True)
        for file in (given / name).glob("*.*"):
            link = devkit / name / file.name
            if link.is_symlink() or not link.exists():
                link.unlink(missing_ok=True)
                try:
                    link.symlink_to(file.resolve())
                except OSError:  # a file system or a user without links
                    shutil.copyfile(file, link)


def _ids(sbd: Path) -> set[str]:
    """Returns the images of SBD: those of its two lists or, without them, those with a mask."""
    lists = [sbd / f"{name}.txt" for name in ("train", "val")]
    if all(path.is_file() for path in lists):
        return {key for path in lists for key in path.read_text().split()}
    return {path.stem for path in (sbd / "cls").glob("*.mat")}


def _convert(sbd: Path, keys: list[str], folder: Path, progress: Progress | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if progress and keys:
        progress.start("Converting the masks of SBD", len(keys), "masks")
    for key in keys:
        target = folder / f"{key}.png"
        if not target.is_file():
            encoded = io.BytesIO()
            mask = read_mask(sbd / "cls" / f"{key}.mat")
            Image.fromarray(mask).save(encoded, "PNG", optimize=True)
            write_whole(target, encoded.getvalue())
        if progress:
            progress.advance()


def read_mask(path: Path) -> np.ndarray:
    """Reads GTcls.Segmentation from a .mat file of SBD.

    Returns:
      uint8 `[height, width]`: class ids of VOC, 0 to 20; SBD has no void.

    Raises:
      UserError: The file is missing or holds something else.
    """
    import scipy.io  # takes a while, and only SBD needs it

    try:
        struct = scipy.io.loadmat(path, variable_names=["GTcls"])["GTcls"]
        mask = np.asarray(struct["Segmentation"][0, 0])
        if mask.ndim != 2 or mask.dtype.kind not in "ui" or mask.max() >= len(voc.CLASS_NAMES):
            raise ValueError(f"its segmentation is {mask.dtype} {mask.shape}, up to {mask.max()}")
    except (
        OSError, ValueError, TypeError, LookupError, NotImplementedError, zlib.error,
        scipy.io.matlab.MatReadError,
    ) as error:  # fmt: skip
        raise UserError(
            f"{path} is no mask of SBD ({error}): fetch benchmark.tgz again."
        ) from error
    return mask.astype(np.uint8)
