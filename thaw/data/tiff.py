"""TIFFs that Pillow cannot hold: any number of bands, 16 bits per colour, floats, signed and 32-bit integers.

Everything that a file claims is checked against what it has before a pixel is decoded: tifffile fills parts that are
missing with zeros, and takes the memory that the tags ask for.
"""

import logging
import math
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from thaw.data import needs
from thaw.data.pixel_values import Bands, UnusableError, full_range

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0")  # the last is BigTIFF
_BIG = 43
_MINISWHITE, _MINISBLACK, _RGB = 0, 1, 2
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
_UNSPECIFIED = 0
# None, LZW, deflate (twice), packbits, LZMA, Zstandard: what changes no value. TIFF 6.0 and tifffile's list.
_COMPRESSIONS = {1, 5, 8, 32946, 32773, 34925, 50000}


def holds_bands(data: bytes) -> bool:
    """Tell whether a file is a TIFF that `read` is for; damaged ones are left to Pillow to complain about."""
    if data[:4] not in _MAGIC:
        return False
    try:
        tags = ImageFileDirectory_v2(data[: 16 if data[2] == _BIG else 8])
        file = BytesIO(data)
        file.seek(tags.next)
        tags.load(file)
        samples, kind = int(tags.get(277, 1)), tags.get(262, _MINISWHITE)
        bits, form = max(tags.get(258, (1,))), max(tags.get(339, (_UNSIGNED,)))
        extra = tuple(tags.get(338, ()))
    except Exception:  # noqa: BLE001 - whatever a damaged header leads Pillow's reader to
        return False
    if kind not in (_MINISWHITE, _MINISBLACK, _RGB):
        return False
    if bits > 16 or form == _FLOAT or (form == _SIGNED and bits > 8) or (kind == _MINISWHITE and bits > 8):
        return True
    if kind != _RGB:  # two samples may be grey and alpha
        return samples > 1 and not (samples == 2 and bits == 8 and extra not in ((), (_UNSPECIFIED,)))
    return bits > 8 if samples == 3 else samples > 4 or extra == (_UNSPECIFIED,)


def read(data: bytes, *, max_megapixels: float) -> Bands:
    """Return the first page of a TIFF. Raises: UnusableError; what else tifffile raises means a damaged file."""
    import tifffile  # 0.1 s, and few data sets need it

    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
    with tifffile.TiffFile(BytesIO(data)) as file:
        page: Any = file.pages.first
        _check_claims(page, len(data), max_megapixels)
        parts = page.asarray(squeeze=False, maxworkers=1)  # [separate samples, depth, height, width, samples]
        values = parts[0, 0] if page.planarconfig == 1 else np.moveaxis(parts[:, 0, :, :, 0], 0, 2)
        tag = page.tags.get(274)
        upright = _upright(values, tag.value if tag is not None else 1)
        colour = page.photometric == _RGB and upright.shape[2] == 3
        full = full_range(upright.dtype, page.bitspersample)
        return Bands(upright, full, colour=colour, inverted=page.photometric == _MINISWHITE)


def _check_claims(page: Any, size: int, max_megapixels: float) -> None:
    pixels = page.imagewidth * page.imagelength * page.imagedepth
    needs.check_pixels(pixels, max_megapixels)
    if page.dtype is None or page.dtype.kind not in "uif" or page.imagedepth != 1 or not pixels:
        raise UnusableError("its pixels are no numbers of a type that is read, or it has none")
    rows, columns = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    part = min(rows, max(page.imagelength, page.tilelength)) * columns * max(page.tiledepth, 1)
    part *= page.samplesperpixel if page.planarconfig == 1 else 1
    item = page.dtype.itemsize
    values, plane = pixels * page.samplesperpixel * item, needs.plane_bytes(pixels, item)
    needs.check(needs.of_bands(values, plane, part * item * (int(page.compression) != 1), size), max_megapixels)
    if int(page.compression) not in _COMPRESSIONS:
        name = getattr(page.compression, "name", page.compression)
        raise UnusableError(f"TIFF compression {name} is not read for bands; use LZW or deflate")
    offsets, counts = (np.array(numbers, dtype=np.float64) for numbers in (page.dataoffsets, page.databytecounts))
    if not len(offsets) == len(counts) == math.prod(page.chunked):
        raise UnusableError("damaged or cut short: parts of the TIFF are missing")
    if (offsets <= 0).any() or (counts <= 0).any() or (offsets + counts > size).any():
        raise UnusableError("damaged or cut short: parts of the TIFF are empty or lie beyond its end")


def _upright(values: NDArray[Any], orientation: object) -> NDArray[Any]:
    """Return [height, width, channels] as the orientation tag wants it shown (TIFF 6.0, section 8)."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    rows, columns = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return values[:: -1 if rows else 1, :: -1 if columns else 1]
