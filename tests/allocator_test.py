import ctypes
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from eln_jax.allocator import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(20):
    b"x" * 2**25  # 32 MiB: 8192 pages
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


def page_faults(how):
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True
    )
    return int(result.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="no glibc")
def test_freed_arrays_are_used_again_instead_of_new_pages():
    assert page_faults("default") - page_faults("keep") > 10 * 8192
