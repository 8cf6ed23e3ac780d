"""The bytes of a regular file of a size that an image may have; nothing else is waited for or read into memory."""

import os
from pathlib import Path

from thaw.images.levels import UnusableError
from thaw.images.tiff import MOST_BYTES_A_PIXEL

_MARGIN_BYTES = 2**24  # for metadata


def read_regular(path: Path, max_megapixels: float) -> bytes:
    """Return the bytes of a regular file that is no larger than an image of that many pixels can be.

    Raises: UnusableError for a file of another kind or a larger one, OSError for one that cannot be read.
    """
    if path.exists() and not path.is_file():
        raise UnusableError("not a regular file (a folder, pipe, socket or device)")
    most_bytes = round(max_megapixels * 1e6 * MOST_BYTES_A_PIXEL) + _MARGIN_BYTES
    # Non-blocking: should a pipe have taken the file's place meanwhile, opening it must not wait for a writer.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        if os.fstat(file.fileno()).st_size > most_bytes:
            raise UnusableError(f"larger than {most_bytes} bytes, which prepare.max_megapixels cannot need")
        return file.read(most_bytes)
