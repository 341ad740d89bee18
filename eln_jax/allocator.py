"""How this process handles freed memory."""

import ctypes

# Parameters of glibc's mallopt, from its malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> None:
    """Lets the C library keep what is freed for the next array; no effect outside Linux's glibc.

    By default every array of 128 KiB or more is new memory from the kernel, which clears each of
    its pages on first touch, and goes back when freed: on a CPU a training step makes and frees
    gigabytes. To be called before threads start.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(_MMAP_MAX, 0)  # large arrays come from the heap
    mallopt(_TRIM_THRESHOLD, -1)  # whose end is never given back
    mallopt(_TOP_PAD, 64 * 2**20)  # and which grows in large pieces
    mallopt(_ARENA_MAX, 1)  # one heap for all threads: others are too small for large arrays


def give_back_freed_memory() -> None:
    """Gives back to the kernel what `keep_freed_memory` has kept.

    For when the next arrays are of other sizes, because another program is to run: what was kept
    would not fit them, and the process would hold both.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
