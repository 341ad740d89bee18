"""Writes a data set as records in the format of TensorFlow Datasets, without TensorFlow.

The result is a folder DATA_DIR/NAME/VERSION that `eln_jax.data.records` and TFDS itself read. The
builders of TFDS start from nothing after an interruption, so only the description of the data set
is left to it. Importing this module needs the extra "tfds".
"""

import contextlib
import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from eln_jax.data.builders.shards import FEATURES, Shard, divide, move, stored_bytes, write_shard
from eln_jax.data.partitions import Partition, shared_images
from eln_jax.data.progress import Progress, size_text
from eln_jax.data.records import FORMAT, INFO, METADATA, VERSION, index_name
from eln_jax.data.sources import FileSource
from eln_jax.errors import StorageError, UserError

# What else lies on the disk beside the images and masks: a few bytes a record.
_SLACK = 1.02
# What a build that is under way is to become: another one does not go on with its shards.
_PLAN = "plan.json"


def build(
    name: str,
    sources: Mapping[str, FileSource],
    data_dir: Path,
    origin: str,
    progress: Progress | None = None,
) -> Path:
    """Writes the records of a data set, in the order of its sources; all of it or nothing.

    Shards lie in a folder beside their place until all of them are complete, then the folder takes
    its place in one move. A build that was interrupted goes on after the last complete shard, if
    the files are still the same.

    Args:
      name: Name of the data set.
      sources: Split -> its examples; all with the same classes, and void as 255.
      data_dir: Where data sets lie, on a local disk.
      origin: Where the files came from, to be told later.
      progress: Shows how far it is.

    Returns:
      The folder of the records.

    Raises:
      UserError: A file cannot be read, a split is empty, nothing has a mask, validation shares an
        image with another split, or another process builds the same; a StorageError if the disk is
        too small or the writer of records fails.
      OSError: The records cannot be written.
    """
    for split, source in sources.items():
        if not len(source):
            raise UserError(f"the split {split!r} of {name} in {origin} has no images: add them.")
    if not any(source.has_label(i) for source in sources.values() for i in range(len(source))):
        raise UserError(f"none of the images of {name} has a mask: add the masks to {origin}.")
    _refuse_leakage(sources)
    folder = data_dir / name
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        shards = [shard for split in sources for shard in divide(name, split, sources[split])]
        parts = _parts_folder(folder, _plan(name, sources, shards))
        missing = [shard for shard in shards if not (parts / shard.file).is_file()]
        _check_space(missing, sources, data_dir)
        for split, source in sources.items():
            _write_split([s for s in shards if s.split == split], source, parts, progress)
        _describe(parts, name, sources, shards, origin)
        parts.rename(folder / VERSION)
        (folder / VERSION / _PLAN).unlink()
    return folder / VERSION


def _refuse_leakage(sources: Mapping[str, FileSource]) -> None:
    if "val" not in sources:
        return
    val = sources["val"]
    for split, source in sources.items():
        everything = Partition(tuple(range(len(source))), (), tuple(range(len(val))))
        if shared := shared_images(source, val, everything):
            raise UserError(
                f"the splits {split!r} and 'val' share {len(shared)} image(s), such as "
                f"{source.location(shared[0])}: take them out of one of the two lists."
            )


def _plan(name: str, sources: Mapping[str, FileSource], shards: Iterable[Shard]) -> str:
    """Names all that decides what the shards hold: files by size and time, and their meaning."""
    examples = hashlib.sha256()
    for source in sources.values():
        for example in source.examples:
            stats = [file.stat() for file in (example.image, example.mask) if file]
            facts = [example.id, *((stat.st_size, stat.st_mtime_ns) for stat in stats)]
            examples.update(json.dumps(facts).encode())
    plan = {
        "format": FORMAT,
        "name": name,
        "splits": {split: source.describe() for split, source in sources.items()},
        "examples_sha256": examples.hexdigest(),
        "shards": [shard.file for shard in shards],
    }
    return json.dumps(plan)


def _parts_folder(folder: Path, plan: str) -> Path:
    """Returns the folder of a build under way; emptied if it was to become something else."""
    parts = folder / f"incomplete.{VERSION}"
    kept = parts / _PLAN
    if not kept.is_file() or kept.read_text() != plan:
        if parts.exists():
            shutil.rmtree(parts)
        parts.mkdir()
        _write(kept, plan)
    return parts


def _check_space(
    missing: Iterable[Shard], sources: Mapping[str, FileSource], data_dir: Path
) -> None:
    needed = _SLACK * sum(stored_bytes(sources[s.split], s.start, s.end) for s in missing)
    free = shutil.disk_usage(data_dir).free
    if needed > free:
        raise StorageError(
            f"the records take {size_text(needed)} and {data_dir} has {size_text(free)} left: "
            "make room there, or name another --data_dir."
        )


def _write_split(
    shards: Iterable[Shard], source: FileSource, parts: Path, progress: Progress | None
) -> None:
    """Writes the shards of a split that are not there yet."""
    missing = [shard for shard in shards if not (parts / shard.file).is_file()]
    if not missing:
        return
    if progress:
        there = len(source) - sum(shard.end - shard.start for shard in missing)
        progress.start(f"Writing {missing[0].split}", len(source), "images", there)
    for shard in missing:
        try:
            write_shard(shard, source, parts / shard.file, progress)
        except RuntimeError as error:
            # What the writer of ArrayRecord raises, such as for a full disk.
            why = str(error).partition(";")[0]
            raise StorageError(
                f"the records cannot be written to {parts} ({why}): put it right and start again "
                "to go on from there."
            ) from error


def _describe(
    parts: Path,
    name: str,
    sources: Mapping[str, FileSource],
    shards: Iterable[Shard],
    origin: str,
) -> None:
    """Writes beside the shards what they hold, for TFDS and for `eln_jax.data.records`."""
    infos = []
    for split, source in sources.items():
        has_label = [source.has_label(index) for index in range(len(source))]
        index = {"ids": list(source.ids), "has_label": has_label}
        _write(parts / index_name(split), json.dumps(index))
        own = [shard for shard in shards if shard.split == split]
        size = sum((parts / shard.file).stat().st_size for shard in own)
        infos.append(tfds.core.SplitInfo(split, [s.end - s.start for s in own], size))
    source = next(iter(sources.values()))
    metadata = {
        "format": FORMAT,
        "dataset": name,
        "class_names": list(source.class_names),
        "ignore_label": source.ignore_label,
        "source": origin,
    }
    tfds.folder_dataset.write_metadata(
        data_dir=parts,
        features=FEATURES,
        split_infos=infos,
        version=VERSION,
        check_data=False,
        description=f"{name} for semantic segmentation, as eln_jax reads it.",
        disable_shuffling=True,
        metadata=tfds.core.MetadataDict(metadata),
    )


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
    if metadata.get("format") != FORMAT or not (folder / INFO).is_file():
        raise UserError(
            f"{folder} is there and is no finished build of this version of eln_jax: remove it, or "
            "name another --data_dir."
        )
    suffix = index_name("")
    splits = sorted(path.name.removesuffix(suffix) for path in folder.glob(f"*{suffix}"))
    return metadata | {"splits": splits}


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.part")
    temporary.write_text(text)
    move(temporary, path)


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
