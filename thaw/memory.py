"""Arrays on disk that memory has no room for: written piece by piece, and read through a map that is let go again."""

import ctypes
import mmap
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray


def new_array(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> BinaryIO:
    """Return a new .npy file whose header is written and whose numbers are to follow, row by row.

    A file that is mapped while it is written would count as the memory of its writer.
    """
    file = path.open("wb")
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file


def open_array(path: Path) -> NDArray[Any]:
    """Return the array in a .npy file, to be read where it is asked for."""
    array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def drop_pages(arrays: Iterable[NDArray[Any]]) -> None:
    """Unmap what was read: it stays in the system's cache, but a file of a gibibyte no longer counts as ours.

    Arrays that are not mapped are left alone; so are all where the system takes no such advice.
    """
    for array in arrays:
        mapping: object = array
        while isinstance(mapping, np.ndarray):  # views of a view
            mapping = mapping.base
        if isinstance(mapping, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            mapping.madvise(mmap.MADV_DONTNEED)


_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h
_NEVER = 2**31 - 1
_GROW_BYTES = 2**26


def keep_freed_memory() -> bool:
    """Give back what is free now, and keep what is freed from here on; return whether this C library can (glibc)."""
    if not trim_heap():
        return False
    libc = ctypes.CDLL(None)
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _NEVER), (_M_TOP_PAD, _GROW_BYTES))
    accepted = [libc.mallopt(name, value) for name, value in settings]
    return all(accepted)


def trim_heap() -> bool:
    """Give back what is free now; return whether this C library can (glibc).

    Between training and evaluation, whose tensors are of other sizes: what the one left behind would stay beside what
    the other takes.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    ctypes.CDLL(None).malloc_trim(0)
    return True
