"""The pages of a TIFF: where each begins, and the file with another one as its first (TIFF 6.0, section 2)."""

import struct
from collections.abc import Iterator

_ORDERS = {b"II": "<", b"MM": ">"}
_PLAIN, _BIG = 42, 43
_SUBFILE_TYPE, _SMALLER_OR_MASK = 254, 0b101
_SHORT = 3
MOST_PAGES = 4096
"""More are not looked for."""


def is_tiff(data: bytes) -> bool:
    """Tell whether a file begins as a TIFF does."""
    order = _ORDERS.get(data[:2])
    return order is not None and len(data) >= 16 and struct.unpack_from(f"{order}H", data, 2)[0] in (_PLAIN, _BIG)


def offsets(data: bytes) -> list[int]:
    """Return where the directory of each page of a TIFF lies: the first one, then all but smaller copies and masks.

    A chain that is damaged, or leads to itself, ends there.
    """
    seen: dict[int, bool] = {}
    for place, is_copy in _directories(data):
        if place in seen or len(seen) == MOST_PAGES:
            break
        seen[place] = is_copy
    return [place for number, (place, is_copy) in enumerate(seen.items()) if number == 0 or not is_copy]


def with_first(data: bytes, place: int) -> bytes:
    """Return the TIFF whose first page is the one with its directory at a place."""
    order, is_big = _kind(data)
    start, form = (8, f"{order}Q") if is_big else (4, f"{order}I")
    first = struct.pack(form, place)
    return data if data[start : start + len(first)] == first else data[:start] + first + data[start + len(first) :]


def _kind(data: bytes) -> tuple[str, bool]:
    order = _ORDERS[data[:2]]
    return order, struct.unpack_from(f"{order}H", data, 2)[0] == _BIG


def _directories(data: bytes) -> Iterator[tuple[int, bool]]:
    """Yield the place of each directory, and whether it is a smaller copy or a mask."""
    order, is_big = _kind(data)
    count_form, entry_bytes, place_form = (f"{order}Q", 20, f"{order}Q") if is_big else (f"{order}H", 12, f"{order}I")
    head = struct.calcsize(count_form)
    try:
        (place,) = struct.unpack_from(place_form, data, 8 if is_big else 4)
        while place:
            (count,) = struct.unpack_from(count_form, data, place)
            end = place + head + count * entry_bytes
            (following,) = struct.unpack_from(place_form, data, end)
            yield place, _is_copy(data[place + head : end], order, entry_bytes)
            place = following
    except struct.error:  # beyond the end of the file
        return


def _is_copy(entries: bytes, order: str, entry_bytes: int) -> bool:
    for start in range(0, len(entries), entry_bytes):
        tag, kind = struct.unpack_from(f"{order}HH", entries, start)
        if tag >= _SUBFILE_TYPE:  # they are sorted by tag
            value_at = start + (12 if entry_bytes == 20 else 8)
            (value,) = struct.unpack_from(f"{order}{'H' if kind == _SHORT else 'I'}", entries, value_at)
            return tag == _SUBFILE_TYPE and bool(value & _SMALLER_OR_MASK)
    return False
