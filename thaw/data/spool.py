"""Decoded images and their looks on disk, until it is known which are kept, and what they have in common."""

import os
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from thaw.data.looks import SIDE_PX, Look, Looks
from thaw.data.pixel_values import Pixels, as_channels, as_depth
from thaw.errors import ArtifactError

_LOOK_BYTES = SIDE_PX**2
_DAMAGED = "decoded images are not what was written to disk; see to the disk, then run `dvc repro` again"


class DamagedError(ArtifactError):
    """What is kept on disk from an earlier run is not what was written."""


@dataclass(frozen=True)
class Place:
    """Where an image lies in a spool, and what it is."""

    start: int
    """In bytes; the look follows the pixels."""
    channels: int
    dtype: str
    """Of the pixels: uint8 or uint16."""
    crc: int
    """CRC-32 of the pixels."""
    look_crc: int | None = None
    """CRC-32 of the look; None where there is none."""


class Spool:
    """Images [height, width, channels], uint8 or uint16, in a file; only one is in memory at a time."""

    def __init__(self, file: BinaryIO, size_px: int) -> None:
        self._file = file
        self._size_px = size_px
        self._places: list[Place] = []
        self._end = 0

    def append(self, image: Pixels, look: Look | None = None) -> int:
        """Store the next image, with its look if that is asked for later, and return its number."""
        start = self._file.seek(self._end)
        pixels = np.ascontiguousarray(image).data
        self._end += self._file.write(pixels)
        look_crc = None
        if look is not None:
            seen = np.ascontiguousarray(look).data
            self._end += self._file.write(seen)
            look_crc = zlib.crc32(seen)
        self._places.append(Place(start, image.shape[2], image.dtype.name, zlib.crc32(pixels), look_crc))
        return len(self._places) - 1

    def adopt(self, place: Place) -> int:
        """Take up an image that is in the file already, and return its number. Raises: DamagedError if it is not."""
        end = place.start + self._pixel_bytes(place) + (0 if place.look_crc is None else _LOOK_BYTES)
        if end > self._file.seek(0, os.SEEK_END):
            raise DamagedError(_DAMAGED)
        self._end = max(self._end, end)
        self._places.append(place)
        return len(self._places) - 1

    def _pixel_bytes(self, place: Place) -> int:
        return self._size_px**2 * place.channels * np.dtype(place.dtype).itemsize

    def kind(self, number: int) -> tuple[int, np.dtype[Any]]:
        """Return the number of channels of an image, and the type of its pixels."""
        place = self._places[number]
        return place.channels, np.dtype(place.dtype)

    def num_channels(self, numbers: Iterable[int]) -> int:
        """Return the largest number of channels of these images: 3 if any of grey and colour is in colour."""
        return max((self._places[number].channels for number in numbers), default=1)

    def dtype(self, numbers: Iterable[int]) -> np.dtype[Any]:
        """Return uint16 if any of these images has 16 bits, else uint8."""
        names = {self._places[number].dtype for number in numbers}
        return np.dtype("uint16" if "uint16" in names else "uint8")

    def read(self, number: int, num_channels: int, dtype: np.dtype[Any]) -> Pixels:
        """Return one image in that type, grey repeated if `num_channels` is 3. Raises: DamagedError."""
        place = self._places[number]
        own = np.dtype(place.dtype)
        self._file.seek(place.start)
        data = self._file.read(self._pixel_bytes(place))
        if zlib.crc32(data) != place.crc:
            raise DamagedError(_DAMAGED)
        image = as_depth(np.frombuffer(data, own).reshape(self._size_px, self._size_px, place.channels), dtype)
        return as_channels(image, num_channels)

    def looks(self, numbers: NDArray[np.int64]) -> Looks:
        """Return the looks of these images; several threads may ask at once. Raises: DamagedError."""
        self._file.flush()
        found = np.empty((len(numbers), SIDE_PX, SIDE_PX), np.uint8)
        for row, number in enumerate(numbers.tolist()):
            place = self._places[number]
            data = os.pread(self._file.fileno(), _LOOK_BYTES, place.start + self._pixel_bytes(place))
            if zlib.crc32(data) != place.look_crc:
                raise DamagedError(_DAMAGED)
            found[row] = np.frombuffer(data, np.uint8).reshape(SIDE_PX, SIDE_PX)
        return found
