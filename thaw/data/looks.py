"""An image's look: a small grey square without the even borders around it, by which copies of an image are found."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from thaw.data.pixel_values import Pixels

Look = NDArray[np.uint8]
"""[SIDE_PX, SIDE_PX]."""
Looks = NDArray[np.uint8]
"""[looks, SIDE_PX, SIDE_PX]."""

SIDE_PX = 128
"""Copies of alike images are told apart by details that 64 pixels do not show, and 256 show no better."""

_EVEN = 10  # grey levels within a line of a border: compression leaves as much
_SAME = 4  # grey levels between the lines of a border
_MOST_BORDER = 0.3  # of a side
_STEP = 8  # grey levels between a border and the picture
_FRAMES = 0.5  # share of a border's length at which the picture must begin: an object on a white ground has no border


def look(image: Pixels) -> Look:
    """Return the look of a square [height, width, channels] of uint8 or uint16."""
    # Not a matrix product: BLAS would start its own threads in every decoding process.
    grey = image.mean(axis=2, dtype=np.float32) if image.shape[2] > 1 else image[:, :, 0].astype(np.float32)
    if image.dtype != np.uint8:  # 16-bit images use few of their levels
        low, high = float(grey.min()), float(grey.max())
        grey = (grey - low) * (255 / max(high - low, 1))
    picture = Image.fromarray(_without_border(np.rint(grey).astype(np.uint8)))
    return np.asarray(picture.resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS))


def _without_border(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the square in the middle of what lies within the borders; two borders, one in the other, are found."""
    for _ in range(2):
        top, bottom, left, right = (_border(lines) for lines in (grey, grey[::-1], grey.T, grey.T[::-1]))
        grey = grey[top : len(grey) - bottom, left : grey.shape[1] - right]
    side = min(grey.shape)
    top, left = (grey.shape[0] - side) // 2, (grey.shape[1] - side) // 2
    return grey[top : top + side, left : left + side]


def _border(lines: NDArray[np.uint8]) -> int:
    """Return how many of the first lines are a border: even, all alike, and unlike most of what follows."""
    most = int(_MOST_BORDER * len(lines))
    first = lines[: most + 1]
    middle = np.median(first, axis=1)
    even = (np.ptp(first, axis=1) <= _EVEN) & (np.abs(middle - middle[0]) <= _SAME)
    if even.all() or not even[0]:
        return 0
    thickness = int(np.argmin(even))
    beyond = lines[thickness + 1].astype(np.int64)  # the line between is of both
    return thickness + 1 if np.mean(np.abs(beyond - middle[0]) > _STEP) > _FRAMES else 0
