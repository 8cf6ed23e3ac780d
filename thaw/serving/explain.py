"""Heat maps over an image, and the covered copies of it that show where a network looks."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from thaw.data.pixel_values import Pixels, as_shown

# Covered squares of a quarter of the side, so far apart that they overlap by half: 7 by 7 of them.
_PATCHES = 7
_PATCH_SHARE = 4

# The colours of the heat 0, 1/2 and 1, in RGB, and how much of the image the hottest hides.
_COLOURS = np.array([[255, 237, 160], [253, 141, 60], [189, 0, 38]], np.float64)
_HIDES = 0.6


def overlay(square: Pixels, heat: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return an image [size_px, size_px, channels] in RGB with a heat map [rows, columns] of 0 to 1 laid over it.

    Where the heat is 0, the image is as it was.
    """
    side_px = square.shape[0]
    grid = Image.fromarray(heat.astype(np.float32))
    smooth = np.asarray(grid.resize((side_px, side_px), Image.Resampling.BILINEAR), np.float64).clip(0, 1)[..., None]
    steps = np.linspace(0, 1, len(_COLOURS))
    colours = np.concatenate([np.interp(smooth, steps, channel) for channel in _COLOURS.T], axis=2)
    pixels = as_shown(square)
    share = _HIDES * smooth
    mixed: NDArray[np.uint8] = np.rint((1 - share) * pixels + share * colours).astype(np.uint8)
    return mixed


def patch_places(side_px: int) -> list[tuple[slice, slice]]:
    """Return the rows and columns of 7 by 7 patches of a quarter of the side, row by row, which overlap by half."""
    patch = max(1, side_px // _PATCH_SHARE)
    starts = np.linspace(0, side_px - patch, _PATCHES).round().astype(int).tolist()
    spans = [slice(start, start + patch) for start in starts]
    return [(rows, columns) for rows in spans for columns in spans]


def occluded(square: Pixels, places: list[tuple[slice, slice]]) -> Pixels:
    """Return a copy of an image for each place, the place covered with the image's mean colour."""
    copies = np.repeat(square[None], len(places), axis=0)
    colour = np.rint(square.mean(axis=(0, 1)))
    for copy, (rows, columns) in zip(copies, places, strict=True):
        copy[rows, columns] = colour
    return copies
