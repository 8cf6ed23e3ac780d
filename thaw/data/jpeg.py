"""What the markers of a JPEG say of it (ITU-T T.81, annex B), and what follows its last scan.

libjpeg fills with grey, or leaves coarse, what a cut file lacks, and Pillow passes its warning on to nobody. So the end
marker alone shows nothing: whoever cuts a file may put one behind the cut.
"""

import re
from dataclasses import dataclass

_SEQUENTIAL = {0xC0, 0xC1}
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # tables share the range
_SCAN, _END = 0xDA, 0xD9
_SIDE = 8  # of a block of coefficients, in pixels
_COEFFICIENT_BYTES = 2
MOST_SCANS = 200
"""Each scan visits every block, so a few bytes of it cost as much time as an image; libjpeg's own scripts have 10."""

# In a scan, FF 00 is data and FF D0 to FF D7 are restart marks; FF may be repeated before any marker.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)


@dataclass(frozen=True)
class Scan:
    """Which part of the coefficients one scan holds."""

    components: bytes
    """The names of its components."""
    first: int
    last: int
    """Its coefficients, 0 to 63."""
    lowest_bit: int


@dataclass(frozen=True)
class Layout:
    """Where the first picture of a file ends, and how it is stored."""

    end: int
    """Where its end marker begins."""
    scans: tuple[Scan, ...]
    sequential: bool
    """Whether one scan tells a component whole."""
    components: dict[int, tuple[int, int]]
    """Horizontal and vertical sampling factor of each component, by its name."""
    width: int
    height: int

    @property
    def several_scans(self) -> bool:
        """Whether the coefficients of all blocks are in memory until the last scan was read."""
        return len(self.scans) > 1 or not self.sequential

    @property
    def coefficient_bytes(self) -> int:
        """What the coefficients of all blocks take."""
        factors = self.components.values()
        wide, high = _SIDE * max(h for h, _ in factors), _SIDE * max(v for _, v in factors)
        steps = -(-self.width // wide) * -(-self.height // high)
        return steps * sum(h * v for h, v in factors) * _SIDE * _SIDE * _COEFFICIENT_BYTES

    @property
    def complete(self) -> bool:
        """Whether the scans together hold every bit of every coefficient of every component."""
        if self.sequential:
            return {name for scan in self.scans for name in scan.components} >= self.components.keys()
        held = {
            (name, number)
            for scan in self.scans
            if scan.lowest_bit == 0
            for name in scan.components
            for number in range(scan.first, scan.last + 1)
        }
        return held >= {(name, number) for name in self.components for number in range(_SIDE * _SIDE)}


def layout(data: bytes) -> Layout | None:
    """Return the layout of the first picture in a file; None if its markers do not lead to an end."""
    place, scans, frame = 2, list[Scan](), b""
    while place + 2 <= len(data):
        marker = data[place + 1]
        if data[place] != 0xFF or marker == 0xFF:  # fill bytes before a marker, or stray ones, which libjpeg skips
            place += 1
            continue
        if marker == _END:
            while data[place - 1] == 0xFF:  # fill bytes, or the first half of what was cut in two
                place -= 1
            return _described(frame, place, tuple(scans))
        body = data[place + 4 : place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")]
        if marker in _FRAMES and not frame:
            frame = bytes([marker]) + body
        place += 4 + len(body)
        if marker != _SCAN:  # any segment but a scan has its length in front
            continue
        if not body or len(body) < 4 + 2 * body[0] or len(scans) == MOST_SCANS:
            return None
        first, last, bits = body[1 + 2 * body[0] :][:3]
        scans.append(Scan(body[1 : 1 + 2 * body[0] : 2], first, min(last, 63), bits & 15))
        if (found := _MARKER.search(data, place)) is None:
            return None
        place = found.end() - 2
    return None


def _described(frame: bytes, end: int, scans: tuple[Scan, ...]) -> Layout | None:
    """Return the layout that a frame tells: marker, precision, height, width, count, three bytes a component."""
    if len(frame) < 7 or len(frame) < 7 + 3 * frame[6] or not frame[6]:
        return None
    height, width = (int.from_bytes(frame[at : at + 2], "big") for at in (2, 4))
    factors = {frame[at]: (frame[at + 1] >> 4, frame[at + 1] & 15) for at in range(7, 7 + 3 * frame[6], 3)}
    if not all(1 <= h <= 4 and 1 <= v <= 4 for h, v in factors.values()):
        return None
    return Layout(end, scans, frame[0] in _SEQUENTIAL, factors, width, height)


def followed_by_noise(data: bytes, end: int) -> bytes:
    """Return a file with noise between its last scan and the end marker at `end`.

    A decoder that has all blocks never looks at it. One that lacks some takes it for their data; the restart mark in it
    is the one that it waits for if the file was cut before one.
    """
    marks = _RESTART.findall(data, data.rindex(b"\xff\xda", 0, end), end)
    due = 0xD0 + (marks[-1][1] - 0xD0 + 1) % 8 if marks else 0xD0
    return data[:end] + _NOISE + bytes([0xFF, due]) + _NOISE + b"\xff\xd9"


_RESTART = re.compile(rb"\xff[\xd0-\xd7]")

LOOK_AHEAD = b"\xaa" * 8
"""What libjpeg needs behind the last code: 57 bits. Of eleven patterns this one was taken for the end of missing blocks
least often: cuts of 1 to 7 bytes pass, 18 of 621 that were tried."""

# Always the same, without FF; 2048 bytes are more blocks than a difference needs to show.
_NOISE = bytes((value * value * 7 + value * 13 + (value >> 3)) % 251 + 1 for value in range(2048))
