"""Pictures inside the page: thumbnails and heat maps as data URIs, and a limit on what they take."""

import base64
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from thaw.data.pixel_values import Pixels, as_shown

THUMB_PX = 160
LARGE_PX = 224
_QUALITY = 70
_HEAT_PX = 56
_COLD, _HOT = np.array([255, 176, 0]), np.array([255, 40, 0])
_MOST_OPAQUE = 0.72


def thumbnail(square: Pixels, side_px: int = THUMB_PX) -> str:
    """Return a packed image [height, width, channels] as the data URI of a WebP of at most side_px."""
    image = Image.fromarray(as_shown(square))
    image.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    return _uri(image, quality=_QUALITY, method=4)


def heat(places: NDArray[np.float32]) -> str:
    """Return a map [rows, columns] of 0 to 1 as the data URI of a transparent WebP to lay over its image."""
    grown = Image.fromarray(places.astype(np.float32)).resize((_HEAT_PX, _HEAT_PX), Image.Resampling.BICUBIC)
    level = np.clip(np.asarray(grown), 0, 1)[:, :, None]
    pixels = np.concatenate([_COLD + level * (_HOT - _COLD), 255 * _MOST_OPAQUE * level], axis=2)
    return _uri(Image.fromarray(np.rint(pixels).astype(np.uint8), "RGBA"), quality=80, method=4)


class Budget:
    """Characters that pictures may still take; a picture that would exceed them is left out."""

    def __init__(self, characters: int) -> None:
        self._left = characters

    def take(self, uri: str) -> bool:
        """Return whether there is room for this picture, and if so, count it."""
        if len(uri) > self._left:
            self._left = 0  # a smaller one later must not jump the queue: what is shown is the first so many
            return False
        self._left -= len(uri)
        return True


def _uri(image: Image.Image, **settings: int) -> str:
    buffer = BytesIO()
    image.save(buffer, "WEBP", **settings)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
