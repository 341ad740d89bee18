"""Writes a data set as records in the format of TensorFlow Datasets, without TensorFlow.

The result is a folder DATA_DIR/NAME/VERSION that `eln_jax.data.records` reads. Importing this
module needs the extra "tfds".
"""

import contextlib
import fcntl
import functools
import io
import itertools
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from eln_jax.data.builders.progress import Progress, size_text
from eln_jax.data.decoding import image_geometry
from eln_jax.data.records import FORMAT, METADATA, VERSION, index_name
from eln_jax.data.sources import FileSource
from eln_jax.errors import UserError

# A shard is in memory while it is written; a data set of many gigabytes still has few files.
_SHARD_BYTES = 128 << 20
# What else lies on the disk beside the images and masks: a few bytes a record.
_SLACK = 1.02


class _Info(tfds.core.DatasetInfo):
    """What is known of a data set, by this machine."""

    def initialize_from_bucket(self) -> None:
        """Does not ask TFDS's bucket, whose data sets of the same names are others."""


class RecordBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):
    """Builds records from examples that lie in files, for any data set.

    An example is {id, image, label, has_label}: the image file's bytes unchanged; the label as an
    8-bit grey PNG of class ids with void as `ignore_label`, upright, all void where there is none.
    The order is that of the source.

    `tfds.core.GeneratorBasedBuilder` would do for small data sets only: beyond a gigabyte a split
    it sorts through files of TensorFlow.
    """

    VERSION = tfds.core.Version(VERSION)
    # There are no checksums of downloads; to look for them, TFDS 4.9.10 needs a package that it
    # does not install, importlib_resources.
    url_infos = None

    def __init__(
        self,
        name: str,
        sources: Mapping[str, FileSource],
        *,
        data_dir: Path,
        origin: str,
        progress: Progress | None = None,
    ):
        """Writes nothing yet.

        Args:
          name: Name of the data set.
          sources: Split -> its examples; all with the same classes.
          data_dir: Where data sets lie.
          origin: Where the files came from, to be told later.
          progress: Shows how far it is.
        """
        self.name = name  # pyright: ignore[reportAttributeAccessIssue] - as TFDS does itself
        self._sources, self._origin, self._progress = dict(sources), origin, progress
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        source = next(iter(self._sources.values()))
        metadata = {
            "format": FORMAT,
            "dataset": self.name,
            "class_names": list(source.class_names),
            "ignore_label": source.ignore_label,
            "source": self._origin,
        }
        return _Info(
            builder=self,
            description=f"{self.name} for semantic segmentation, as eln_jax reads it.",
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Text(),
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "label": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
                    "has_label": tfds.features.Scalar(dtype=np.bool_),
                }
            ),
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(metadata),
        )

    def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, list[Callable]]:
        del dl_manager  # everything is there already
        shards = {}
        for split, source in self._sources.items():
            index = {
                "ids": list(source.ids),
                "has_label": [source.has_label(i) for i in range(len(source))],
            }
            # At this moment this is the temporary folder.
            (self.data_path / index_name(split)).write_text(json.dumps(index))
            count = min(-(-stored_bytes(source) // _SHARD_BYTES), len(source))
            ends = [round(len(source) * shard / count) for shard in range(count + 1)]
            shards[split] = [
                functools.partial(self._generate_examples, split, start, end)
                for start, end in itertools.pairwise(ends)
            ]
        return shards

    def _generate_examples(
        self, split: str, start: int, end: int
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        source = self._sources[split]
        if start == 0 and self._progress:
            self._progress.start(f"Writing {split}", len(source), "images")
        for index in range(start, end):
            example = source.examples[index]
            yield (
                example.id,
                {
                    "id": example.id,
                    "image": example.image.read_bytes(),
                    "label": _encoded_label(source, index),
                    "has_label": source.has_label(index),
                },
            )
            if self._progress:
                self._progress.advance()

    def _log_download_bytes(self) -> None:
        """Leaves what is said to the door."""

    def _log_download_done(self) -> None:
        """Leaves what is said to the door."""


def _encoded_label(source: FileSource, index: int) -> bytes:
    if source.has_label(index):
        label = Image.fromarray(source.read_label(index))
    else:
        height, width = image_geometry(source.examples[index].image)[0]
        label = Image.new("L", (width, height), source.ignore_label)
    encoded = io.BytesIO()
    label.save(encoded, "PNG", optimize=True)
    return encoded.getvalue()


def stored_bytes(source: FileSource) -> int:
    """Returns the size of a source's files, about what its records take."""
    files = [file for example in source.examples for file in (example.image, example.mask) if file]
    return sum(file.stat().st_size for file in files) or 1


def build(
    name: str,
    sources: Mapping[str, FileSource],
    data_dir: Path,
    origin: str,
    progress: Progress | None = None,
) -> Path:
    """Writes the records of a data set; all of it or nothing.

    They are written to a temporary folder beside their place and moved when they are complete. What
    a killed build left there is removed.

    Args:
      name: Name of the data set.
      sources: Split -> its examples; void must be 255.
      data_dir: Where data sets lie, on a local disk.
      origin: Where the files came from, to be told later.
      progress: Shows how far it is.

    Returns:
      The folder of the records.

    Raises:
      UserError: A file cannot be read, the disk is too small, nothing has a mask, or another
        process builds the same.
      OSError: The records cannot be written.
    """
    if not any(source.has_label(i) for source in sources.values() for i in range(len(source))):
        raise UserError(f"none of the images of {name} has a mask: add the masks to {origin}.")
    folder = data_dir / name
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        for left in folder.glob(f"incomplete.*_{VERSION}"):
            shutil.rmtree(left)
        needed = _SLACK * sum(stored_bytes(source) for source in sources.values())
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise UserError(
                f"the records take {size_text(needed)} and {data_dir} has {size_text(free)} left: "
                "make room there, or name another --data_dir."
            )
        builder = RecordBuilder(name, sources, data_dir=data_dir, origin=origin, progress=progress)
        try:
            # It makes folders for downloads, of which there are none.
            with tempfile.TemporaryDirectory() as unused:
                builder.download_and_prepare(download_dir=unused)
        except RuntimeError as error:
            if type(error) is not RuntimeError:
                raise
            # What the writer of ArrayRecord raises, such as for a full disk.
            why = str(error).partition(";")[0]
            raise UserError(
                f"the records cannot be written to {folder} ({why}): nothing was kept; put it "
                "right and start again."
            ) from error
    return folder / VERSION


def find_build(name: str, data_dir: Path) -> dict[str, Any] | None:
    """Returns the metadata of a finished build, with its "splits"; None if its place is free.

    Raises:
      UserError: Something else is there, such as a copy that was interrupted.
    """
    folder = data_dir / name / VERSION
    if not folder.exists():
        return None
    try:
        metadata = json.loads((folder / METADATA).read_text())
    except (OSError, ValueError):
        metadata = {}
    if metadata.get("format") != FORMAT or not (folder / "dataset_info.json").is_file():
        raise UserError(
            f"{folder} is there and is no finished build of this version of eln_jax: remove it, or "
            "name another --data_dir."
        )
    suffix = index_name("")
    splits = sorted(path.name.removesuffix(suffix) for path in folder.glob(f"*{suffix}"))
    return metadata | {"splits": splits}


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps a second build of the same away; the system lets go of the lock of a killed one."""
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"another process is building {folder}: wait for it, or stop it."
            ) from error
        yield
