"""Pixel values of any type to the 8 or 16 bits that are packed, by one rule for a whole data set.

Images of 8 bits stay as they are; whatever has more is packed with 16. The smallest value of a range becomes 0, the
largest 255 or 65535, what lies between is scaled linearly. The range is that of the file's type (65535 for 16 bits, 0
to 1 for floats), or the one given as `prepare.value_range`; never that of the image, which would make a dark image and
a bright one alike.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thaw.pipeline.data_facts import Range, ValueRange

Ranges = tuple[Range, ...]
Pixels = NDArray[np.unsignedinteger[Any]]
"""uint8 or uint16."""

# Data that use less than this share of a range have lost two bits of precision, and look black.
_SMALL_SHARE = 0.25


class UnusableError(Exception):
    """A file that cannot become a sample; its text is the reason for rejected.csv."""


@dataclass(frozen=True)
class Measured:
    """What the values of an image were before they were scaled."""

    used: Ranges
    """Smallest and largest value of each channel, in the file's own units."""
    full: Range | None
    """What the file's type can hold; None if that is no range to scale by."""
    clipped: float
    """Share of the values that lay outside the range asked for."""


@dataclass(frozen=True)
class Bands:
    """One picture as numbers of the file's own type."""

    values: NDArray[Any]
    """[height, width, channels], upright."""
    full: Range | None
    """What the type's values are scaled by; None if it has no such range."""
    colour: bool = False
    """Whether the channels are red, green and blue."""
    inverted: bool = False
    """Whether the smallest value is white."""
    as_shown: bool = False
    """Whether the file itself has said which values are black and white: they are no measurements any more."""


class UnrangedError(UnusableError):
    """Pixels whose values lie in no range that is known."""

    def __init__(self, text: str, measured: Measured) -> None:
        super().__init__(text)
        self.measured = measured
        """What they are."""


def full_range(dtype: np.dtype[Any], bits: int) -> Range | None:
    """Return the range that a type's values are scaled by; None for 32-bit and signed integers, which have none."""
    if dtype.kind == "f":
        return 0.0, 1.0
    return (0.0, 2.0**bits - 1) if dtype.kind == "u" and bits <= 16 else None


def measure(values: NDArray[Any], full: Range | None, asked: Ranges | None) -> tuple[Ranges, Measured]:
    """Return the range of each channel of [height, width, channels] that becomes black to white, and what was measured.

    Raises: UnusableError for a type without a range if none is asked for, for floats beyond theirs, and for NaN.
    """
    channels = values.shape[2]
    used = tuple((float(plane.min()), float(plane.max())) for plane in np.moveaxis(values, 2, 0))
    inside = all(math.isfinite(low) and math.isfinite(high) for low, high in used)
    if not inside:
        raise UnusableError("pixel values are NaN or infinite, which no prepare.value_range makes a number")
    if asked is None:
        if full is not None and all(full[0] <= low and high <= full[1] for low, high in used):
            return (full,) * channels, Measured(used, full, 0.0)
        what = f"{values.dtype} pixels have no known range"
        if full is not None:
            what = f"pixel values are not all between {full[0]:g} and {full[1]:g}"
        raise UnrangedError(
            f"{what}; they go from {min(low for low, _ in used):g} to {max(high for _, high in used):g}: set "
            f"prepare.value_range, such as {in_yaml(proposed(used))}, or convert the images to 8 or 16 bits",
            Measured(used, full, 0.0),
        )
    ranges = _for_each(asked, channels)
    outside = sum(
        int(np.count_nonzero((strip < low) | (strip > high)))
        for plane, (low, high) in zip(np.moveaxis(values, 2, 0), ranges, strict=True)
        for strip in strips(plane)
    )
    return ranges, Measured(used, full, outside / values.size)


def scaled(plane: NDArray[Any], ends: Range, dtype: np.dtype[Any]) -> NDArray[np.float32]:
    """Return [height, width] scaled from a range to the whole of uint8 or uint16, clipped, not yet rounded.

    It works in 64 bits: give it strips of a large image.
    """
    (low, high), top = ends, np.iinfo(dtype).max
    level = (plane.astype(np.float64) - low) * (top / (high - low))
    return level.clip(0, top).astype(np.float32)


def strips(plane: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield [height, width] in strips of whole rows, about a million values each."""
    rows = max(1, 2**20 // max(1, plane.shape[1]))
    yield from (plane[start : start + rows] for start in range(0, plane.shape[0], rows))


def _for_each(asked: Ranges, channels: int) -> Ranges:
    if len(asked) not in (1, channels):
        raise UnusableError(
            f"it has {channels} channel{'s' if channels > 1 else ''}, but prepare.value_range gives {len(asked)} ranges"
        )
    return asked * channels if len(asked) == 1 else asked


def rounded(values: NDArray[Any], dtype: np.dtype[Any]) -> Pixels:
    """Return values as integers of a type, without those that a filter has carried beyond its ends."""
    pixels: Pixels = np.rint(values).clip(0, np.iinfo(dtype).max).astype(dtype)
    return pixels


def as_depth(pixels: Pixels, dtype: np.dtype[Any]) -> Pixels:
    """Return pixels as uint8 or uint16; white stays white: 255 and 65535 are the same level."""
    if pixels.dtype == dtype:
        return pixels
    wider = pixels.astype(np.uint16) * np.uint16(257)
    return wider if dtype == np.uint16 else rounded(pixels / np.float32(257), np.dtype(np.uint8))


def as_channels(pixels: Pixels, channels: int) -> Pixels:
    """Return [height, width, channels] with that many: grey repeated for three, colour as its luma (ITU-R BT.601).

    Raises: UnusableError for any other change.
    """
    have = pixels.shape[2]
    if have == channels:
        return pixels
    if (have, channels) == (1, 3):
        grey: Pixels = np.repeat(pixels, 3, axis=2)
        return grey
    if (have, channels) == (3, 1):
        return rounded(pixels @ np.array([[0.299], [0.587], [0.114]]), pixels.dtype)
    raise UnusableError(f"it has {have} channel{'s' if have > 1 else ''}, the model takes {channels}")


def as_shown(square: Pixels) -> NDArray[np.uint8]:
    """Return packed pixels [height, width, channels] as people see them: RGB [height, width, 3] of uint8.

    Of three channels or more the first three are red, green and blue, else the first is grey. What is not uint8 is
    stretched to its own darkest and brightest value: as it is, most of it would be black.
    """
    shown: NDArray[Any] = square[:, :, :3] if square.shape[2] >= 3 else np.repeat(square[:, :, :1], 3, axis=2)
    if shown.dtype != np.uint8:
        low, high = float(shown.min()), float(shown.max())
        shown = np.rint((shown - low) * (255 / ((high - low) or 1)))
    return np.ascontiguousarray(shown, dtype=np.uint8)


def report(measured: Iterable[Measured | None], asked: Ranges | None) -> ValueRange | None:
    """Return what audit.json says about a data set's values: the range of each channel, what was clipped, a warning.

    None where no value was scaled.
    """
    known = [one for one in measured if one is not None]
    if not known:
        return None
    channels = max(len(one.used) for one in known)
    used = [
        (min(one.used[index][0] for one in some), max(one.used[index][1] for one in some))
        for index in range(channels)
        for some in [[one for one in known if len(one.used) > index]]
    ]
    clipped = sum(one.clipped for one in known) / len(known)
    ranges = _for_each(asked, channels) if asked is not None else tuple(one.full for one in known if one.full)[:1]
    return ValueRange(used=used, clipped_fraction=round(clipped, 6), warning=_warning(used, ranges, asked))


def _warning(used: Sequence[Range], ranges: Ranges, asked: Ranges | None) -> str | None:
    if asked is not None and len(asked) > 1:
        narrow = [
            index
            for index, ((low, high), (start, end)) in enumerate(zip(used, ranges, strict=True))
            if high - low < _SMALL_SHARE * (end - start)
        ]
        return f"channels {narrow} use less than a quarter of their prepare.value_range" if narrow else None
    if not ranges or (better := suggested_range(used, ranges[0])) is None:
        return None
    low, high = min(pair[0] for pair in used), max(pair[1] for pair in used)
    start, end = ranges[0]
    return (
        f"the values use {low:g} to {high:g} of {start:g} to {end:g}, so the images are nearly black to the network; "
        f"set prepare.value_range: [{better[0]:g}, {better[1]:g}]"
    )


def proposed(used: Sequence[Range]) -> Range:
    """Return a range that holds values which have none of their own.

    From 0 to a power of two less one if they are counts, else from the smallest to the largest.
    """
    low, high = min(pair[0] for pair in used), max(pair[1] for pair in used)
    if low >= 0:
        return 0.0, 2.0 ** math.ceil(math.log2(high + 1)) - 1 if high > 1 else 1.0
    return low, high if high > low else low + 1


def in_yaml(ends: Range) -> str:
    """Return a range as params.yaml has it, whole numbers as such."""
    return f"[{', '.join(str(int(end)) if end == int(end) else f'{end:.6g}' for end in ends)}]"


def suggested_range(used: Sequence[Range], full: Range) -> Range | None:
    """Return the range to scale by where values use less than a quarter of the type's; None where they use more.

    For integers it ends at the next power of two less one: 4095 for a detector of 12 bits.
    """
    high, (start, end) = max(pair[1] for pair in used), full
    if high - start >= _SMALL_SHARE * (end - start) or high <= start:
        return None
    return start, 2.0 ** math.ceil(math.log2(high + 1)) - 1 if end > 1 and high > 0 else high
