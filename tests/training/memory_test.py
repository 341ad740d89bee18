"""The memory of this process: its peak, and what compilation leaves behind."""

import sys
from pathlib import Path

import numpy as np
import pytest

from eln_jax.training import memory


def test_the_peak_is_that_of_this_process():
    before = memory.peak_memory_bytes()
    ballast = np.ones(32 * 2**20, np.uint8)
    assert ballast.sum() == 32 * 2**20
    assert before > 2**20
    assert memory.peak_memory_bytes() >= before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_what_was_freed_goes_back_to_the_system():
    def held():
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * 4096

    # Small pieces, which the C library keeps for itself; the last ones hold the heap's end.
    pieces = [bytes(100_000) for _ in range(4000)]
    last = bytes(100_000)
    del pieces
    before = held()
    memory.give_back()
    assert len(last) == 100_000
    assert before - held() > 200e6
