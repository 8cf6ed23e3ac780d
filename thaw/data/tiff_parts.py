"""The strips or tiles of a TIFF, where Pillow's decoders take one that ends early for whole (TIFF 6.0, section 8)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from thaw.data.pixel_values import UnusableError

RAW, GROUP_4, JPEG = 1, 4, 7
"""Values of the tag Compression."""

Parts = list[tuple[int, int]]
"""Where each strip or tile begins, and how many bytes it has."""

_REVERSED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))
# ITU-T T.6: two end-of-line codes end a block. In their place, four runs that turn pixels black.
_END_OF_BLOCK, _NOISE, _END_BITS, _TAIL = 0x001001, 0b001011111001011111001011, 24, 8


def parts(tags: Mapping[int, Any], num_bytes: int) -> Parts:
    """Return the parts of the first page. Raises: UnusableError if there are too few, or their bytes are."""
    tiled = 324 in tags
    offsets, counts = (_numbers(tags.get(tag)) for tag in ((324, 325) if tiled else (273, 279)))
    width, height = int(tags[256]), int(tags[257])  # as stored: Pillow's size is that of the upright image
    samples = int(tags.get(277, 1))
    rows = int(tags.get(323 if tiled else 278, height))
    columns = int(tags.get(322, width)) if tiled else width
    planes = samples if int(tags.get(284, 1)) == 2 else 1
    wanted = math.ceil(height / max(1, rows)) * math.ceil(width / max(1, columns)) * planes
    if len(offsets) < wanted or len(counts) not in (0, len(offsets)):
        raise UnusableError("damaged or cut short: parts of the TIFF are missing")
    bits = sum(_numbers(tags.get(258, 1))) if planes == 1 else max(_numbers(tags.get(258, 1)))
    if int(tags.get(259, 1)) == RAW and counts and sum(counts) < height * planes * (width * bits // 8):
        raise UnusableError("damaged or cut short: parts of the TIFF have too few bytes")
    lengths = counts or [num_bytes - offset for offset in offsets]
    return list(zip(offsets[:wanted], lengths[:wanted], strict=True))


def as_jpeg(tags: Mapping[int, Any], part: bytes) -> bytes:
    """Return a part that is compressed as JPEG as a file of its own, with the tables that the parts have in common."""
    tables = bytes(tags.get(347, b""))
    return tables[:-2] + part[2:] if tables else part


def ended_by_noise(tags: Mapping[int, Any], data: bytes, found: Parts) -> bytes | None:
    """Return the file with noise where its parts, compressed as Group 4 fax, have their end; None if one has no end.

    A decoder that has all rows never looks at it.
    """
    noisy, turned = bytearray(data), int(tags.get(266, 1)) == 2
    for start, length in found:
        tail = data[max(start, start + length - _TAIL) : start + length]
        bits = int.from_bytes(tail.translate(_REVERSED) if turned else tail, "big")
        after = (bits & -bits).bit_length() - 1 if bits else 0
        if bits >> after & (1 << _END_BITS) - 1 != _END_OF_BLOCK:
            return None
        changed = (bits ^ ((_END_OF_BLOCK ^ _NOISE) << after)).to_bytes(len(tail), "big")
        noisy[start + length - len(tail) : start + length] = changed.translate(_REVERSED) if turned else changed
    return bytes(noisy)


def _numbers(value: Any) -> Sequence[int]:
    if value is None:
        return []
    return [int(number) for number in value] if isinstance(value, tuple | list) else [int(value)]
