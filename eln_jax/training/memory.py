"""The memory of this process."""

import ctypes
import resource
import sys


def peak_memory_bytes() -> int:
    """The most memory that this process has held so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def give_back() -> None:
    """Returns to the system what is free but kept by the C library.

    Compilation leaves a gigabyte of it, which a step's arrays do not fit into. Only glibc has a
    call for this.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
