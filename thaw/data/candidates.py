"""Which images may be copies of each other: a few for each image, by directions in which copies differ little.

A look of 16 by 16 values is projected on directions that count by how much the images of this data set differ in them,
compared with how much a copy differs from its original (a linear discriminant analysis, Fisher 1936, of made copies:
turned a little, moved, scaled, partly covered). Busbars that all solar cells have count for nothing then, and neither
does a shift of what all have in common. No direction is left out, and the copy of an image depends on that image alone:
where an image is added, the candidates of the others stay almost the same, so that little is compared anew. The nearest
by angle, in any of the eight orientations of a square, are the candidates.

Each image is compared with all others up to some thousands of images. Beyond, images are put into cells by the nearest
of some centres, and each is compared with those of the cells that are nearest to it (an inverted file, Jégou et al.
2011, "Product quantization for nearest neighbor search", section 4): time grows with the power 1.5 of the images.
"""

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy import ndimage
from threadpoolctl import threadpool_limits

from thaw.data.looks import Look
from thaw.progress import progress

Floats = NDArray[np.float32]
Halves = NDArray[np.float16]
Numbers = NDArray[np.int64]

NUM_ORIENTATIONS = 8
THUMB_PX = 16
_FITTED_PX = 64  # what copies are made of
_NUM_FITTED = 600  # images; more do not change what is found
_NEIGHBOURS = 10  # of planted copies 99 % have their original among these, or are among its
_LEAST_COSINE = 0.35
_RIDGE = 0.02
_LEAST_CONTRAST = 1e-3
_PROJECTED = 8192  # images or pairs at once
_MOST_COSINES = 2**24  # at once, so that memory does not grow with the images
_ALL = 10_000  # images that are compared with all others
_FITTED_A_CENTRE, _ROUNDS = 40, 5  # images that a centre is the mean of, and rounds of k-means
_CELLS = 8  # of an orientation of an image that are looked into: those of the nearest centres

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


def find(thumbs: Floats, order: Numbers, read: Callable[[Numbers], NDArray[np.uint8]], *, most: int = _ALL) -> Pairs:
    """Return the pairs of images that may be copies, each once, in order of their positions.

    `thumbs` are the looks [images, 16, 16], `read` returns the looks of some positions, and `order` says of which
    positions copies are made first: the same for the same images, however they are listed. Above `most` images an image
    is compared with those of the cells near it alone.
    """
    if len(thumbs) < 2:
        return Pairs(*np.zeros((3, 0), np.int64))
    project = _directions(reduced(read(order[:_NUM_FITTED]), _FITTED_PX))
    turns = [_projected(project, thumbs, number) for number in range(NUM_ORIENTATIONS)]
    nearest = _Nearest(turns)
    if len(thumbs) <= most:
        everyone = np.arange(len(thumbs))
        nearest.look_at(everyone, [everyone] * NUM_ORIENTATIONS)
    else:
        centres = _centres(turns[0][order])
        cell = _cells_near(turns[0], centres, 1)[:, 0]
        near = [_cells_near(turn, centres, _CELLS) for turn in turns]
        members, visitors = _by_cell(cell[:, None]), [_by_cell(cells) for cells in near]
        for number in progress(range(len(centres)), total=len(centres), label="prepare: alike images"):
            if number in members:
                nothing = np.zeros(0, np.int64)
                nearest.look_at(members[number], [found.get(number, nothing) for found in visitors])
    return nearest.pairs()


def _projected(project: Callable[[Floats], Floats], thumbs: Floats, orientation: int) -> Halves:
    """Return the projections of thumbs in one orientation, made a part at a time, in half the memory."""
    parts = [thumbs[at : at + _PROJECTED] for at in range(0, len(thumbs), _PROJECTED)]
    return np.concatenate([
        project(np.ascontiguousarray(turned(part, orientation))).astype(np.float16) for part in parts
    ])  # fmt: skip


class _Nearest:
    """The images nearest to each image among those that it has been compared with, in any orientation."""

    def __init__(self, turns: Sequence[Halves]) -> None:
        """Take the projections [images, directions] of each orientation, the first one being the images as they are."""
        self._turns = turns
        num_images = len(turns[0])
        self._cosines = np.full((num_images, _NEIGHBOURS), -1, np.float32)
        self._others = np.full((num_images, _NEIGHBOURS), -1, np.int64)

    def look_at(self, members: Numbers, visitors: Sequence[Numbers]) -> None:
        """Compare images as they are, each looked at once, with those that visit them in each orientation."""
        images = np.concatenate(visitors)
        by_image = np.argsort(images, kind="stable")
        orientations = np.repeat(np.arange(len(visitors)), [len(those) for those in visitors])[by_image]
        visiting, firsts = np.unique(images[by_image], return_index=True)
        own = _wide(self._turns[0][members]).T
        rows_at_once = max(1, _MOST_COSINES // (len(self._turns) * len(members)))
        for start in range(0, len(visiting), rows_at_once):
            rows, starts = (part[start : start + rows_at_once] for part in (visiting, firsts))
            end = firsts[start + rows_at_once] if start + rows_at_once < len(firsts) else len(images)
            seen, turns = images[by_image[starts[0] : end]], orientations[starts[0] : end]
            vectors = np.empty((len(seen), len(own)), np.float32)
            for number, turn in enumerate(self._turns):
                vectors[turns == number] = turn[seen[turns == number]]
            cosines = np.maximum.reduceat(vectors @ own, starts - starts[0], axis=0)
            cosines[rows[:, None] == members] = -1  # an image is no copy of itself
            nearer = cosines.max(axis=1) > np.maximum(self._cosines[rows].min(axis=1), _LEAST_COSINE)
            if nearer.any():
                self._keep(rows[nearer], cosines[nearer], members)

    def _keep(self, rows: Numbers, cosines: Floats, members: Numbers) -> None:
        """Keep the nearest of what is known of these rows and of these members."""
        most = min(_NEIGHBOURS, len(members))
        best = np.argpartition(-cosines, most - 1, axis=1)[:, :most]
        found = np.concatenate([self._cosines[rows], np.take_along_axis(cosines, best, 1)], axis=1)
        others = np.concatenate([self._others[rows], members[best]], axis=1)
        kept = np.argpartition(-found, _NEIGHBOURS - 1, axis=1)[:, :_NEIGHBOURS]
        self._cosines[rows] = np.take_along_axis(found, kept, 1)
        self._others[rows] = np.take_along_axis(others, kept, 1)

    def pairs(self) -> Pairs:
        """Return the pairs that are near enough, the orientation of each being that of its greater cosine."""
        rows, ranks = np.nonzero(self._cosines >= _LEAST_COSINE)
        others = self._others[rows, ranks]
        of_pair = np.empty((len(rows), NUM_ORIENTATIONS), np.float32)
        for start in range(0, len(rows), _PROJECTED):
            part = slice(start, start + _PROJECTED)
            own = _wide(self._turns[0][others[part]])
            for number, turn in enumerate(self._turns):
                of_pair[part, number] = np.einsum("nd,nd->n", _wide(turn[rows[part]]), own)
        greatest = of_pair.max(axis=1, initial=-1)
        ends = np.sort(np.stack([rows, others], axis=1), axis=1)
        by_pair = np.lexsort((rows, -greatest, ends[:, 1], ends[:, 0]))
        ends = ends[by_pair]
        first = np.ones(len(ends), bool)
        first[1:] = (ends[1:] != ends[:-1]).any(axis=1)
        chosen = by_pair[first]
        return Pairs(rows[chosen], others[chosen], of_pair[chosen].argmax(axis=1))


def _wide(projected: Halves | Floats) -> Floats:
    return projected.astype(np.float32)


def _centres(projected: Halves) -> Floats:
    """Return as many centres, of length 1, as the root of the number of images, by k-means on the first in their order.

    On one thread, so that no digit depends on how many there are.
    """
    from sklearn.cluster import KMeans  # a second to import, and few data sets are so large

    number = math.isqrt(len(projected))
    fitted = _wide(projected[: _FITTED_A_CENTRE * number])
    with threadpool_limits(1):
        found = KMeans(number, init=fitted[:number], n_init=1, max_iter=_ROUNDS, tol=0).fit(fitted).cluster_centers_
    centres: Floats = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), np.float32(1e-12))
    return centres


def _cells_near(projected: Halves | Floats, centres: Floats, most: int) -> Numbers:
    """Return the numbers [images, most] of the centres that are nearest to each image."""
    rows_at_once = max(1, _MOST_COSINES // len(centres))
    parts = (_wide(projected[at : at + rows_at_once]) @ centres.T for at in range(0, len(projected), rows_at_once))
    return np.concatenate([np.argpartition(-part, most - 1, axis=1)[:, :most] for part in parts])


def _by_cell(cells: Numbers) -> dict[int, Numbers]:
    """Return the images [ascending] of each cell, for the cells [images, most] of each image."""
    flat = cells.ravel()
    order = np.argsort(flat, kind="stable")
    numbers, starts = np.unique(flat[order], return_index=True)
    images = order // cells.shape[1]
    return dict(zip(numbers.tolist(), np.split(images, starts[1:]), strict=True))


def _directions(images: Floats) -> Callable[[Floats], Floats]:
    """Return what projects thumbs [images, 16, 16] on the directions, by their weight, each then of length 1."""
    plain, changes = [], []
    for orientation in range(NUM_ORIENTATIONS):
        seen = np.ascontiguousarray(turned(images, orientation))
        one = _normalised(reduced(seen, THUMB_PX))
        plain.append(one)
        copies = np.stack([_copy(image, np.random.default_rng(zlib.crc32(image))) for image in seen])
        changes.append(_normalised(reduced(copies, THUMB_PX)) - one)
    looks, differences = np.concatenate(plain).astype(np.float64), np.concatenate(changes).astype(np.float64)
    mean = looks.mean(axis=0)
    between = (looks - mean).T @ (looks - mean) / len(looks)
    within = differences.T @ differences / len(differences)
    within += (_RIDGE * np.trace(within) / len(within) + 1e-9) * np.eye(len(within))
    power, found = scipy.linalg.eigh(between, within)
    power = power.clip(0)
    centre, directions = mean.astype(np.float32), (found * np.sqrt(power / (1 + power))).astype(np.float32)

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
