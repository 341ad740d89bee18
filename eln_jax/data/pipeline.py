"""The training stream as one grain chain, and plain readers for evaluation and counting."""

import collections
import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grain
import numpy as np

from eln_jax.data.simulated_errors.simulation import Simulation, simulate_errors, thin_out
from eln_jax.data.sources import Source
from eln_jax.data.stream import CHECK_DATA, UNREADABLE, Batch, HostRecords, Stream, Unreadable
from eln_jax.data.transforms import Augmentation, augment
from eln_jax.errors import UnreadableFileError, UserError

# Goes up when the same settings would give other batches, so that no run resumes across it.
_FORMAT = 1

# How many examples are tried in place of one that cannot be read.
_REPLACEMENTS = 10


def train_stream(
    source: Source,
    indices: Sequence[int],
    *,
    batch_size: int,
    crop_size: tuple[int, int],
    augmentation: Augmentation,
    seed: int,
    with_labels: bool,
    num_workers: int = 0,
    num_threads: int = 4,
    shard_index: int = 0,
    shard_count: int = 1,
    max_unreadable: int = 0,
    simulation: Simulation | None = None,
) -> Stream:
    """Builds an endless stream of augmented batches.

    Every pass over the images has an order of its own, and a batch may span two passes. Batch
    number n is a function of the settings in `fingerprint` alone: it does not depend on workers,
    threads or hosts, and the hosts' shares laid one after another are the batch of a single host.
    The state of an iterator is the number of batches it has given, so a run may resume with other
    numbers of workers and hosts.

    Args:
      source: Where images and labels are read.
      indices: Which images of the source to use.
      batch_size: Images a step, over all hosts.
      crop_size: Height and width of a training image in pixels.
      augmentation: What is done to an image on the host.
      seed: Draws order and augmentation.
      with_labels: Whether to read labels. Without, no label is ever opened.
      num_workers: Processes that read and augment; 0 leaves it to threads of this process.
      num_threads: Threads that make batches, in each process; 0 makes each when it is asked for.
      shard_index: Number of this host.
      shard_count: Number of hosts.
      simulation: Errors to make on purpose, if `with_labels`; batches then have `simulated` too:
        the label map at the simulation's stride, with errors. Nothing else in them changes.
      max_unreadable: How many examples may have files that cannot be read; another one, drawn like
        everything else, takes such an example's place. One more ends the stream with its error.

    Returns:
      A dataset whose iterators give `image` uint8 `[batch, height, width, 3]` and either `label`
      uint8 `[batch, height, width]`, or `inside` bool `[batch, height, width]`: True on the image,
      False on padding. `eln_jax.data.stream.StreamIterator` has their methods.

    Raises:
      UserError: There are no images, or the batch cannot be divided among the hosts.
    """
    if not len(indices):
        raise UserError("there are no images to train on: the list of indices is empty.")
    if batch_size < 1 or batch_size % shard_count:
        raise UserError(
            f"the batch size {batch_size} cannot be divided among {shard_count} host(s): give a "
            "positive multiple of their number."
        )
    order_seed, view_seed = (int(word) for word in np.random.SeedSequence(seed).generate_state(2))
    chosen = [int(index) for index in indices]
    load = _LoadView(source, chosen, with_labels, crop_size, augmentation, simulation)
    records = (
        grain.MapDataset.source(chosen)
        .shuffle(seed=order_seed)
        .repeat()
        .random_map(load, seed=view_seed)
    )
    if shard_count > 1:
        records = HostRecords(records, batch_size, shard_index, shard_count)
    batches = records.batch(batch_size // shard_count, drop_remainder=True)
    return Stream(
        batches, num_workers, num_threads, Unreadable(load.read, load.where, max_unreadable)
    )


def fingerprint(
    source: Source,
    indices: Sequence[int],
    *,
    batch_size: int,
    crop_size: tuple[int, int],
    augmentation: Augmentation,
    seed: int,
    with_labels: bool,
    simulation: Simulation | None = None,
) -> dict[str, Any]:
    """Names everything that decides the batches of a stream; to resume, all of it must be equal.

    Args:
      source: As for `train_stream`, like all the others.
      indices: Which images of the source.
      batch_size: Images a step, over all hosts.
      crop_size: Height and width of a training image.
      augmentation: What is done to an image.
      seed: Draws order and augmentation.
      with_labels: Whether labels are read.
      simulation: Which errors are made; what was measured for them is no setting, and left out.

    Returns:
      Plain values that go to JSON and come back equal.
    """
    return {
        "format": _FORMAT,
        **describe_images(source, indices),
        "batch_size": batch_size,
        "crop_size": list(crop_size),
        "geometry": augmentation.geometry,
        "scale_range": list(augmentation.scale_range),
        "flip": augmentation.flip,
        "seed": seed,
        "with_labels": with_labels,
        "simulation": simulation.describe() if simulation else None,
    }


def describe_images(source: Source, indices: Sequence[int]) -> dict[str, Any]:
    """Names what decides which images are read, in which order, and how; not where they lie."""
    names = "\n".join(source.ids[index] for index in indices)
    return {
        "source": source.describe(),
        "images": len(indices),
        "ids_sha256": hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest(),
    }


@dataclasses.dataclass(frozen=True)
class _LoadView:
    """Reads a record and makes its training view."""

    source: Source
    indices: Sequence[int]
    with_labels: bool
    crop_size: tuple[int, int]
    augmentation: Augmentation
    simulation: Simulation | None

    def __call__(self, index: int, rng: np.random.Generator) -> Batch:
        (image, label), unreadable = self._read_or_replace(index, rng)
        view = augment(
            image,
            label,
            rng,
            crop_size=self.crop_size,
            augmentation=self.augmentation,
            ignore_label=self.source.ignore_label,
        )
        example = {"image": view.image, UNREADABLE: np.int32(unreadable)}
        if view.label is None:
            return example | {"inside": view.inside}
        example["label"] = view.label
        if self.simulation is not None:
            example["simulated"] = simulate_errors(
                thin_out(view.label, self.simulation.stride),
                rng,
                self.simulation,
                num_classes=self.source.num_classes,
                ignore_label=self.source.ignore_label,
                donor=self._donor(index, rng, self.simulation.stride),
            )
        return example

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Reads an image and, if the stream has labels, its label."""
        label = self.source.read_label(index) if self.with_labels else None
        return self.source.read_image(index), label

    def where(self, index: int) -> str:
        """Says where an image lies."""
        return self.source.location(index)

    def _donor(
        self, index: int, rng: np.random.Generator, stride: int
    ) -> Callable[[], np.ndarray | None]:
        """Draws another labelled image to lend objects; its label is read when it is asked for.

        Without another image, or where its label cannot be read, None is lent.
        """
        others = len(self.indices) - 1
        chosen = self.indices[int(rng.integers(others))] if others else index
        # All but this one: the last stands in for it.
        donor = self.indices[-1] if chosen == index else chosen

        @functools.cache
        def read() -> np.ndarray | None:
            try:
                return thin_out(self.source.read_label(donor), stride) if others else None
            except UnreadableFileError:  # counted when it comes itself
                return None

        return read

    def _read_or_replace(
        self, index: int, rng: np.random.Generator
    ) -> tuple[tuple[np.ndarray, np.ndarray | None], int]:
        """Returns an example, and the index of the first that could not be read, or -1."""
        try:
            return self.read(index), -1
        except UnreadableFileError:
            pass
        tried = {index}
        for _ in range(_REPLACEMENTS):
            other = self.indices[int(rng.integers(len(self.indices)))]
            tried.add(other)
            try:
                return self.read(other), index
            except UnreadableFileError:
                pass
        try:
            return self.read(index), index
        except UnreadableFileError as error:
            raise UserError(
                f"most training images cannot be read: {len(tried)} of {len(self.indices)} were "
                f"tried and none could, the last because {error} {CHECK_DATA}"
            ) from error


def read_examples(
    source: Source, indices: Sequence[int], num_threads: int = 2
) -> Iterator[dict[str, Any]]:
    """Reads examples one by one at their own size, a few ahead.

    Args:
      source: Where to read.
      indices: Which examples, in this order.
      num_threads: Threads that read ahead, an example each; 0 reads when asked.

    Yields:
      `id`, `image` uint8 `[height, width, 3]` and `label` uint8 `[height, width]`.

    Raises:
      UserError: An example cannot be read or has no label.
    """

    def read(index: int) -> dict[str, Any]:
        return {
            "id": source.ids[index],
            "image": source.read_image(index),
            "label": source.read_label(index),
        }

    if num_threads < 1:
        yield from map(read, indices)
        return
    ahead: collections.deque[Future[dict[str, Any]]] = collections.deque()
    with ThreadPoolExecutor(num_threads, thread_name_prefix="read-examples") as pool:
        try:
            for index in indices:
                ahead.append(pool.submit(read, index))
                if len(ahead) > num_threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def class_frequencies(source: Source, indices: Sequence[int], num_threads: int = 2) -> np.ndarray:
    """Measures which share of the labelled pixels each class has, void excluded.

    Args:
      source: Where to read the labels.
      indices: Which examples.
      num_threads: Threads that read.

    Returns:
      float64 `[num_classes]`, summing to 1; 0 for a class that does not occur. Labels that cannot
      be read are passed over: the stream tells of them, and gives others their place.

    Raises:
      UserError: No label can be read, or every pixel is void.
    """

    def count(index: int) -> np.ndarray | UnreadableFileError:
        try:
            label = source.read_label(index)
        except UnreadableFileError as error:
            return error
        return np.bincount(label.ravel(), minlength=256)[: source.num_classes]

    with ThreadPoolExecutor(max(1, num_threads), thread_name_prefix="class-frequencies") as pool:
        found = list(pool.map(count, indices))
    damaged = [one for one in found if isinstance(one, UnreadableFileError)]
    if damaged and len(damaged) == len(found):
        raise damaged[0]
    counts = np.zeros(source.num_classes, np.float64)
    for one in found:
        counts += one if isinstance(one, np.ndarray) else 0
    if not counts.sum():
        raise UserError(
            "every pixel of the labelled images is void: check the masks, ignore_label and "
            "void_labels."
        )
    return counts / counts.sum()
