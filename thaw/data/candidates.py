"""Which images may be copies of each other: a few for each image, by directions in which copies differ little.

A look of 16 by 16 values is projected on the directions in which the images of this data set differ most, compared with
how much a copy differs from its original (a linear discriminant analysis, Fisher 1936, of made copies: turned a little,
moved, scaled, partly covered). Busbars that all solar cells have count for nothing then, and neither does a shift of
what all have in common. The nearest by angle, in any of the eight orientations of a square, are the candidates.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy import ndimage

from thaw.data.looks import Look

Floats = NDArray[np.float32]
Numbers = NDArray[np.int64]

NUM_ORIENTATIONS = 8
THUMB_PX = 16
_FITTED_PX = 64  # what copies are made of
_NUM_FITTED = 600  # images; more do not change what is found
_NUM_DIRECTIONS = 128
_NEIGHBOURS = 10  # of planted copies 99 % have their original among these, or are among its
_LEAST_COSINE = 0.35
_RIDGE = 0.02
_LEAST_CONTRAST = 1e-3
_MOST_ROWS, _MOST_COSINES = 1024, 2**24  # at once, so that memory does not grow with the images

# How much a made copy differs from its image.
_TURN_DEGREES, _LOG_SCALE, _SHIFT = 4.0, 0.12, 0.02
_COVERED = 0.5  # share of the copies of which a part is covered


@dataclass(frozen=True)
class Pairs:
    """Pairs of images that may be copies."""

    first: Numbers
    """[pairs]: positions of the one image; what follows compares it once it is turned by `orientation`."""
    second: Numbers
    """[pairs]: positions of the other."""
    orientation: Numbers
    """[pairs]: 0 to 7, as in `turned`."""

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, chosen: slice | NDArray[np.bool_] | Numbers) -> "Pairs":
        return Pairs(self.first[chosen], self.second[chosen], self.orientation[chosen])


def turned(images: NDArray[np.generic], orientation: int) -> NDArray[np.generic]:
    """Return squares [..., height, width] in one of eight orientations: quarter turns, from 4 on mirrored."""
    seen = images[..., ::-1] if orientation >= NUM_ORIENTATIONS // 2 else images
    return np.rot90(seen, orientation % (NUM_ORIENTATIONS // 2), (-2, -1))


def reduced(images: NDArray[np.generic], side_px: int) -> Floats:
    """Return squares [images, height, width] made smaller by means over blocks of pixels."""
    block = images.shape[-1] // side_px
    shape = (len(images), side_px, block, side_px, block)
    means: Floats = images.reshape(shape).mean(axis=(2, 4), dtype=np.float32)
    return means


def find(thumbs: Floats, order: Numbers, read: Callable[[Numbers], NDArray[np.uint8]]) -> Pairs:
    """Return the pairs of images that may be copies, each once, in order of their positions.

    `thumbs` are the looks [images, 16, 16], `read` returns the looks of some positions, and `order` says of which
    positions copies are made first: the same for the same images, however they are listed.
    """
    best: dict[tuple[int, int], tuple[float, int, int, int]] = {}
    if len(thumbs) > 1:
        project = _directions(reduced(read(order[:_NUM_FITTED]), _FITTED_PX))
        own = project(thumbs)
        rows_at_once = max(1, min(_MOST_ROWS, _MOST_COSINES // len(thumbs)))
        for start in range(0, len(thumbs), rows_at_once):
            for cosine, one, other, orientation in _nearest(project, thumbs, own, start, start + rows_at_once):
                key = (min(one, other), max(one, other))
                if key not in best or cosine > best[key][0]:
                    best[key] = (cosine, one, other, orientation)
    found = np.array([best[key][1:] for key in sorted(best)], np.int64).reshape(-1, 3)
    return Pairs(found[:, 0], found[:, 1], found[:, 2])


def _nearest(
    project: Callable[[Floats], Floats], thumbs: Floats, own: Floats, start: int, end: int
) -> Iterator[tuple[float, int, int, int]]:
    """Yield cosine, position, other position and orientation of the images nearest to each of those in a range."""
    turns = [project(np.ascontiguousarray(turned(thumbs[start:end], number))) for number in range(NUM_ORIENTATIONS)]
    cosines = turns[0] @ own.T
    for seen in turns[1:]:
        np.maximum(cosines, seen @ own.T, out=cosines)
    rows = np.arange(len(cosines))
    cosines[rows, start + rows] = -1
    most = min(_NEIGHBOURS, len(thumbs) - 1)
    nearest = np.argpartition(-cosines, most - 1, axis=1)[:, :most]
    in_each_turn = np.einsum("trd,rnd->rnt", np.stack(turns), own[nearest])
    for row, (others, values) in enumerate(zip(nearest.tolist(), in_each_turn, strict=True)):
        for other, cosine, orientation in zip(others, values.max(axis=1), values.argmax(axis=1), strict=True):
            if cosine >= _LEAST_COSINE:
                yield float(cosine), start + row, other, int(orientation)


def _directions(images: Floats) -> Callable[[Floats], Floats]:
    """Return what projects thumbs [images, 16, 16] on the directions, each then of length 1."""
    draws = np.random.default_rng(0)
    plain, changes = [], []
    for orientation in range(NUM_ORIENTATIONS):
        seen = np.ascontiguousarray(turned(images, orientation))
        one = _normalised(reduced(seen, THUMB_PX))
        plain.append(one)
        changes.append(_normalised(reduced(np.stack([_copy(image, draws) for image in seen]), THUMB_PX)) - one)
    looks, differences = np.concatenate(plain).astype(np.float64), np.concatenate(changes).astype(np.float64)
    mean = looks.mean(axis=0)
    between = (looks - mean).T @ (looks - mean) / len(looks)
    within = differences.T @ differences / len(differences)
    within += (_RIDGE * np.trace(within) / len(within) + 1e-9) * np.eye(len(within))
    last = len(between) - 1
    _, found = scipy.linalg.eigh(between, within, subset_by_index=[last + 1 - _NUM_DIRECTIONS, last])
    centre, directions = mean.astype(np.float32), found.astype(np.float32)

    def project(thumbs: Floats) -> Floats:
        seen: Floats = (_normalised(thumbs) - centre) @ directions
        seen /= np.maximum(np.linalg.norm(seen, axis=1, keepdims=True), np.float32(1e-12))
        return seen

    return project


def _normalised(thumbs: Floats) -> Floats:
    """Return thumbs as rows [images, pixels] of mean 0 and length 1; one that is all even has length 0."""
    rows = thumbs.reshape(len(thumbs), -1)
    rows = rows - rows.mean(axis=1, keepdims=True)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    result: Floats = rows / (length + np.float32(_LEAST_CONTRAST * np.sqrt(rows.shape[1])))
    return result


def _copy(image: Floats, draws: np.random.Generator) -> Floats:
    """Return an image as a copy of it may be: turned a little, scaled, moved, a part of it covered."""
    side = len(image)
    angle, scale = (
        np.deg2rad(draws.uniform(-_TURN_DEGREES, _TURN_DEGREES)),
        np.exp(draws.uniform(-_LOG_SCALE, _LOG_SCALE)),
    )
    matrix = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = np.full(2, (side - 1) / 2)
    shift = middle - matrix @ middle + draws.uniform(-_SHIFT, _SHIFT, 2) * side
    copy: Floats = ndimage.affine_transform(image, matrix, shift, order=1, mode="nearest")
    if draws.random() < _COVERED:
        height, width = draws.integers(side // 10, side // 4, 2)
        top, left = draws.integers(0, side - height), draws.integers(0, side - width)
        copy[top : top + height, left : left + width] = draws.integers(0, 255)
    return copy


def thumb(look: Look) -> Floats:
    """Return a look [128, 128] as a thumb [16, 16]."""
    small: Floats = reduced(look[None], THUMB_PX)[0]
    return small
