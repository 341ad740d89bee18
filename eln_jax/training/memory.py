"""The memory of this process."""

import ctypes
import resource
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")


def peak_memory_bytes() -> int:
    """The most memory that this process has held so far."""
    # Linux hands ru_maxrss on to what a large process starts; this is of the program alone.
    for line in STATUS.read_text().splitlines() if STATUS.exists() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
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
