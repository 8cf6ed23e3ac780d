"""PGM and PPM that are text, or whose white is another number than 255 (netpbm's man pages of pgm and ppm).

Pillow stretches grey of more than 8 bits, cuts such colour to 8, and takes a step of Python for each value of others.
"""

import re

import numpy as np

from thaw.data import needs
from thaw.data.pixel_values import Bands, UnusableError

_GAP = rb"(?:\s|#[^\r\n]*[\r\n])+"
_HEADER = re.compile(rb"P([2356])" + 3 * (_GAP + rb"(\d{1,10})") + rb"\s")
_COMMENT = re.compile(rb"#[^\r\n]*")
_AS_TEXT, _COLOUR = b"23", b"36"
_HEADER_BYTES = 4096
_NUMBER_BYTES = 8  # of a value that is read from text


def is_ours(data: bytes) -> bool:
    """Tell whether a file is a PGM or PPM that `read` is for."""
    found = _HEADER.match(data[:_HEADER_BYTES])
    return found is not None and 0 < int(found[4]) < 65536 and (found[1] in _AS_TEXT or int(found[4]) != 255)


def read(data: bytes, max_megapixels: float) -> Bands:
    """Return the pixels of a file for which `is_ours` holds. Raises: UnusableError."""
    found = _HEADER.match(data[:_HEADER_BYTES])
    assert found is not None
    width, height, top = (int(found[place]) for place in (2, 3, 4))
    needs.check_pixels(width * height, max_megapixels)
    dtype = np.dtype(">u2" if top > 255 else "u1")
    is_text, channels = found[1] in _AS_TEXT, 3 if found[1] in _COLOUR else 1
    count, body = width * height * channels, memoryview(data)[found.end() :]
    values = count * dtype.itemsize + (2 + _NUMBER_BYTES // 2) * len(data) * is_text  # a number takes two letters
    needs.check(needs.of_bands(values, needs.plane_bytes(width * height, dtype.itemsize), 0, len(data)), max_megapixels)
    if is_text:
        text = _COMMENT.sub(b"", body).decode("latin-1")
        # Not with a count: what is missing of it would be whatever the memory held.
        numbers = np.fromstring(text, np.int64, sep=" ")[:count].clip(0, 65535)
    else:
        numbers = np.frombuffer(body[: min(count, len(body) // dtype.itemsize) * dtype.itemsize], dtype)
    if not count or len(numbers) < count:
        raise UnusableError("damaged or cut short: the file has fewer pixels than its header says")
    if numbers.max() > top:
        raise UnusableError(f"damaged: it has pixels above {top}, which its header calls white")
    pixels = numbers.astype(dtype.newbyteorder("=")).reshape(height, width, channels)
    return Bands(pixels, (0.0, float(top)), colour=channels == 3)
