import ctypes
import subprocess
import sys

import pytest

ONE_PROGRAM = """
import resource, sys
from eln_jax.allocator import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(20):
    b"x" * 2**25  # 32 MiB: 8192 pages
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


TWO_PROGRAMS = """
import sys
from eln_jax.allocator import give_back_freed_memory, keep_freed_memory

keep_freed_memory()
large = b"x" * 2**28
stays = b"x" * 2**20  # behind it, so that the heap cannot shrink
del large
if sys.argv[1] == "give_back":
    give_back_freed_memory()
with open("/proc/self/statm") as file:
    print(int(file.read().split()[1]))
"""
only_glibc = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="no glibc"
)


def figure(program, how):
    result = subprocess.run(
        [sys.executable, "-c", program, how], capture_output=True, text=True, check=True
    )
    return int(result.stdout)


@only_glibc
def test_freed_arrays_are_used_again_instead_of_new_pages():
    assert figure(ONE_PROGRAM, "default") - figure(ONE_PROGRAM, "keep") > 10 * 8192


@only_glibc
def test_what_was_kept_can_be_given_back():
    kept, given_back = (figure(TWO_PROGRAMS, how) for how in ("keep", "give_back"))
    assert kept - given_back > 0.9 * 2**28 / 4096
