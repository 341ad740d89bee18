"""A data set as records in the format of TensorFlow Datasets: few large files instead of many.

`python -m eln_jax.data.prepare` writes them. TensorFlow is not needed: they are read by random
access and decoded by Pillow, so that arrays are those of the files. The library is imported only
when a record is read.
"""

import importlib.util
import io
import json
import os
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from eln_jax.data.decoding import decode_image, decode_mask
from eln_jax.data.labels import LabelCode, make_code
from eln_jax.errors import UnreadableFileError, UserError, did_you_mean

# Goes up when records are written that the code before could not read.
FORMAT = 1
# Of the data sets that are written, as TFDS counts.
VERSION = "1.0.0"
# As TFDS calls the files that describe a data set.
METADATA, INFO = "metadata.json", "dataset_info.json"


def index_name(split: str) -> str:
    """Returns the name of the file that lists a split's ids and which of them have a label."""
    return f"{split}.index.json"


def shard_name(dataset: str, split: str, number: int, count: int) -> str:
    """Returns the name that TFDS gives to one of the files of a split's records."""
    return f"{dataset}-{split}.array_record-{number:05}-of-{count:05}"


def require_tfds() -> None:
    """Checks that the library for records is installed, without importing it.

    Raises:
      UserError: It is not.
    """
    if importlib.util.find_spec("tensorflow_datasets") is None:
        raise UserError(
            "records need the package tensorflow-datasets (not TensorFlow itself): pip install "
            "tensorflow-datasets."
        )


def open_records(
    directory: str | os.PathLike[str], split: str, ignore_label: int = 255
) -> "RecordSource":
    """Opens a split of a data set of records; reads the list of its ids, and no record.

    Args:
      directory: DATA_DIR/NAME/VERSION, on a disk or in a bucket (gs://...).
      split: As it was built.
      ignore_label: Label of void.

    Raises:
      UserError: It is no such data set, has no such split, or tensorflow-datasets is missing.
    """
    require_tfds()
    from etils import epath  # comes with TFDS

    # ArrayRecord's own reader knows no other buckets.
    if "://" in os.fspath(directory) and not os.fspath(directory).startswith("gs://"):
        raise UserError(
            f"records cannot be read from {directory}: of buckets only those of Google Cloud "
            "(gs://) are; mount this one, or copy the data set to a disk."
        )
    folder = epath.Path(directory)
    metadata = _read_json(folder / METADATA, folder)
    if metadata.get("format") != FORMAT:
        raise UserError(
            f"{folder} holds records of format {metadata.get('format')}, and this version of "
            f"eln_jax reads format {FORMAT}: build them again with python -m eln_jax.data.prepare."
        )
    names = {path.name for path in folder.iterdir()}
    if index_name(split) not in names:
        suffix = index_name("")
        known = sorted(name.removesuffix(suffix) for name in names if name.endswith(suffix))
        raise UserError(
            f"{folder} has no split {split!r} (it has {', '.join(known) or 'none'})."
            + did_you_mean(split, known)
        )
    splits = {found["name"]: found for found in _read_json(folder / INFO, folder)["splits"]}
    count = len(splits[split]["shardLengths"])
    shards = [shard_name(metadata["dataset"], split, number, count) for number in range(count)]
    if missing := [shard for shard in shards if shard not in names]:
        raise UserError(
            f"{folder} lacks {len(missing)} of the {count} files of the split {split!r}, such as "
            f"{missing[0]}: copy or build the data set again."
        )
    index = _read_json(folder / index_name(split), folder)
    return RecordSource(os.fspath(folder), split, metadata, index, ignore_label)


def _read_json(path: Any, folder: Any) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except ImportError as error:
        raise UserError(f"{folder} cannot be reached ({error}): pip install gcsfs.") from error
    except Exception as error:  # a bucket's library has errors of its own, for rights and networks
        raise UserError(
            f"{folder} is no data set of records ({path.name} cannot be read: {error}): build one "
            "with python -m eln_jax.data.prepare, and give its DATA_DIR/NAME/VERSION as data.root."
        ) from error


class RecordSource:
    """Examples that lie in records.

    A record has image and label in one piece, so the label of an unlabelled image travels with it;
    it is decoded only when it is asked for.
    """

    def __init__(
        self,
        directory: str,
        split: str,
        metadata: dict[str, Any],
        index: dict[str, Any],
        ignore_label: int,
    ):
        """Opens no record.

        Args:
          directory: Folder of the data set.
          split: Name of the split.
          metadata: `dataset`, `class_names` and `ignore_label`, the label of void in the records.
          index: `ids`, sorted as the records are, and for each of them `has_label`.
          ignore_label: Label of void in what is read.

        Raises:
          UserError: `ignore_label` is that of a class.
        """
        self.ids: Sequence[str] = index["ids"]
        self.class_names: tuple[str, ...] = tuple(metadata["class_names"])
        self.num_classes, self.ignore_label = len(self.class_names), ignore_label
        self._has_label: list[bool] = index["has_label"]
        self._code: LabelCode = make_code(
            self.num_classes, ignore_label, tuple({metadata["ignore_label"]} - {ignore_label})
        )
        self._directory, self._split, self._dataset = directory, split, metadata["dataset"]
        self._open()

    def _open(self) -> None:
        self._records: Any = None
        # Of each thread, the record read last: label and image of one are asked for in turn.
        self._last = threading.local()
        self._opening = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Leaves open files behind: a worker opens its own."""
        left = ("_records", "_last", "_opening")
        return {name: value for name, value in self.__dict__.items() if name not in left}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Opens the files when they are needed."""
        self.__dict__.update(state)
        self._open()

    def __len__(self) -> int:
        """Returns the number of records."""
        return len(self.ids)

    def has_label(self, index: int) -> bool:
        """Tells whether the image has a label, without reading the record."""
        return self._has_label[index]

    def location(self, index: int) -> str:
        """Returns the data set's folder and the image's id, which is one over all splits."""
        return f"{self._directory}/{self.ids[index]}"

    def describe(self) -> dict[str, Any]:
        """Returns plain values, without the place: a data set may move."""
        description = {"kind": "records", "dataset": self._dataset, "split": self._split}
        return description | {"format": FORMAT} | self._code.describe()

    def read_image(self, index: int) -> np.ndarray:
        """Reads an image.

        Returns:
          uint8 RGB `[height, width, 3]`, upright.

        Raises:
          UserError: The record cannot be read.
        """
        return decode_image(io.BytesIO(self.stored_image(index)), self._name(index))

    def stored_image(self, index: int) -> bytes:
        """Reads the file of an image, as it was when the records were made.

        Raises:
          UserError: The record cannot be read.
        """
        return self._read(index)["image"]

    def read_label(self, index: int) -> np.ndarray:
        """Reads the label of an image.

        Returns:
          uint8 `[height, width]`: class ids below `num_classes`, or `ignore_label`.

        Raises:
          UserError: There is none, or the record cannot be read.
        """
        name = self._name(index)
        if not self.has_label(index):
            raise UserError(
                f"{name} has no label: build the records again with its mask, or leave the image "
                "out of the labelled and validation images."
            )
        stored = decode_mask(io.BytesIO(self._read(index)["label"]), name)
        return self._code.decode(stored.pixels, name)

    def _name(self, index: int) -> str:
        return f"{self.ids[index]!r} of {self._directory} ({self._split})"

    def _read(self, index: int) -> dict[str, Any]:
        last_index, record = getattr(self._last, "record", (None, {}))
        if last_index == index:
            return record
        try:
            record = self._opened()[index]
            if record["id"].decode() != self.ids[index]:
                raise ValueError(f"it is {record['id'].decode()!r}")
        except (RuntimeError, OSError, ValueError, IndexError) as error:
            raise UnreadableFileError(
                f"the record {self._name(index)} cannot be read ({error}): copy or build the data "
                "set again."
            ) from error
        self._last.record = (index, record)
        return record

    def _opened(self) -> Any:
        with self._opening:
            if self._records is None:
                import tensorflow_datasets as tfds  # slow, and a worker process needs its own

                # TFDS would decode with OpenCV where it is installed, which changes masks.
                raw = {name: tfds.decode.SkipDecoding() for name in ("image", "label")}
                builder: Any = tfds.builder_from_directory(self._directory)
                self._records = builder.as_data_source(self._split, decoders=raw)
            return self._records
