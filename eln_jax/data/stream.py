"""Batches by index as an endless stream that can be resumed: what grain leaves to its users."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping
from typing import Any

import grain
import numpy as np
from absl import flags

from eln_jax.errors import UnreadableFileError, UserError

Batch = dict[str, np.ndarray]


# What a batch holds beside the arrays: for each example, the index of the one whose files could not
# be read and whose place it takes, or -1.
UNREADABLE = "unreadable"

CHECK_DATA = "python -m eln_jax.check_data tells all that is wrong."


class Unreadable:
    """The examples that could not be read so far."""

    def __init__(self, read: Callable[[int], Any], where: Callable[[int], str], limit: int):
        """Starts with none.

        Args:
          read: Reads an example by its index, or raises the error that names its file.
          where: Says where an example lies.
          limit: How many there may be.
        """
        self._read = read
        self._where = where
        self._limit = limit
        self._errors: dict[int, str] = {}
        self._untold: list[str] = []

    def note(self, indices: np.ndarray) -> None:
        """Counts a batch's unreadable examples.

        Raises:
          UserError: There are more than the limit.
        """
        for index in dict.fromkeys(indices[indices >= 0].tolist()):
            if index in self._errors:
                continue
            try:
                self._read(index)  # the error stayed with the worker
            except UnreadableFileError as error:
                self._errors[index] = str(error)
            else:
                self._errors[index] = (
                    f"{self._where(index)} could not be read for a while: look after the disk, and "
                    "start the same command again."
                )
            if len(self._errors) > self._limit:
                raise UserError(
                    f"{len(self._errors)} training image(s) could not be read, more than "
                    f"data.max_unreadable={self._limit} allows, the last because "
                    f"{self._errors[index]} {CHECK_DATA}"
                )
            self._untold.append(self._errors[index])

    def complaints(self) -> list[str]:
        """Returns what is wrong with those met since the last call, a sentence an example."""
        told, self._untold = self._untold, []
        return told


class HostRecords(grain.MapDataset):
    """Keeps one host's consecutive share of every global batch."""

    def __init__(
        self, parent: grain.MapDataset, batch_size: int, shard_index: int, shard_count: int
    ):
        super().__init__(parent)
        self._batch_size = batch_size
        self._share = batch_size // shard_count
        self._start = shard_index * self._share

    def __len__(self) -> int:
        """Returns the number of records of this host in all passes."""
        return len(self._parent) // self._batch_size * self._share

    def __getitem__(self, index: int | slice) -> Any:
        """Returns a record by its number on this host."""
        if isinstance(index, slice):
            return self.slice(index)
        batch, place = divmod(index, self._share)
        return self._parent[batch * self._batch_size + self._start + place]


class Stream(grain.IterDataset):
    """Batches by index as a stream, made ahead by threads or by worker processes."""

    def __init__(
        self,
        batches: grain.MapDataset,
        num_workers: int,
        num_threads: int,
        unreadable: Unreadable,
    ):
        super().__init__()
        self._batches = batches
        self.unreadable = unreadable
        self._num_workers = num_workers
        self._num_threads = num_threads

    def __iter__(self) -> "StreamIterator":
        """Returns an iterator at the first batch; it starts to work when it is first used."""
        return StreamIterator(self)

    def starting_at(self, batch: int) -> grain.DatasetIterator:
        """Starts to make batches from a given one on."""
        if self._num_workers and not flags.FLAGS.is_parsed():
            # grain reads absl flags when it starts a worker, whether or not there is a command
            # line to parse.
            flags.FLAGS.mark_as_parsed()
        # The buffers count batches, so they bound the memory: a batch a thread, and two a worker.
        options = grain.ReadOptions(
            num_threads=self._num_threads, prefetch_buffer_size=self._num_threads
        )
        stream = self._batches.slice(slice(batch, None)).to_iter_dataset(options)
        workers = grain.MultiprocessingOptions(
            num_workers=self._num_workers, per_worker_buffer_size=2
        )
        return iter(stream.mp_prefetch(workers, worker_init_fn=_live_with_parent))


class StreamIterator(grain.DatasetIterator):
    """Iterates over a stream; its state is the number of batches given.

    Grain's own state of several workers fits only as many workers again, and is taken silently in
    the wrong order where it does not fit.
    """

    def __init__(self, stream: Stream):
        super().__init__()
        self._stream = stream
        self._next_batch = 0
        self._running: grain.DatasetIterator | None = None

    def __next__(self) -> Batch:
        """Returns the next batch, plain arrays by name."""
        self._assert_not_closed()
        self.start_prefetch()
        assert self._running is not None
        batch = {name: _plain(value) for name, value in next(self._running).items()}
        self._stream.unreadable.note(batch.pop(UNREADABLE))
        self._next_batch += 1
        return batch

    def complaints(self) -> list[str]:
        """As `Unreadable.complaints`, also of what other iterators of the stream have met."""
        return self._stream.unreadable.complaints()

    def get_state(self) -> dict[str, int]:
        """Returns the number of batches given, for JSON."""
        return {"next_batch": self._next_batch}

    def set_state(self, state: Mapping[str, int]) -> None:
        """Goes on as if so many batches had been given."""
        self._stop()
        self._next_batch = int(state["next_batch"])

    def start_prefetch(self) -> None:
        """Starts to make batches ahead, before the first is asked for."""
        if self._running is None:
            self._running = self._stream.starting_at(self._next_batch)
            self._running.start_prefetch()

    def close(self) -> None:
        """Ends threads and workers; no batch can be asked for afterwards."""
        if not self._closed:
            self._closed = True
            self._stop()

    def _stop(self) -> None:
        if self._running is not None:
            self._running.close()
            self._running = None


def _plain(array: np.ndarray) -> np.ndarray:
    """Copies what workers hand over out of the shared memory that grain owns.

    Such an array complains loudly at the end of the program if it outlives the iterator.
    """
    return array if type(array) is np.ndarray else np.array(array)


def _live_with_parent(worker_index: int, worker_count: int) -> None:
    """Prepares a worker: ends with its parent however that ends, and leaves signals to it."""
    del worker_index, worker_count
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end() -> None:
        # Waits on a pipe that the system closes when the parent dies, even by kill -9.
        parent.join()
        os._exit(1)

    threading.Thread(target=end, daemon=True, name="live-with-parent").start()
