"""One image file to one square of pixels: what is accepted, and exactly how it becomes 8-bit grey or RGB.

The rules never look at more than the image itself, so equal bytes give equal pixels in any data set:

- the content decides the format, not the name; JPEG, PNG, BMP, TIFF, WebP and GIF are read, nothing else is opened;
- of an animation or a multi-page file the first frame is taken, and that is recorded;
- the EXIF orientation is applied; damaged EXIF counts as none;
- integers of 9 to 16 bits are scaled by the full range of their type (65535 becomes 255), floats from 0 to 1 are
  multiplied by 255, and 1 bit becomes 0 or 255; floats outside 0 to 1 and 32-bit integers have no known range and are
  refused rather than clipped;
- transparency is composited on the background, CMYK is converted without a colour profile;
- a file cut short is refused; bytes after the end of a JPEG or PNG are ignored.
"""

import re
import warnings
from dataclasses import dataclass
from io import BytesIO
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF")

# EXIF orientation (tag 274) to what undoes it: EXIF 2.32, section 4.6.4.
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BITS_PER_SAMPLE_TAG = 258
_FILTER = Image.Resampling.LANCZOS


class UnusableError(Exception):
    """A file that cannot become a sample; its text is the reason for rejected.csv."""


@dataclass(frozen=True)
class Picture:
    """One decoded image."""

    pixels: NDArray[np.uint8]
    """[size_px, size_px, channels]: one channel if the image is grey, else three (RGB)."""
    width: int
    """Width of the upright original, in pixels."""
    height: int
    """Height of the upright original, in pixels."""
    animated: bool
    """Whether the file holds further frames or pages."""


def decode(
    data: bytes, *, size_px: int, fit: Literal["crop", "pad", "squash"], background: int, max_megapixels: float
) -> Picture:
    """Return the picture in a file's bytes as a square. Raises: UnusableError, with the reason."""
    limit = Image.MAX_IMAGE_PIXELS
    try:
        # Pillow warns above its limit and raises only above twice as much; frames inside a file are held to it too.
        Image.MAX_IMAGE_PIXELS = int(max_megapixels * 1e6)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return _decode(data, size_px, fit, background)
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


def _decode(data: bytes, size_px: int, fit: str, background: int) -> Picture:
    if not data:
        raise UnusableError("empty file")
    try:
        image: Image.Image = Image.open(BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise UnusableError("not an image of a format that is read (JPEG, PNG, BMP, TIFF, WebP, GIF)") from None
    if image.format in ("JPEG", "MPO") and not _reaches_its_end(data):
        raise UnusableError("damaged or cut short: the JPEG has no end marker")
    animated = bool(getattr(image, "is_animated", False))
    if animated:
        image.seek(0)
    image.load()
    image = _upright(image)
    square = _square(_plain(image), size_px, fit, background)
    return Picture(_channels(square, background), image.width, image.height, animated)


def _reaches_its_end(data: bytes) -> bool:
    """Tell whether a JPEG's markers lead to its end; libjpeg fills what is missing with grey (ITU-T T.81, annex B)."""
    place = 2
    while place + 4 <= len(data):
        marker = data[place + 1]
        if data[place] != 0xFF or marker == 0xFF:  # fill bytes before a marker, or stray ones, which libjpeg skips
            place += 1
            continue
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if marker != 0xDA:  # any segment but a scan has its length in front
            continue
        if (found := _MARKER.search(data, place)) is None:
            return False
        place = found.end() - 2
        if data[place + 1] == 0xD9:
            return True
    return False


# In a scan, FF 00 is data and FF D0 to FF D7 are restart marks; FF may be repeated before any marker.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # noqa: BLE001 - damaged EXIF; the pixels are fine
        return image
    undo = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if undo is None else image.transpose(undo)


def _plain(image: Image.Image) -> Image.Image:
    """Return the image in mode L, RGB or RGBA, or F with values of 0 to 255."""
    if image.mode.startswith("I;16"):
        bits = image.tag_v2.get(_BITS_PER_SAMPLE_TAG, (16,))[0] if hasattr(image, "tag_v2") else 16
        return _scaled(np.asarray(image, dtype=np.float32), 2**bits - 1)
    if image.mode == "I" and image.format == "PNG":  # 16 bits per pixel, in older versions of Pillow
        return _scaled(np.asarray(image, dtype=np.float32), 65535)
    if image.mode == "F":
        return _scaled(np.asarray(image, dtype=np.float32), 1.0)
    if image.mode == "I":
        raise UnusableError("32-bit or signed integer pixels have no known range; convert the image to 8 or 16 bits")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        return image.convert("RGBA")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _scaled(values: NDArray[np.float32], largest: float) -> Image.Image:
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= largest):
        raise UnusableError(
            f"pixel values are not all between 0 and {largest:g}; rescale the image, nothing is clipped"
        )
    return Image.fromarray(values * np.float32(255 / largest))


def _square(image: Image.Image, size_px: int, fit: str, background: int) -> Image.Image:
    """Return the image at size_px by size_px, antialiased.

    `crop` takes the central square, `pad` keeps everything on a square of the background, `squash` drops the aspect.
    """
    width, height = image.size
    if fit == "crop":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        # Cutting before resizing gives the same square, and a 30000 by 2 image costs no memory.
        return image.resize((size_px, size_px), _FILTER, box=(left, top, left + side, top + side))
    if fit == "squash":
        return image.resize((size_px, size_px), _FILTER)
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
    if square.mode == "F":
        pixels = np.rint(pixels).clip(0, 255)  # the filter overshoots at edges
    pixels = pixels.astype(np.uint8)
    if pixels.ndim == 2:
        return pixels[:, :, None]
    grey = bool((pixels[:, :, :1] == pixels).all())
    return pixels[:, :, :1] if grey else pixels
