"""Memory that is freed and wanted again: without a page fault, where the C library can be told so."""

import platform
import subprocess
import sys

_FAULTS = """
import platform, resource, sys
from thaw.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")
def use():
    return bytearray(80 * 2**20)
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> int:
    done = subprocess.run([sys.executable, "-c", _FAULTS, mode], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_memory_that_is_kept_is_not_faulted_in_again() -> None:
    usual, kept = faults("usual"), faults("keep")
    assert usual > 5 * 80 * 2**20 / 2**21 * 0.9  # a fault for each page, or for each huge page
    assert kept < usual / 10 or platform.libc_ver()[0] != "glibc"
