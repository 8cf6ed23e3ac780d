"""One image file to one square of pixels: what is accepted, and exactly how it becomes grey, RGB or bands.

The rules never look at more than the image itself, so equal bytes give equal pixels in any data set:

- the content decides the format, not the name; JPEG, PNG, BMP, TIFF, WebP and GIF are read, nothing else is opened;
- of an animation or a multi-page file the first frame is taken, and that is recorded;
- the EXIF orientation is applied; damaged EXIF counts as none;
- what has more than 8 bits becomes 16, scaled by the full range of its type or by the range asked for (levels.py);
  1 bit becomes 0 or 255; 16-bit colour in a PNG is read as 8, which is all that Pillow has for it;
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

from thaw.data import needs, pixel_values, tiff, whole
from thaw.data.needs import MOST_BYTES_A_PIXEL
from thaw.data.pixel_values import Measured, Pixels, Ranges, UnusableError
from thaw.data.whole import FORMATS
from thaw.pipeline.data_facts import Range

__all__ = ["FORMATS", "Picture", "UnusableError", "decode", "from_array"]

_BITS_PER_SAMPLE_TAG, _ORIENTATION_TAG = 258, 274
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
    animated: bool
    """Whether the file holds further frames or pages."""
    measured: Measured | None = None
    """What its values were before they were scaled, if they were."""


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
) -> Picture:
    """Return the picture in a file's bytes as a square. Raises: UnusableError, with the reason."""
    frame = _Frame(size_px, fit, background, value_range)
    limit = Image.MAX_IMAGE_PIXELS
    try:
        # Pillow warns above its limit and raises only above twice as much; frames inside a file are held to it too.
        Image.MAX_IMAGE_PIXELS = int(max_megapixels * 1e6)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return _decode(data, frame, max_megapixels)
    except UnusableError:
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
    return _banded(values, full, _Frame(size_px, fit, background, value_range))


def _decode(data: bytes, frame: _Frame, max_megapixels: float) -> Picture:
    if not data:
        raise UnusableError("empty file")
    if tiff.holds_bands(data):
        bands = tiff.read(data, max_megapixels=max_megapixels)
        return _banded(bands.values, bands.full, frame, colour=bands.colour, animated=bands.animated)
    image, animated = whole.read(data, max_megapixels)
    squash, size = frame.fit != "crop", len(data)
    needs.check(needs.to_convert(image, size, turned=_is_turned(image), squash=squash), max_megapixels)
    _set_upright(image)
    width, height = image.size
    if (bits := _deep_bits(image)) is not None:
        values = np.asarray(image)[:, :, None]
        del image  # 2 bytes a pixel, of which the values are a copy
        return _banded(values, (0.0, 2.0**bits - 1), frame, animated=animated)
    image = _plain(image)
    square = _channels(_square(image, frame, frame.background), frame.background)
    if frame.asked is None:
        return Picture(_grey_if_equal(square), width, height, animated)
    ranges, measured = pixel_values.measure(square, (0.0, 255.0), frame.asked)
    planes = [
        pixel_values.scaled(plane, ends, square.dtype)
        for plane, ends in zip(np.moveaxis(square, 2, 0), ranges, strict=True)
    ]
    pixels = pixel_values.rounded(np.stack(planes, axis=2), square.dtype)
    return Picture(_grey_if_equal(pixels), width, height, animated, measured)


def _banded(
    values: NDArray[Any],
    full: Range | None,
    frame: _Frame,
    *,
    colour: bool = False,
    animated: bool = False,
) -> Picture:
    """Return the picture of [height, width, channels] of any type: 8 bits stay 8, whatever has more becomes 16."""
    height, width, channels = values.shape
    dtype: np.dtype[Any] = np.dtype(np.uint8 if values.dtype == np.uint8 else np.uint16)
    top, measured = int(np.iinfo(dtype).max), None
    ranges: Sequence[Range | None] = [None] * channels
    if frame.asked is not None or full != (0.0, 255.0):
        ranges, measured = pixel_values.measure(values, full, frame.asked)
    background = frame.background * top // 255
    squares = [
        np.asarray(_square(_as_image(plane, ends, dtype), frame, background), dtype=np.float32)
        for plane, ends in zip(np.moveaxis(values, 2, 0), ranges, strict=True)
    ]
    pixels = pixel_values.rounded(np.stack(squares, axis=2), dtype)
    return Picture(_grey_if_equal(pixels) if colour else pixels, width, height, animated, measured)


def _as_image(plane: NDArray[Any], ends: Range | None, dtype: np.dtype[Any]) -> Image.Image:
    """Return [height, width] as an image of floats, scaled from a range strip by strip; of bytes if there is none."""
    if ends is None:
        return Image.fromarray(np.ascontiguousarray(plane))
    image, row = Image.new("F", (plane.shape[1], plane.shape[0])), 0
    for strip in pixel_values.strips(plane):
        image.paste(Image.fromarray(pixel_values.scaled(strip, ends, dtype)), (0, row))
        row += len(strip)
    return image


def _deep_bits(image: Image.Image) -> int | None:
    """Return how many bits a grey image has, if they are more than 8."""
    if image.mode.startswith("I;16"):
        return int(image.tag_v2.get(_BITS_PER_SAMPLE_TAG, (16,))[0]) if hasattr(image, "tag_v2") else 16
    return 16 if image.mode == "I" and image.format == "PNG" else None  # in older versions of Pillow


def _grey_if_equal(pixels: Pixels) -> Pixels:
    """Return one channel of an RGB image in which all are equal."""
    return pixels[:, :, :1] if pixels.shape[2] > 1 and bool((pixels[:, :, :1] == pixels).all()) else pixels


def _is_turned(image: Image.Image) -> bool:
    """Tell whether an image is stored in another orientation than it is shown in."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1)) != 1
    except Exception:  # noqa: BLE001 - damaged EXIF, which counts as none
        return False


def _set_upright(image: Image.Image) -> None:
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001, S110 - damaged EXIF; the pixels are fine
        pass


def _plain(image: Image.Image) -> Image.Image:
    """Return an image of 8 bits or fewer in mode L, RGB or RGBA."""
    if image.mode in ("I", "F"):
        raise UnusableError("32-bit pixels have no known range; convert the image to 8 or 16 bits")
    if image.mode == "RGBA":
        return image
    if image.mode in ("LA", "La", "PA", "RGBa") or "transparency" in image.info:
        return image.convert("RGBA")
    if image.mode in ("L", "RGB"):
        return image  # `convert` would copy it
    return image.convert("L" if image.mode == "1" else "RGB")


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


def _channels(square: Image.Image, background: int) -> NDArray[np.uint8]:
    if square.mode == "RGBA":
        behind = Image.new("RGBA", square.size, (background, background, background, 255))
        square = Image.alpha_composite(behind, square).convert("RGB")
    pixels = np.asarray(square)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


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
