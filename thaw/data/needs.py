"""How much memory an image takes while it is decoded, told from its header before a pixel is read.

The factors were measured on files of 100 million pixels of every kind (bench/decoding.py): each is the peak of the
process less what it held before, divided by the pixels. What headers do not say is left to a limit of the process that
decodes (pipeline/bounded.py).
"""

from typing import Any

from PIL import Image

from thaw.data.jpeg import Layout
from thaw.data.pixel_values import UnusableError
from thaw.pipeline.bounded import Bounds

MOST_BYTES_A_PIXEL = 8
"""What `prepare.max_megapixels` allows for: RGB and a turned copy of it, or 16 bits for each of four channels."""

_LEAST_BYTES = 2**26  # for the file itself, tables, and small images of costly kinds

_SECONDS = 60
"""Of processor time; 100 million pixels took 1 to 9."""

# libwebp: two canvases of the animation, the picture, its transformed copy, and Pillow's two copies.
_WEBP_BYTES_A_PIXEL = 20
# The decoder's planes, which may have 16 bits, RGBA, and Pillow's copies; 11 and 13 were measured of 8 bits.
_DECODER_BYTES = {"WEBP": _WEBP_BYTES_A_PIXEL, "AVIF": 16, "HEIF": 16}
JPEG2000_BYTES_A_VALUE = 8
"""OpenJPEG keeps 4 bytes for each value, and what it has made of them stands beside that; 7.5 at most were measured."""
FRAMES = 4
"""Copies of a frame that an animation holds: the last one, the new one, what it is composed on, and what is given."""
# Pillow keeps one byte, two, or else four for a pixel; a row starts at a multiple of four and has a pointer.
_ONE_BYTE, _TWO_BYTES, _POINTER = {"1", "L", "P"}, {"I;16", "I;16L", "I;16B", "I;16N"}, 8
_STORED = 4  # RGB, RGBA, CMYK
_AS_FLOAT = 4  # a plane of more than 8 bits is resized as float32
# A resize by Lanczos keeps a weight of 8 bytes for each of the 6 pixels under it; both are scaled with the image.
_WEIGHT_BYTES = 48


def allowed(max_megapixels: float) -> int:
    """Return how many bytes the decoding of one image may take, the file's own included."""
    return round(max_megapixels * 1e6 * MOST_BYTES_A_PIXEL) + _LEAST_BYTES


def bounds(max_megapixels: float) -> Bounds:
    """Return what a process may take to decode an image, should its header have told too little."""
    return Bounds(memory_bytes=allowed(max_megapixels) + _LEAST_BYTES, seconds=_SECONDS)


def check(needed: float, max_megapixels: float) -> None:
    """Raise UnusableError if so many bytes are more than one image may take."""
    if needed > allowed(max_megapixels):
        raise UnusableError(
            f"needs {needed / 1e6:.0f} million bytes to be decoded, more than the {allowed(max_megapixels) / 1e6:.0f} "
            f"million that prepare.max_megapixels ({max_megapixels:g}) allows; make it smaller, or raise that"
        )


def check_pixels(pixels: int, max_megapixels: float) -> None:
    """Raise UnusableError if an image claims more pixels than one may have."""
    if pixels > max_megapixels * 1e6:
        raise UnusableError(f"claims more than {max_megapixels:g} million pixels (prepare.max_megapixels)")


def to_decode(image: Image.Image, size: int, layout: Layout | None) -> int:
    """Return the bytes that it takes to read the pixels of an image whose header was read, in a file of `size` bytes.

    `layout` is that of a JPEG.
    """
    pixels = image.width * image.height
    if image.format in _DECODER_BYTES:
        return size + _DECODER_BYTES[image.format] * pixels
    if image.format == "JPEG2000":
        return size + JPEG2000_BYTES_A_VALUE * pixels * len(image.getbands())
    extra = 0
    if layout is not None and layout.several_scans:  # they are gathered before the first pixel
        extra = layout.coefficient_bytes
    elif image.format == "TIFF":
        extra = _strip_bytes(image)
    return size + stored(image) + extra


def to_convert(image: Image.Image, size: int, *, turned: bool, squash: bool) -> int:
    """Return the bytes that an image takes which was read, while it is turned upright, converted and resized."""
    pixels, own = image.width * image.height, stored(image)
    deep = image.mode in _TWO_BYTES or image.mode in ("I", "F")
    copies = [own, own] if turned or image.mode == "RGBA" else [own]
    if deep:
        copies = [max(sum(copies), 2 * own + _AS_FLOAT * pixels)]
    elif image.mode in ("LA", "La", "PA", "RGBa") or "transparency" in image.info:
        copies = [max(own, _STORED * pixels), _STORED * pixels]
    elif image.mode not in ("L", "RGB", "RGBA"):
        copies = [max(sum(copies), own + _STORED * pixels)]
    side = max(image.size) if squash else min(image.size)
    return size + sum(copies) + _WEIGHT_BYTES * side


def of_bands(values: int, plane: int, part: int, size: int) -> int:
    """Return the bytes that bands take: all values, with one plane of them or with what it takes to unpack a part.

    `part` is the largest strip or tile if it is compressed: it is copied when it is unpacked and when its predictor is
    undone.
    """
    return size + values + max(3 * part, plane)


def plane_bytes(pixels: int, item_bytes: int) -> int:
    """Return the bytes of one channel while it is resized: a byte for a pixel, or else four, as float32."""
    return pixels * (1 if item_bytes == 1 else _AS_FLOAT)


def stored(image: Image.Image) -> int:
    """Return the bytes of an image as Pillow keeps it."""
    each = 1 if image.mode in _ONE_BYTE else 2 if image.mode in _TWO_BYTES else _STORED
    width, height = int(image.width), int(image.height)
    return height * ((width * each + 3) // 4 * 4 + _POINTER)


def _strip_bytes(image: Any) -> int:
    """Return what libtiff unpacks at once: a strip or a tile."""
    tags = image.tag_v2
    samples, width = int(tags.get(277, 1)), int(tags.get(322, image.width))
    rows = min(int(tags.get(323, tags.get(278, image.height))), max(image.height, int(tags.get(323, 1))))
    part: int = width * rows * samples
    return part
