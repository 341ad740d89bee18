"""Files of records, each a part of a split: which example goes where, and how it is written.

Importing this module needs the extra "tfds".
"""

import io
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from eln_jax.data.decoding import image_geometry
from eln_jax.data.progress import Progress
from eln_jax.data.records import shard_name
from eln_jax.data.sources import FileSource
from eln_jax.data.threads import thread_pool

# A shard is in memory while it is written, and is what an interruption costs; a data set of many
# gigabytes still has few files.
_SHARD_BYTES = 64 << 20

# An example: the image file's bytes unchanged; the label as an 8-bit grey PNG of class ids with
# void as the metadata's ignore_label, upright, all void where there is none.
FEATURES = tfds.features.FeaturesDict(
    {
        "id": tfds.features.Text(),
        "image": tfds.features.Image(shape=(None, None, 3)),
        "label": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
        "has_label": tfds.features.Scalar(dtype=np.bool_),
    }
)


class Shard(NamedTuple):
    """A file of records: the examples of a split from `start` to before `end`."""

    file: str
    split: str
    start: int
    end: int


def divide(name: str, split: str, source: FileSource) -> Iterator[Shard]:
    """Divides a split into files of about the same number of images."""
    count = min(-(-stored_bytes(source) // _SHARD_BYTES), len(source))
    ends = [round(len(source) * number / count) for number in range(count + 1)]
    for number, (start, end) in enumerate(itertools.pairwise(ends)):
        yield Shard(shard_name(name, split, number, count), split, start, end)


def write_shard(shard: Shard, source: FileSource, path: Path, progress: Progress | None) -> None:
    """Writes a shard in one move.

    Raises:
      UserError: An example cannot be read.
      RuntimeError: The file cannot be written, as ArrayRecord's writer has it.
    """
    temporary = path.with_name(f"{path.name}.part")
    # A group a record: each can be read by itself.
    writer = ArrayRecordWriter(str(temporary), "group_size:1")
    try:
        with thread_pool() as pool:
            indices = range(shard.start, shard.end)
            for example in pool.map(lambda index: _example(source, index), indices):
                writer.write(FEATURES.serialize_example(example))
                if progress:
                    progress.advance()
        writer.close()
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    move(temporary, path)


def _example(source: FileSource, index: int) -> dict[str, Any]:
    example = source.examples[index]
    return {
        "id": example.id,
        "image": example.image.read_bytes(),
        "label": _encoded_label(source, index),
        "has_label": source.has_label(index),
    }


def _encoded_label(source: FileSource, index: int) -> bytes:
    if source.has_label(index):
        label = Image.fromarray(source.read_label(index))
    else:
        height, width = image_geometry(source.examples[index].image)[0]
        label = Image.new("L", (width, height), source.ignore_label)
    encoded = io.BytesIO()
    label.save(encoded, "PNG")
    return encoded.getvalue()


def stored_bytes(source: FileSource, start: int = 0, end: int | None = None) -> int:
    """Returns the size of the files of some examples, about what their records take."""
    examples = source.examples[start:end]
    files = [file for example in examples for file in (example.image, example.mask) if file]
    return sum(file.stat().st_size for file in files) or 1


def move(temporary: Path, path: Path) -> None:
    """Gives a file its name once its content is on the disk."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
