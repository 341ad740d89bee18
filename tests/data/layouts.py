"""Tiny data sets in the layouts in which the real ones are published."""

import numpy as np
from PIL import Image

VOC_IDS = {"train": ("2007_000032", "2007_000039"), "val": ("2007_000033",)}
SBD_ONLY = ("2008_000002", "2008_000003")


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, np.uint8)).save(path, **options)


def picture(seed, size=(30, 40)):
    # Smooth, so that it survives JPEG with its colours apart.
    small = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize(size[::-1]))


def ids(seed, values, size=(30, 40)):
    return np.random.default_rng(seed).choice(np.array(values, np.uint8), size)


def voc_mask(seed):
    return ids(seed, [0, 1, 15, 20, 255])


def make_voc(root, *, augmented):
    """The devkit: palette masks with 255 borders; `augmented` adds SegmentationClassAug."""
    devkit = root / "VOCdevkit" / "VOC2012"
    lists = devkit / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split, keys in VOC_IDS.items():
        (lists / f"{split}.txt").write_text("".join(f"{key}\n" for key in keys))
        for key in keys:
            seed = int(key[-3:])
            save(devkit / "JPEGImages" / f"{key}.jpg", picture(seed))
            mask = Image.fromarray(voc_mask(seed))
            mask.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
            (devkit / "SegmentationClass").mkdir(exist_ok=True)
            mask.save(devkit / "SegmentationClass" / f"{key}.png")
    for key in SBD_ONLY:
        save(devkit / "JPEGImages" / f"{key}.jpg", picture(int(key[-3:])))
    if augmented:
        for key in (*SBD_ONLY, *VOC_IDS["train"], *VOC_IDS["val"]):
            mask = ids(int(key[-3:]), [0, 3, 20])
            save(devkit / "SegmentationClassAug" / f"{key}.png", mask)
    return devkit


def make_cityscapes(root):
    """Two cities; an image of the real size."""
    places = {"train": (("aachen", 0), ("aachen", 1), ("ulm", 0)), "val": (("lindau", 0),)}
    for split, images in places.items():
        for city, number in images:
            size = (1024, 2048) if (city, number) == ("aachen", 1) else (32, 64)
            stem = f"{split}/{city}/{city}_{number:06}_000019"
            image = picture(number, (32, 64)).repeat(size[0] // 32, 0).repeat(size[0] // 32, 1)
            mask = ids(number, range(34), (32, 64)).repeat(size[0] // 32, 0)
            save(root / "leftImg8bit" / f"{stem}_leftImg8bit.png", image)
            labels = root / "gtFine" / f"{stem}_gtFine_labelIds.png"
            save(labels, mask.repeat(size[0] // 32, 1))
            save(labels.with_name(f"{city}_{number:06}_000019_gtFine_color.png"), image)
    return root


def make_camvid(root):
    """SegNet's layout."""
    for split, count in {"train": 4, "val": 2, "test": 1}.items():
        for number in range(count):
            name = f"0001TP_{number:06}.png"
            save(root / "CamVid" / split / name, picture(number))
            save(root / "CamVid" / f"{split}annot" / name, ids(number, range(12)))
    return root


def make_sbd(folder):
    """SBD's `dataset`: masks of VOC's images and of its own in .mat files, a list of each half."""
    import scipy.io

    keys = (*VOC_IDS["train"][:1], *VOC_IDS["val"], *SBD_ONLY)
    for key in keys:
        struct = {"Boundaries": np.zeros((20, 1)), "Segmentation": sbd_mask(key)}
        (folder / "cls").mkdir(parents=True, exist_ok=True)
        scipy.io.savemat(folder / "cls" / f"{key}.mat", {"GTcls": struct}, do_compression=True)
        save(folder / "img" / f"{key}.jpg", picture(int(key[-3:])))
    (folder / "train.txt").write_text("".join(f"{key}\n" for key in keys[:2]))
    (folder / "val.txt").write_text("".join(f"{key}\n" for key in keys[2:]))
    return folder


def sbd_mask(key):
    return ids(int(key[-3:]), [0, 4, 20])
