"""Arrays on disk that memory has no room for: written piece by piece, and read through a map that is let go again."""

import mmap
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray


def new_array(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> BinaryIO:
    """Return a new .npy file whose header is written and whose numbers are to follow, row by row.

    A file that is mapped while it is written would count as the memory of whoever writes it.
    """
    file = path.open("wb")
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file


def open_array(path: Path) -> NDArray[Any]:
    """Return the array in a .npy file, to be read where it is asked for."""
    array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def let_go(arrays: Iterable[NDArray[Any]]) -> None:
    """Unmap what was read: it stays in the system's cache, but a file of a gibibyte no longer counts as ours.

    Arrays that are not mapped are left alone.
    """
    for array in arrays:
        mapping: object = array
        while isinstance(mapping, np.ndarray):  # views of a view
            mapping = mapping.base
        if isinstance(mapping, mmap.mmap):
            mapping.madvise(mmap.MADV_DONTNEED)
