"""An image read from a file, once it is seen that the file has all of its pixels.

Pillow's decoders say nothing where a file ends early and its markers look right: rows that are missing stay black in a
PNG, grey in a JPEG. Three ways tell, and each compares a decoder with itself:

- a PNG is painted before it is read. Where the last pixel still has the paint, the file is read again on another
  paint: only what was never written follows it;
- a JPEG of one scan is painted, too, and its end marker held back: libjpeg asks for it before it has written the last
  rows only if blocks of them are missing;
- noise stands behind the last scan of any other JPEG, which is read twice: with all blocks there, the decoder never
  looks at the noise, and both have the same pixels.

The decoders of GIF, BMP, WebP, AVIF, HEIC, JPEG 2000 and PNM tell by themselves, and so do libtiff's of LZW, deflate
and packbits; tiff_parts.py has what libtiff passes over. A fax of Group 3 that ends early is the one case that nothing
here notices.
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from typing import Any

from PIL import AvifImagePlugin, Image, UnidentifiedImageError

from thaw.data import heif, jpeg, needs, tiff_parts
from thaw.data.jpeg import Layout
from thaw.data.pixel_values import UnusableError

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000", "AVIF")
"""What Pillow is asked to read."""
NO_FORMAT = "not an image of a format that is read (JPEG, PNG, BMP, TIFF, WebP, GIF, PNM, JPEG 2000, AVIF, HEIC, DICOM)"

_PAINTS = (181, 74)
_ROWS_AT_ONCE = 256

AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # files are read in parallel, one a core


def num_frames(data: bytes) -> int:
    """Return how many frames a file has that Pillow reads; the further pictures of an MPO are none (depths, previews).

    Raises: UnusableError if it is no image; whatever Pillow makes of damage.
    """
    image = opened(data)
    return 1 if image.format in ("MPO", "HEIF", "TIFF") else int(getattr(image, "n_frames", 1))


def frames(data: bytes, numbers: Sequence[int], max_megapixels: float) -> Iterator[Image.Image]:
    """Yield the frames of a file of these numbers, which ascend, as `read` does the first."""
    later = None
    for number in numbers:
        if number == 0:
            yield read(data, max_megapixels)
            continue
        if later is None:
            later = opened(data)
            size = len(data) + needs.FRAMES * needs.stored(later)
            needs.check(max(size, needs.to_decode(later, len(data), None)), max_megapixels)
        later.seek(number)
        later.load()
        yield later.copy()


def read(data: bytes, max_megapixels: float) -> Image.Image:
    """Return the first frame of a file with its pixels read.

    Raises: UnusableError if it is no image, takes too much memory, or lacks pixels; whatever Pillow makes of damage.
    """
    image = opened(data)
    layout = None
    if image.format in ("JPEG", "MPO"):
        layout = jpeg.layout(data)
        if layout is None:
            raise UnusableError("damaged or cut short: the JPEG has no end marker, or too many scans")
        if not layout.complete:
            raise UnusableError("damaged or cut short: the JPEG lacks scans")
    needs.check(needs.to_decode(image, len(data), layout), max_megapixels)
    if layout is not None:
        _load_jpeg(image, data, layout)
    elif image.format == "PNG":
        _load_painted(image, data)
    else:
        if image.format == "TIFF":
            _check_tiff(image, data)
        image.load()
    return image


def opened(data: bytes) -> Image.Image:
    """Return the first frame of a file, its pixels not yet read. Raises: UnusableError if it is no image."""
    if heif.is_heic(data):
        image = heif.opened(data)
        needs.check_pixels(image.width * image.height, (Image.MAX_IMAGE_PIXELS or 0) / 1e6)
        return image
    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise UnusableError(NO_FORMAT) from None
    if getattr(image, "is_animated", False):
        image.seek(0)
    return image


def _load_painted(image: Image.Image, data: bytes) -> None:
    """Read the pixels of a PNG. Raises: UnusableError if its last row was never written."""
    _paint(image, _PAINTS[0])
    image.load()
    last = (image.width - 1, image.height - 1)
    if image.getpixel(last) != _ink(image.mode, _PAINTS[0]):
        return
    again = opened(data)
    _paint(again, _PAINTS[1])
    again.load()
    if again.getpixel(last) != image.getpixel(last):
        raise UnusableError("damaged or cut short: rows are missing at the end of the PNG")


def _paint(image: Any, level: int) -> None:
    """Have an image painted before its pixels are read."""
    prepare: Callable[[], None] = image.load_prepare

    def painted() -> None:
        del image.load_prepare  # it refers to the image, which would stay in memory after its last use
        prepare()
        image.im.paste(_ink(image.mode, level), (0, 0, *image.size))

    image.load_prepare = painted


def _ink(mode: str, level: int) -> int | tuple[int, ...]:
    """Return a level as the pixel of a mode: 0 or 255 where there are but two."""
    if mode == "1":
        return 255 * (level > 127)
    bands = Image.getmodebands(mode)
    return level if bands == 1 else (level,) * bands


def _load_jpeg(image: Image.Image, data: bytes, layout: Layout) -> None:
    """Read the pixels of a JPEG. Raises: UnusableError if blocks are missing before its end marker."""
    if layout.several_scans:
        expected = _digest(opened(jpeg.followed_by_noise(data, layout.end)))
        whole = _digest(image) == expected
    else:
        whole = _is_written(image, data, layout.end, _PAINTS[0]) or _is_written(
            opened(data), data, layout.end, _PAINTS[1]
        )
    if not whole:
        raise UnusableError("damaged or cut short: the JPEG ends before its last block")


def _is_written(image: Image.Image, data: bytes, end: int, paint: int) -> bool:
    """Read the pixels of a JPEG of one scan, and tell whether the last one was written without the end marker."""
    feed = _Feed(image, data, end, paint)
    _paint(image, paint)
    vars(image)["load_read"] = feed
    image.load()
    del vars(image)["load_read"]  # it refers to the image, which would stay in memory after its last use
    return feed.written


class _Feed:
    """Gives libjpeg the bytes of a file, and holds the end marker back until it has used all others.

    libjpeg writes the last rows once it has their blocks, and asks for the end marker only then. It looks ahead, so
    some bits stand before the marker; what they can complete, a few codes of the last block, is not noticed.
    """

    def __init__(self, image: Any, data: bytes, end: int, paint: int) -> None:
        self._image, self._data, self._end, self._paint = image, data, end, paint
        self._place, self._last = 0, [jpeg.LOOK_AHEAD, b"\xff\xd9"]
        self.written = True
        """Whether the last pixel had lost its paint when the end marker was asked for."""

    def __call__(self, size: int) -> bytes:
        """Return the next bytes."""
        if self._place < self._end:
            start, self._place = self._place, min(self._place + size, self._end)
            return self._data[start : self._place]
        if len(self._last) == 1:
            last = (self._image.width - 1, self._image.height - 1)
            self.written = self._image.im.getpixel(last) != _ink(self._image.mode, self._paint)
        return self._last.pop(0) if self._last else b""


def _check_tiff(image: Any, data: bytes) -> None:
    """Check what libtiff does not. Raises: UnusableError if strips or tiles are missing or end early."""
    tags = image.tag_v2
    parts = tiff_parts.parts(tags, len(data))
    if int(tags.get(259, 1)) == tiff_parts.JPEG:
        for start, length in parts:
            stream = tiff_parts.as_jpeg(tags, data[start : start + length])
            layout = jpeg.layout(stream)
            if layout is None or not layout.complete:
                raise UnusableError("damaged or cut short: a JPEG inside the TIFF has no end marker, or lacks scans")
            _load_jpeg(opened(stream), stream, layout)
    elif int(tags.get(259, 1)) == tiff_parts.GROUP_4:
        noisy = tiff_parts.ended_by_noise(tags, data, parts)
        if noisy is None or _digest(opened(noisy)) != _digest(opened(data)):
            raise UnusableError("damaged or cut short: the TIFF ends before its last row")


def _digest(image: Image.Image) -> int:
    """Return a checksum of the pixels of an image."""
    found = 0
    image.load()
    for top in range(0, image.height, _ROWS_AT_ONCE):
        strip = image.crop((0, top, image.width, min(image.height, top + _ROWS_AT_ONCE)))
        found = zlib.crc32(strip.tobytes(), found)
    return found
