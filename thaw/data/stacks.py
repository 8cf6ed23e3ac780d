"""A file as a stack of planes: pages of a TIFF, frames of a DICOM or of an animation; most files have one.

`prepare.plane` says which one is taken, or that all are made one by the largest value at each place, or the mean.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from thaw.data import dicom, imagej, jpeg2000, needs, plain, pnm, tiff, tiff_pages, whole
from thaw.data.pixel_values import Bands, Ranges, UnusableError

Plane = Literal["first", "middle", "max", "mean"] | int
Found = Image.Image | Bands

# A plane whose values scatter a tenth as much as those of another one of the file is noise in the dark, or empty.
_FLAT_SHARE = 0.1
_LOW_SPREAD = 0.02  # of the type's range: a plane that scatters more is not compared with others
_MOST_COMPARED = 16
_MEAN_BYTES = 8


@dataclass(frozen=True)
class Stack:
    """What a file holds."""

    num: int
    """How many planes."""
    read: Callable[[Sequence[int]], Iterator[Found]]
    """Yields the planes of these numbers, which ascend."""
    notes: tuple[str, ...] = ()
    """What is worth knowing of the file."""


@dataclass(frozen=True)
class Chosen:
    """The picture that a file gives."""

    found: Found
    num: int
    """How many planes the file has."""
    notes: tuple[str, ...]


def opened(data: bytes, max_megapixels: float, asked: Ranges | None) -> Stack:
    """Return the planes of a file, of which none was decoded yet. Raises: UnusableError, MissingLibraryError."""
    if dicom.is_dicom(data):
        file = dicom.File(data, max_megapixels, windowed=asked is None)
        return Stack(file.num, lambda numbers: map(file.read, numbers), file.notes)
    if dicom.lacks_preamble(data):
        raise UnusableError(dicom.LACKS_PREAMBLE)
    if tiff_pages.is_tiff(data):
        return _of_tiff(data, max_megapixels)
    if pnm.is_ours(data):
        return Stack(1, lambda _: iter([pnm.read(data, max_megapixels)]))
    if jpeg2000.is_jpeg2000(data) and (size := jpeg2000.size(data)) is not None and jpeg2000.is_deep(size):
        return Stack(1, lambda _: iter([jpeg2000.read(data, size, max_megapixels)]))
    return Stack(whole.num_frames(data), lambda numbers: whole.frames(data, numbers, max_megapixels))


def _of_tiff(data: bytes, max_megapixels: float) -> Stack:
    """Return the pages of a TIFF, or what ImageJ has put behind its only one."""
    places = tiff_pages.offsets(data)
    if len(places) > 1:
        return Stack(
            len(places),
            lambda numbers: (_page(tiff_pages.with_first(data, places[n]), max_megapixels) for n in numbers),
        )
    hidden = imagej.hidden(data)
    return Stack(
        hidden.num,
        lambda numbers: (_page(hidden.with_first(data, n) if n else data, max_megapixels) for n in numbers),
        hidden.notes,
    )


def _page(page: bytes, max_megapixels: float) -> Found:
    return (
        tiff.read(page, max_megapixels=max_megapixels) if tiff.holds_bands(page) else whole.read(page, max_megapixels)
    )


def choose(
    data: bytes, plane: Plane, *, max_megapixels: float, asked: Ranges | None, background: int, compare: bool
) -> Chosen:
    """Return the picture that `plane` names of a file; with `compare` it is noted if it is dark and another is not.

    Raises: UnusableError, also for a number that the file lacks; MissingLibraryError.
    """
    stack = opened(data, max_megapixels, asked)
    if stack.num == 1 and not isinstance(plane, int):
        return Chosen(next(stack.read([0])), 1, stack.notes)
    if plane == "max" or plane == "mean":  # noqa: PLR1714 - mypy narrows by these
        return Chosen(_combined(stack, plane, len(data), max_megapixels, background), stack.num, stack.notes)
    number = stack.num // 2 if plane == "middle" else 0 if plane == "first" else plane
    if number >= stack.num:
        raise UnusableError(
            f"it has {_count(stack.num)}, and prepare.plane is {number}; they count from 0: name one that every file "
            "has, or first, middle, max or mean"
        )
    found, notes = next(stack.read([number])), stack.notes
    if compare and stack.num > 1 and (better := _brighter(stack, number, found, background)) is not None:
        notes = (*notes, _dark(number, stack.num, better))
    return Chosen(found, stack.num, notes)


def _count(num: int) -> str:
    return "1 plane" if num == 1 else f"{num} planes"


def _dark(number: int, num: int, better: int) -> str:
    return (
        f"plane {number} of {num}, which is used, is almost of one value, and plane {better} is not; set prepare.plane "
        f"to {better}, max or mean"
    )


def _combined(stack: Stack, plane: Literal["max", "mean"], size: int, max_megapixels: float, background: int) -> Bands:
    """Return the largest value at each place, or the mean, over all planes; whole numbers stay whole."""
    planes = (plain.as_bands(found, background) for found in stack.read(range(stack.num)))
    first = next(planes)
    kind = first.values.dtype
    each = first.values.size * (_MEAN_BYTES if plane == "mean" else kind.itemsize)
    pixels = first.values.shape[0] * first.values.shape[1]
    needs.check(size + 2 * first.values.nbytes + each + needs.plane_bytes(pixels, kind.itemsize), max_megapixels)
    total = first.values.astype(np.float64 if plane == "mean" else kind)
    for number, other in enumerate(planes, start=1):
        if (other.values.shape, other.values.dtype, other.full) != (first.values.shape, kind, first.full):
            raise UnusableError(
                f"planes 0 and {number} have different sizes, channels or types, which prepare.plane: {plane} cannot "
                "make one; name one plane"
            )
        if plane == "mean":
            total += other.values
        else:
            np.maximum(total, other.values, out=total)
    if plane == "mean":
        total /= stack.num
        total = np.rint(total, out=total).astype(kind) if kind.kind in "ui" else total.astype(kind)
    return Bands(total, first.full, first.colour, first.inverted, first.as_shown)


def _brighter(stack: Stack, number: int, found: Found, background: int) -> int | None:
    """Return the plane that scatters most if the one that is used scatters much less; damaged ones do not count."""
    used = plain.as_bands(found, background)
    own = _spread(used)
    if used.full is not None and own > _LOW_SPREAD * (used.full[1] - used.full[0]):
        return None
    step = -(-stack.num // _MOST_COMPARED)
    spreads: dict[int, float] = {}
    for other in {*range(0, stack.num, step), stack.num - 1} - {number}:
        try:
            spreads[other] = _spread(plain.as_bands(next(stack.read([other])), background))
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001, S112 - what Pillow and tifffile make of damage to a plane that is not used
            continue
    best = max(spreads, key=lambda one: (spreads[one], -one), default=None)
    return best if best is not None and own < _FLAT_SHARE * spreads[best] else None


def _spread(bands: Bands) -> float:
    """Return the standard deviation of the values, 0 where it is no number."""
    rows, columns = (max(1, side // 256) for side in bands.values.shape[:2])
    spread = float(np.std(bands.values[::rows, ::columns].astype(np.float64)))
    return spread if np.isfinite(spread) else 0.0
