"""Keep the memory that a training step frees for the next step, instead of giving it back to the system.

A large tensor has pages of its own by default: each pass faults them in anew and gives them back, which takes half the
time of a forward pass over activations of 56 x 56. mallopt(3) is how the C library is told that freed memory will be
wanted again. It takes no threshold above 32 MiB, so the separate mapping of large blocks is switched off altogether.
"""

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h
_NEVER = 2**31 - 1
_GROW_BYTES = 2**26


def keep_freed_memory() -> bool:
    """Give back what is free now, and keep what is freed from here on; return whether this C library can (glibc)."""
    if not give_back():
        return False
    libc = ctypes.CDLL(None)
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _NEVER), (_M_TOP_PAD, _GROW_BYTES))
    accepted = [libc.mallopt(name, value) for name, value in settings]
    return all(accepted)


def give_back() -> bool:
    """Give back what is free now; return whether this C library can (glibc).

    Between training and evaluation, whose tensors are of other sizes: what the one left behind would stay beside what
    the other takes.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    ctypes.CDLL(None).malloc_trim(0)
    return True
