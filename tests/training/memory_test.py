"""The memory of this process: its peak, and what compilation leaves behind."""

import subprocess
import sys
from pathlib import Path

import pytest

from eln_jax.training import memory

GROWING = """
import numpy as np
from eln_jax.training.memory import peak_memory_bytes
before = peak_memory_bytes()
ballast = np.ones(200_000_000, np.uint8)
print(peak_memory_bytes() - before)
del ballast
print(peak_memory_bytes() - before)
"""


def test_the_peak_is_that_of_this_process_and_stays():
    program = [sys.executable, "-c", GROWING]  # a young process, whose peak is its present
    run = subprocess.run(program, capture_output=True, text=True, check=True)
    held, later = map(int, run.stdout.split())
    assert 180e6 < held < 300e6
    assert later > 0.99 * held


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
