"""One image file to one square of pixels: what is accepted, and exactly how it becomes grey, RGB or bands.

The rules never look at more than the image itself, so equal bytes give equal pixels in any data set:

- the content decides the format, not the name; JPEG, PNG, BMP, TIFF, WebP, GIF, PNM, JPEG 2000, AVIF, HEIC and DICOM
  are read, nothing else is opened;
- of a stack (pages, frames) one plane is taken, or all are made one, as `plane` says, and that is recorded (stacks.py);
- the EXIF orientation is applied; damaged EXIF counts as none;
- what has more than 8 bits becomes 16, scaled by the full range of its type or by the range asked for
  (pixel_values.py); 1 bit becomes 0 or 255; 16-bit colour in a PNG is read as 8, which is all that Pillow has for it;
- the bands of a TIFF are channels, in the file's order (tiff.py);
- transparency is composited on the background, CMYK is converted without a colour profile;
- a file that lacks pixels is refused, whatever markers it has (whole.py); bytes after the end of a JPEG or PNG are
  ignored;
- a file whose header tells that it takes too much memory is refused before it is decoded (needs.py).
"""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from thaw.data import needs, pixel_values, plain, stacks
from thaw.data.needs import MOST_BYTES_A_PIXEL
from thaw.data.pixel_values import Bands, Measured, Pixels, Ranges, UnusableError
from thaw.data.stacks import Plane
from thaw.data.whole import FORMATS
from thaw.errors import ThawError
from thaw.pipeline.data_facts import Range

__all__ = ["FORMATS", "Picture", "Plane", "UnusableError", "decode", "from_array"]

_FILTER = Image.Resampling.LANCZOS

Fit = Literal["crop", "pad", "squash"]


@dataclass(frozen=True)
class Picture:
    """One decoded image."""

    pixels: Pixels
    """[size_px, size_px, channels], uint8 or uint16: one channel if the image is grey, three (RGB), or its bands."""
    width: int
    """Width of the upright original, in pixels."""
    height: int
    """Height of the upright original, in pixels."""
    planes: int = 1
    """How many pages or frames the file holds."""
    measured: Measured | None = None
    """What its values were before they were scaled, if they were."""
    notes: tuple[str, ...] = ()
    """What is worth knowing of the file, in words that are the same for files of a kind."""


@dataclass(frozen=True)
class _Frame:
    """The square that is asked for."""

    size_px: int
    fit: Fit
    background: int
    asked: Ranges | None


def decode(
    data: bytes,
    *,
    size_px: int,
    fit: Fit,
    background: int,
    max_megapixels: float,
    value_range: Ranges | None = None,
    plane: Plane = "first",
    compare_planes: bool = False,
) -> Picture:
    """Return the picture in a file's bytes as a square.

    With `compare_planes` the other planes of a stack are looked at where the one that is used is nearly empty.
    Raises: UnusableError, with the reason; MissingLibraryError if an extra that reads it is not installed.
    """
    frame = _Frame(size_px, fit, background, value_range)
    limit = Image.MAX_IMAGE_PIXELS
    try:
        # Pillow warns above its limit and raises only above twice as much; frames inside a file are held to it too.
        Image.MAX_IMAGE_PIXELS = int(max_megapixels * 1e6)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return _decode(data, frame, max_megapixels, plane, compare_planes)
    except (UnusableError, ThawError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UnusableError(f"claims more than {max_megapixels:g} million pixels (prepare.max_megapixels)") from None
    except MemoryError:
        raise UnusableError("does not fit into memory") from None
    except Exception as error:  # noqa: BLE001 - Pillow's decoders raise whatever a damaged file leads them to
        raise UnusableError(f"damaged or cut short: {' '.join(str(error).split()) or type(error).__name__}") from None
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def from_array(
    values: NDArray[Any], *, size_px: int, fit: Fit, background: int, value_range: Ranges | None = None
) -> Picture:
    """Return an array [height, width, channels] of uint8 or uint16 as a square. Raises: UnusableError."""
    full = pixel_values.full_range(values.dtype, 8 * values.dtype.itemsize)
    return _banded(Bands(values, full), _Frame(size_px, fit, background, value_range))


def _decode(data: bytes, frame: _Frame, max_megapixels: float, plane: Plane, compare: bool) -> Picture:
    if not data:
        raise UnusableError("empty file")
    chosen = stacks.choose(
        data,
        plane,
        max_megapixels=max_megapixels,
        asked=frame.asked,
        background=frame.background,
        compare=compare,
    )
    image, num, notes = chosen.found, chosen.num, chosen.notes
    del chosen
    if isinstance(image, Bands):
        return _banded(image, frame, num, notes)
    squash, size = frame.fit != "crop", len(data)
    needs.check(needs.to_convert(image, size, turned=plain.is_turned(image), squash=squash), max_megapixels)
    plain.set_upright(image)
    width, height = image.size
    if (full := plain.own_range(image)) is not None:
        values = np.asarray(image)[:, :, None]
        del image  # 2 bytes a pixel, of which the values are a copy
        return _banded(Bands(values, full), frame, num, notes)
    image = plain.in_8_bits(image)
    square = plain.channels_of(_square(image, frame, frame.background), frame.background)
    if frame.asked is None:
        return Picture(_grey_if_equal(square), width, height, num, None, notes)
    ranges, measured = pixel_values.measure(square, (0.0, 255.0), frame.asked)
    planes = [
        pixel_values.scaled(plane, ends, square.dtype)
        for plane, ends in zip(np.moveaxis(square, 2, 0), ranges, strict=True)
    ]
    pixels = pixel_values.rounded(np.stack(planes, axis=2), square.dtype)
    return Picture(_grey_if_equal(pixels), width, height, num, measured, notes)


def _banded(bands: Bands, frame: _Frame, num_planes: int = 1, notes: tuple[str, ...] = ()) -> Picture:
    """Return the picture of [height, width, channels] of any type: 8 bits stay 8, whatever has more becomes 16."""
    values = bands.values
    height, width, channels = values.shape
    dtype: np.dtype[Any] = np.dtype(np.uint8 if values.dtype == np.uint8 else np.uint16)
    top, measured = int(np.iinfo(dtype).max), None
    ranges: Sequence[Range | None] = [None] * channels
    if frame.asked is not None or bands.full != (0.0, 255.0) or values.dtype != np.uint8:
        ranges, measured = pixel_values.measure(values, bands.full, frame.asked)
    background = (255 - frame.background if bands.inverted else frame.background) * top // 255
    squares = [
        np.asarray(_square(_as_image(plane, ends, dtype), frame, background), dtype=np.float32)
        for plane, ends in zip(np.moveaxis(values, 2, 0), ranges, strict=True)
    ]
    pixels = pixel_values.rounded(np.stack(squares, axis=2), dtype)
    pixels = np.subtract(top, pixels, dtype=dtype) if bands.inverted else pixels
    pixels = _grey_if_equal(pixels) if bands.colour else pixels
    return Picture(pixels, width, height, num_planes, None if bands.as_shown else measured, notes)


def _as_image(plane: NDArray[Any], ends: Range | None, dtype: np.dtype[Any]) -> Image.Image:
    """Return [height, width] as an image of floats, scaled from a range strip by strip; of bytes if there is none."""
    if ends is None:
        return Image.fromarray(np.ascontiguousarray(plane))
    image, row = Image.new("F", (plane.shape[1], plane.shape[0])), 0
    for strip in pixel_values.strips(plane):
        image.paste(Image.fromarray(pixel_values.scaled(strip, ends, dtype)), (0, row))
        row += len(strip)
    return image


def _grey_if_equal(pixels: Pixels) -> Pixels:
    """Return one channel of an RGB image in which all are equal."""
    return pixels[:, :, :1] if pixels.shape[2] > 1 and bool((pixels[:, :, :1] == pixels).all()) else pixels


def _square(image: Image.Image, frame: _Frame, background: int) -> Image.Image:
    """Return the image at size_px by size_px, antialiased; `background` is a level of its own scale.

    `crop` takes the central square, `pad` keeps everything on a square of the background, `squash` drops the aspect.
    """
    size_px, fit = frame.size_px, frame.fit
    if fit == "crop":  # the box is cut before the resize: a 30000 by 2 image costs no memory
        return ImageOps.fit(image, (size_px, size_px), _FILTER)
    if fit == "squash":
        return image.resize((size_px, size_px), _FILTER)
    # Not ImageOps.pad: it loses a side that rounds to 0, and rounds half a pixel of the border to even.
    width, height = image.size
    scale = size_px / max(width, height)
    inner = image.resize((max(1, round(width * scale)), max(1, round(height * scale))), _FILTER)
    place = ((size_px - inner.width) // 2, (size_px - inner.height) // 2)
    levels: dict[str, int | tuple[int, ...]] = {
        "L": background,
        "F": background,
        "RGB": (background,) * 3,
        "RGBA": (background,) * 3 + (255,),
    }
    canvas = Image.new(image.mode, (size_px, size_px), levels[image.mode])
    canvas.paste(inner, place)
    return canvas


_MARGIN_BYTES = 2**24  # for metadata


def read_regular(path: Path, max_megapixels: float) -> bytes:
    """Return the bytes of a regular file that is no larger than an image of that many pixels can be.

    Raises: UnusableError for a file of another kind or a larger one, OSError for one that cannot be read.
    """
    if path.exists() and not path.is_file():
        raise UnusableError("not a regular file (a folder, pipe, socket or device)")
    most_bytes = round(max_megapixels * 1e6 * MOST_BYTES_A_PIXEL) + _MARGIN_BYTES
    # Non-blocking: should a pipe have taken the file's place meanwhile, opening it must not wait for a writer.
    with os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
        if os.fstat(file.fileno()).st_size > most_bytes:
            raise UnusableError(f"larger than {most_bytes} bytes, which prepare.max_megapixels cannot need")
        return file.read(most_bytes)
