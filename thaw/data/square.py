"""A user's image as the square of pixels that a model's views are made from, the same way `prepare` makes it."""

import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from thaw.data import needs, pixel_values
from thaw.data.decoding import Picture, UnusableError, decode, from_array, read_regular
from thaw.data.pixel_values import Pixels
from thaw.data.places import Member
from thaw.errors import DataError
from thaw.pipeline.bounded import Bounded, Lost
from thaw.pipeline.data_facts import Preprocessing

Image = Path | str | bytes | Pixels | Member

_DECODING = threading.Lock()  # Pillow's pixel limit and Python's warning filters belong to the whole process


def read_square(image: Image, settings: Preprocessing, *, channels: int) -> Pixels:
    """Return an image as the square [size_px, size_px, channels], uint8 or what the model learned from.

    An image is a path, the bytes of a file, a file of an archive, or an array [height, width, channels] of uint8 or
    uint16. `settings` are
    those that the data were prepared with.
    Raises: DataError with the reason why it cannot be used.
    """
    try:
        pixels, dtype = _picture(image, settings).pixels, np.dtype(settings.pixel_type)
        if pixels.dtype != dtype and settings.value_range is not None:
            raise UnusableError(
                f"it has {8 * pixels.itemsize} bits, but the model learned prepare.value_range from images of "
                f"{8 * dtype.itemsize} bits"
            )
        return pixel_values.as_channels(pixel_values.as_depth(pixels, dtype), channels)
    except UnusableError as error:
        raise DataError(f"{_name(image)} cannot be used: {error}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{_name(image)} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def reading(settings: Preprocessing, *, channels: int) -> Bounded[Image, Pixels | str]:
    """Return a process that reads images as `read_square` does, for a context: each becomes a square, or a reason.

    It may die of an image; `square_of` says then what becomes of that.
    """
    return Bounded(partial(_square_or_reason, settings, channels), needs.bounds(settings.max_megapixels))


def square_of(image: Image, found: Pixels | str | Lost) -> Pixels:
    """Return what a process of `reading` made of an image. Raises: DataError with the reason if that is no square."""
    if isinstance(found, Lost):
        raise DataError(f"{_name(image)} cannot be used: {found.reason}")
    if isinstance(found, str):
        raise DataError(found)
    return found


def _square_or_reason(settings: Preprocessing, channels: int, image: Image) -> Pixels | str:
    try:
        return read_square(image, settings, channels=channels)
    except DataError as error:
        return str(error)


def _picture(image: Any, settings: Preprocessing) -> Picture:
    ranges = settings.value_range
    size_px, fit, background = settings.size_px, settings.fit, settings.background
    if isinstance(image, np.ndarray):
        values = image[:, :, None] if image.ndim == 2 else image
        if image.dtype not in (np.uint8, np.uint16) or values.ndim != 3 or not image.size:
            raise DataError(
                f"an image array must be uint8 or uint16 [height, width, channels], not {image.dtype} "
                f"{list(image.shape)}"
            )
        return from_array(values, size_px=size_px, fit=fit, background=background, value_range=ranges)
    if not isinstance(image, Path | str | bytes | Member):
        raise DataError(f"an image must be a path, bytes, or an array of uint8 or uint16, not a {type(image).__name__}")
    most = settings.max_megapixels
    if isinstance(image, Member):
        data = image.read(most)
    else:
        data = image if isinstance(image, bytes) else read_regular(Path(image), most)
    with _DECODING:
        return decode(
            data,
            size_px=size_px,
            fit=fit,
            background=background,
            max_megapixels=most,
            value_range=ranges,
            plane="first" if settings.plane is None else settings.plane,
        )


def _name(image: Image) -> str:
    if isinstance(image, Path | str | Member):
        return str(image.path if isinstance(image, Member) else image)
    return "the image" if isinstance(image, bytes) else "an array"
