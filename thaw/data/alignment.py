"""How far two looks are from being one image: registered by a turn, a scale and a shift, then compared part by part.

Gauss-Newton steps (Lucas and Kanade 1981, "An iterative image registration technique", section 4.2) from coarse to fine
find the similarity transform under which the second look is the first one, whatever gain and offset its grey levels
have. Then both are band-passed and correlated in 64 tiles, for three sizes of details.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from thaw.data.candidates import Floats, Numbers, Pairs, reduced, turned
from thaw.data.looks import SIDE_PX, Looks
from thaw.pipeline.machine import usable_cores
from thaw.progress import progress

Reader = Callable[[Numbers], Looks]
"""Returns the looks of some positions."""
Transforms = NDArray[np.float32]
"""[pairs, 4]: scale times cosine, scale times sine, and the shifts down and right in halves of a side."""

_STEPS = {16: 4, 32: 4, 64: 3, SIDE_PX: 3}  # Gauss-Newton steps at each side in pixels
_GLANCED = (16, 32)
_WORTH_A_GLANCE = 0.75  # correlation at 16 px: of planted copies of photos all have more, of those of cells 99.8 %
_LEVELLED = 32  # px from which on local contrast is evened out, so that busbars do not decide alone
_SMOOTHED_PX = 0.7
_FRAME = 16  # a part of the side is no part of a step: filters know nothing of what lies beyond the edge
_ROBUST = 2.5  # residuals beyond so many of their typical size count less (Cauchy)
_MOST_STEP = 0.15  # of half a side
_TILES = 8  # along a side
_INSIDE = 0.7  # share of a tile that both looks must show
_LEAST_TILES = 8
_LARGE, _MIDDLE, _FINE = (5.0, 10.0), (3.0, 6.0), (0.0, 1.0)  # deviations of the two Gaussians of a band, px of 128
_WORSE, _BETTER = 25, 75  # percentiles of the tiles
_LEAST_DETAIL = 0.05  # grey levels; a tile with less says nothing
_MARGIN_PX = 2
_TINY = np.float32(1e-6)
_GLANCES, _COMPARED = 64, 16  # pairs at once: more do not fit into a processor's cache, and take a third longer


@dataclass(frozen=True)
class Distances:
    """How far the images of each pair are from being one: 0 is the same, 1 has nothing in common.

    Each is one less a correlation of details, at a tile that a share of the tiles is better or worse than.
    """

    large: Floats
    """[pairs]: of 5 to 10 pixels of 128, where a quarter of the tiles are better; heavy compression leaves them."""
    middle: Floats
    """[pairs]: of 3 to 6 pixels, where a quarter are worse; two pictures of one kind do not agree there."""
    fine: Floats
    """[pairs]: below 1 pixel, noise of the sensor among them, where a quarter are better; watermarks leave them."""


def glance(pairs: Pairs, read: Reader) -> tuple[Transforms, Floats]:
    """Return the transforms of pairs as found at a quarter of the size, and how well the images are correlated then.

    Those that have little in common at an eighth of the size are left at that.
    """
    transforms, correlation = _unmoved(len(pairs)), np.zeros(len(pairs), np.float32)

    def glance_at(part: slice) -> None:
        first, second = _read(pairs[part], read)
        left = np.arange(part.start, min(part.stop, len(pairs)))
        for side in _GLANCED:
            here = left - part.start
            found = _registered(reduced(first[here], side), reduced(second[here], side), transforms[left])
            transforms[left], correlation[left] = found
            left = left[found[1] >= _WORTH_A_GLANCE]

    _on_all_cores(glance_at, len(pairs), _GLANCES, "pairs looked at")
    return transforms, correlation


def compare(pairs: Pairs, transforms: Transforms, read: Reader, side: int) -> tuple[Transforms, Distances]:
    """Return better transforms of pairs, and their distances, at 64 pixels or at the full 128."""
    better = np.empty_like(transforms)
    found = Distances(*(np.ones(len(pairs), np.float32) for _ in range(3)))

    def compare_part(part: slice) -> None:
        first, second = (reduced(looks, side) for looks in _read(pairs[part], read))
        better[part], _ = _registered(first, second, transforms[part])
        found.large[part], found.middle[part], found.fine[part] = _apart(first, second, better[part])

    _on_all_cores(compare_part, len(pairs), _COMPARED, f"pairs compared at {side} px")
    return better, found


def _on_all_cores(work: Callable[[slice], None], num_pairs: int, at_once: int, label: str) -> None:
    """Do the work on each part of the pairs, in threads: NumPy lets others run while it computes."""
    parts = [slice(start, start + at_once) for start in range(0, num_pairs, at_once)]
    with ThreadPoolExecutor(usable_cores()) as pool:
        for _ in progress(pool.map(work, parts), total=len(parts), label=f"prepare: {at_once} {label} at a time"):
            pass


def _unmoved(num_pairs: int) -> Transforms:
    return np.tile(np.array([1, 0, 0, 0], np.float32), (num_pairs, 1))


def _read(pairs: Pairs, read: Reader) -> tuple[Looks, Looks]:
    first = [turned(look, number) for look, number in zip(read(pairs.first), pairs.orientation, strict=True)]
    return np.stack(first), read(pairs.second)


def _registered(first: Floats, second: Floats, transforms: Transforms) -> tuple[Transforms, Floats]:
    """Return better transforms of images of one size, and how well the images are correlated under them."""
    side = first.shape[1]
    ours, theirs = _blurred(first, _SMOOTHED_PX), _blurred(second, _SMOOTHED_PX)
    if side >= _LEVELLED:
        ours, theirs = _levelled(ours, side), _levelled(theirs, side)
    layers = np.stack([theirs, *_slopes(theirs)])
    rows = ours.reshape(len(ours), -1)
    for _ in range(_STEPS[side]):
        transforms = _step(rows, layers, transforms)
    seen, inside = _seen(layers[:1], transforms)
    return transforms, _correlation(rows, seen[0], inside)


def _step(ours: Floats, layers: Floats, transforms: Transforms) -> Transforms:
    """Return the transforms after one Gauss-Newton step.

    `ours` is [pairs, pixels]; `layers` are the other image and its slopes down and right, [3, pairs, side, side].
    """
    side = layers.shape[2]
    down, right = _grid(side)
    (seen, *slopes), weight = _seen(layers, transforms)
    rise = [slope * np.float32(side / 2) for slope in slopes]
    image = _centred(ours, weight)
    seen = _centred(seen, weight)
    gain = np.sqrt(_sum(weight * image * image) / (_sum(weight * seen * seen) + _TINY))
    residual = image - gain * seen
    typical = (1.4826 * np.median(np.abs(residual), axis=1, keepdims=True) + 1e-3).astype(np.float32)
    weight = weight / (1 + (residual / (np.float32(_ROBUST) * typical)) ** 2)
    image, seen = _centred(image, weight), _centred(seen, weight)
    gain = (_sum(weight * image * seen) / (_sum(weight * seen * seen) + _TINY)).clip(0.2, 5)
    residual = image - gain * seen
    moves = np.stack([rise[0] * down + rise[1] * right, rise[1] * down - rise[0] * right, *rise], axis=1)
    moves = moves * gain[:, None]
    moves -= (moves * weight[:, None]).sum(axis=2, keepdims=True) / (_sum(weight)[:, None] + _TINY)
    weighted = moves * weight[:, None]
    normal = weighted @ moves.transpose(0, 2, 1)
    trace = np.trace(normal, axis1=1, axis2=2)[:, None, None]
    normal += (np.float32(2.5e-4) * trace + np.float32(1e-6)) * np.eye(4, dtype=np.float32)
    change = np.linalg.solve(normal, weighted @ residual[:, :, None])[:, :, 0]
    better: Transforms = transforms + change.clip(-_MOST_STEP, _MOST_STEP)
    return better


def _apart(first: Floats, second: Floats, transforms: Transforms) -> list[Floats]:
    """Return the three distances of registered pairs of images of one size."""
    side = first.shape[1]
    places = _places(transforms, side).reshape(len(first), 2, side, side)
    seen = np.stack([
        ndimage.map_coordinates(image, place, order=3, mode="nearest")
        for image, place in zip(second, places, strict=True)
    ])  # fmt: skip
    inside = ((places > _MARGIN_PX) & (places < side - 1 - _MARGIN_PX)).all(axis=1).astype(np.float32)
    inside[:, :_MARGIN_PX] = inside[:, -_MARGIN_PX:] = inside[:, :, :_MARGIN_PX] = inside[:, :, -_MARGIN_PX:] = 0
    weight = _tiled(inside)
    scale, found = side / SIDE_PX, []
    for band, percentile in ((_LARGE, _BETTER), (_MIDDLE, _WORSE), (_FINE, _BETTER)):
        ours, theirs = (_tiled(_band(images, band, scale)) for images in (first, seen))
        correlation = _correlation(ours, theirs, weight)
        shown = (weight.mean(axis=1) > _INSIDE) & (_deviation(ours, weight) > _LEAST_DETAIL)
        correlation = np.where(shown, correlation, np.nan).reshape(len(first), -1)
        correlation[np.isfinite(correlation).sum(axis=1) < _LEAST_TILES] = 0
        found.append((1 - np.nanpercentile(correlation, percentile, axis=1)).astype(np.float32))
    return found


def _seen(layers: Floats, transforms: Transforms) -> tuple[Floats, Floats]:
    """Return layers of images [layers, pairs, side, side] through the transforms, [layers, pairs, pixels].

    The second array is 1 where they reach, else 0.
    """
    side = layers.shape[2]
    places = _places(transforms, side)
    frame = side // _FRAME
    own = np.zeros((side, side), bool)
    own[frame : side - frame, frame : side - frame] = True
    shown = own.ravel() & ((places >= frame) & (places <= side - 1 - frame)).all(axis=1)
    y, x = places.clip(0, side - 1).transpose(1, 0, 2)
    top, left = (np.clip(place.astype(np.int32), 0, side - 2) for place in (y, x))
    below, beside = y - top.astype(np.float32), x - left.astype(np.float32)
    corner = np.arange(layers.shape[1], dtype=np.int32)[:, None] * (side * side) + top * side + left
    flat = layers.reshape(len(layers), -1)
    corners = [flat.take(corner + step, axis=1) for step in (0, 1, side, side + 1)]
    upper = corners[0] + (corners[1] - corners[0]) * beside
    lower = corners[2] + (corners[3] - corners[2]) * beside
    return upper + (lower - upper) * below, shown.astype(np.float32)


def _places(transforms: Transforms, side: int) -> Floats:
    """Return where each pixel of the first image lies in the second, [pairs, 2, pixels], in pixels down and right."""
    down, right = _grid(side)
    along, across, shift_down, shift_right = (transforms[:, number, None] for number in range(4))
    y = along * down - across * right + shift_down
    x = across * down + along * right + shift_right
    return np.stack([y, x], axis=1) * np.float32(side / 2) + np.float32((side - 1) / 2)


def _grid(side: int) -> tuple[Floats, Floats]:
    """Return how far each pixel is below and right of the middle, in halves of a side."""
    line = (np.arange(side, dtype=np.float32) - np.float32((side - 1) / 2)) / np.float32(side / 2)
    return np.repeat(line, side), np.tile(line, side)


def _slopes(images: Floats) -> tuple[Floats, Floats]:
    down, right = np.zeros_like(images), np.zeros_like(images)
    down[:, 1:-1] = (images[:, 2:] - images[:, :-2]) / 2
    right[:, :, 1:-1] = (images[:, :, 2:] - images[:, :, :-2]) / 2
    return down, right


def _blurred(images: Floats, deviation_px: float) -> Floats:
    blurred: Floats = ndimage.gaussian_filter(images, (0, deviation_px, deviation_px), truncate=3)
    return blurred


def _levelled(images: Floats, side: int) -> Floats:
    """Return images without their slow changes, with the same contrast everywhere."""
    wide = max(3.0, 6 * side / SIDE_PX)
    detail = images - _blurred(images, wide)
    levelled: Floats = detail / np.sqrt(_blurred(detail * detail, wide) + np.float32(0.5))
    return levelled


def _band(images: Floats, band: tuple[float, float], scale: float) -> Floats:
    narrow, wide = (deviation * scale for deviation in band)
    return (_blurred(images, narrow) if narrow else images) - _blurred(images, wide)


def _tiled(images: Floats) -> Floats:
    """Return the tiles of all images, one after the other, as [tiles, pixels]."""
    side = images.shape[1] // _TILES
    tiles = images.reshape(len(images), _TILES, side, _TILES, side).transpose(0, 1, 3, 2, 4)
    return tiles.reshape(-1, side * side)


def _sum(rows: Floats) -> Floats:
    total: Floats = rows.sum(axis=1, keepdims=True)
    return total


def _centred(rows: Floats, weight: Floats) -> Floats:
    return rows - _sum(rows * weight) / (_sum(weight) + _TINY)


def _correlation(ours: Floats, theirs: Floats, weight: Floats) -> Floats:
    """Return the weighted correlation of each row of two arrays."""
    ours, theirs = _centred(ours, weight), _centred(theirs, weight)
    both = (weight * ours * theirs).sum(axis=1)
    norm = np.sqrt((weight * ours * ours).sum(axis=1) * (weight * theirs * theirs).sum(axis=1))
    result: Floats = both / (norm + _TINY)
    return result


def _deviation(rows: Floats, weight: Floats) -> Floats:
    centred = _centred(rows, weight)
    deviation: Floats = np.sqrt((weight * centred * centred).sum(axis=1) / (weight.sum(axis=1) + _TINY))
    return deviation
