"""Threads that read files: decoders let go of the interpreter, so threads are all it takes."""

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor


@contextlib.contextmanager
def thread_pool() -> Iterator[ThreadPoolExecutor]:
    """Opens a pool of a thread a core.

    At Ctrl-C it ends after the files in hand, and not after all that are queued.
    """
    pool = ThreadPoolExecutor(os.cpu_count() or 1)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
