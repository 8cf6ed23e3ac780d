"""JPEG 2000 that Pillow would cut to 8 bits: more bits, signed values or many components (ISO/IEC 15444-1, annex A).

A codestream that ends early is an error of OpenJPEG, whatever marker stands at its end.
"""

import struct
from dataclasses import dataclass

import numpy as np

from thaw.data import needs
from thaw.data.pixel_values import Bands, UnusableError

_FILE, _STREAM = b"\x00\x00\x00\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"
_CODESTREAM_BOX = b"jp2c"
_MOST_COMPONENTS = 16384  # of the standard
_MOST_OF_PILLOW = 4


@dataclass(frozen=True)
class Size:
    """What the codestream says of itself."""

    width: int
    height: int
    bits: tuple[int, ...]
    """Of each component."""
    signed: bool
    sampled: bool
    """Whether a component has fewer pixels than the image."""


def is_jpeg2000(data: bytes) -> bool:
    """Tell whether a file begins as JPEG 2000 does, as a file or as a bare codestream."""
    return data.startswith((_FILE, _STREAM))


def size(data: bytes) -> Size | None:
    """Return what the first codestream says of itself; None if its header is damaged."""
    start = _codestream(data)
    try:
        if start is None or data[start : start + 4] != _STREAM:
            return None
        right, low, left, top = struct.unpack_from(">4I", data, start + 8)
        (count,) = struct.unpack_from(">H", data, start + 40)
        parts = [struct.unpack_from(">3B", data, start + 42 + 3 * place) for place in range(count)]
    except struct.error:
        return None
    if not 0 < count <= _MOST_COMPONENTS or right <= left or low <= top:
        return None
    bits = tuple((depth & 127) + 1 for depth, _, _ in parts)
    return Size(
        right - left, low - top, bits, any(depth > 127 for depth, _, _ in parts), any(x * y > 1 for _, x, y in parts)
    )


def _codestream(data: bytes) -> int | None:
    """Return where the first codestream begins."""
    place = 0
    if data.startswith(_STREAM):
        return 0
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        head = 8
        if length == 1:
            if place + 16 > len(data):
                return None
            (length,) = struct.unpack_from(">Q", data, place + 8)
            head = 16
        if kind == _CODESTREAM_BOX:
            return place + head
        if length < head:
            return None
        place += length
    return None


def is_deep(found: Size) -> bool:
    """Tell whether a file has what Pillow has no mode for."""
    return max(found.bits) > 8 or found.signed or len(found.bits) > _MOST_OF_PILLOW


def read(data: bytes, found: Size, max_megapixels: float) -> Bands:
    """Return the components of a file as bands. Raises: UnusableError; what else imagecodecs raises means damage."""
    import imagecodecs  # 0.1 s, and few data sets need it

    pixels, channels = found.width * found.height, len(found.bits)
    needs.check_pixels(pixels, max_megapixels)
    needs.check(len(data) + needs.JPEG2000_BYTES_A_VALUE * pixels * channels, max_megapixels)
    if found.sampled or len(set(found.bits)) > 1 or max(found.bits) > 16:
        raise UnusableError(
            "its components have different sizes or depths, or more than 16 bits, which is not read of JPEG 2000; "
            "write it as TIFF"
        )
    values = np.asarray(imagecodecs.jpeg2k_decode(data))
    values = values[:, :, None] if values.ndim == 2 else values
    if values.shape != (found.height, found.width, channels):
        raise UnusableError("damaged or cut short: the JPEG 2000 has other pixels than its header says")
    full = None if found.signed else (0.0, 2.0 ** found.bits[0] - 1)
    return Bands(values, full, colour=channels == 3)
