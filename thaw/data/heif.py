"""HEIC and AVIF, two uses of one container (ISO/IEC 23008-12): which of them a file is, and how the first is opened.

Pillow reads AVIF. HEIC is read by libheif, in the package pillow-heif, the extra `heic`.
"""

from importlib import import_module
from io import BytesIO

from PIL import Image

_AVIF = {b"avif", b"avis"}
_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
_MOST_BRANDS = 256


def is_avif(data: bytes) -> bool:
    """Tell whether a file is an AVIF."""
    return bool(_brands(data) & _AVIF)


def is_heic(data: bytes) -> bool:
    """Tell whether a file is a HEIC, or another HEIF that is no AVIF."""
    brands = _brands(data)
    return bool(brands & _HEIC) and not brands & _AVIF


def _brands(data: bytes) -> set[bytes]:
    if data[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(data[:4], "big"), len(data), 16 + 4 * _MOST_BRANDS)
    return {data[8:12], *(data[place : place + 4] for place in range(16, end - 3, 4))}


def opened(data: bytes) -> Image.Image:
    """Return the main picture of a HEIC, its pixels not yet read. Raises: MissingLibraryError without pillow-heif."""
    with import_module("thaw.extras").named():  # not a stage's dep: what is extra changes no picture
        import pillow_heif
        from pillow_heif.as_plugin import HeifImageFile
    pillow_heif.options.DECODE_THREADS = 1  # files are read in parallel, one a core
    image: Image.Image = HeifImageFile(BytesIO(data))  # type: ignore[no-untyped-call]
    return image
