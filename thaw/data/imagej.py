"""Stacks of ImageJ of which only the first plane has a page: the others lie behind it, without a directory.

ImageJ writes a stack so where it is larger than 4 GB, and tifffile and others where they are asked to. That there are
more planes is said by a line `images=N` of the page's description (ImageJ's TiffEncoder and TiffDecoder).
"""

import itertools
import re
from dataclasses import dataclass
from io import BytesIO

from PIL.TiffImagePlugin import ImageFileDirectory_v2

from thaw.data import tiff_parts
from thaw.data.pixel_values import UnusableError

_DESCRIPTION, _COMPRESSION = 270, 259
_NUM = re.compile(r"^images=([0-9]{1,9})\s*$", re.MULTILINE)
_BIG = 43
_RAW = 1


@dataclass(frozen=True)
class Hidden:
    """The planes of a TIFF of one page."""

    num: int
    notes: tuple[str, ...] = ()
    start: int = 0
    """Where the first plane begins."""
    size: int = 0
    """Bytes of a plane."""
    is_last: bool = False
    """Nothing that the header needs lies behind the first plane."""

    def with_first(self, data: bytes, number: int) -> bytes:
        """Return the TIFF with a plane in the place of the first one."""
        at = self.start + number * self.size
        behind = b"" if self.is_last else data[self.start + self.size :]
        return b"".join((data[: self.start], data[at : at + self.size], behind))


def hidden(data: bytes) -> Hidden:
    """Return the planes of a TIFF of one page, which are one unless ImageJ's description names more.

    Raises: UnusableError if some of those that it names are missing.
    """
    tags = _tags(data)
    description = tags.get(_DESCRIPTION)
    if not isinstance(description, str) or not description.startswith("ImageJ="):
        return Hidden(1)
    found = _NUM.search(description.replace("\r", "\n"))
    num = int(found[1]) if found else 1
    if num < 2:
        return Hidden(1)
    start, size = _one_piece(tags, len(data)) if tags.get(_COMPRESSION, _RAW) == _RAW else (0, 0)
    there = (len(data) - start) // size if size else 1
    if there <= 1:
        return Hidden(1, (f"ImageJ's description names {num} planes, and the file holds the first one alone",))
    if there < num:
        raise UnusableError(
            f"damaged or cut short: it holds {there} of the {num} planes that ImageJ's description names"
        )
    return Hidden(num, start=start, size=size, is_last=_tags(data[:start]) == tags)


def _one_piece(tags: dict[int, object], num_bytes: int) -> tuple[int, int]:
    """Return where the bytes of a page begin, and how many they are; 0 if they do not lie in one piece."""
    parts = tiff_parts.parts(tags, num_bytes)
    follow = all(one + length == two for (one, length), (two, _) in itertools.pairwise(parts))
    return (parts[0][0], sum(length for _, length in parts)) if parts and follow else (0, 0)


def _tags(data: bytes) -> dict[int, object]:
    """Return the tags of the first page; none where they are damaged, which reading the page will say."""
    try:
        tags = ImageFileDirectory_v2(data[: 16 if data[2] == _BIG or data[3] == _BIG else 8])
        file = BytesIO(data)
        file.seek(tags.next)
        tags.load(file)
        return dict(tags)
    except Exception:  # noqa: BLE001 - whatever a damaged header leads Pillow's reader to
        return {}
