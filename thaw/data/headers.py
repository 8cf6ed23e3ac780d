"""The size that a file claims, read from its header alone."""

import logging
import warnings
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from thaw.data import dicom, heif, tiff_pages
from thaw.data.pixel_values import UnusableError
from thaw.data.whole import FORMATS, NO_FORMAT
from thaw.errors import ThawError

_BEGINNING_BYTES = 4096


def size(path: Path) -> tuple[int, int]:
    """Return the width and height in pixels. Raises: UnusableError with the reason why it is no image; ThawError."""
    if path.exists() and not path.is_file():  # opening a pipe would wait for its writer
        raise UnusableError("not a regular file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large images, which `prepare` refuses
            return _size(path)
    except (UnusableError, ThawError):
        raise
    except UnidentifiedImageError:
        raise UnusableError(NO_FORMAT) from None
    except OSError as error:
        raise UnusableError(error.strerror or "its header is damaged") from None
    except Exception as error:  # noqa: BLE001 - whatever a damaged header leads Pillow or tifffile to
        raise UnusableError(f"its header is damaged ({type(error).__name__})") from None


def _size(path: Path) -> tuple[int, int]:
    with path.open("rb") as file:
        beginning = file.read(_BEGINNING_BYTES)
    if tiff_pages.is_tiff(beginning):
        return _tiff_size(path)
    if dicom.is_dicom(beginning):
        return dicom.size(path.read_bytes())
    if dicom.lacks_preamble(beginning):
        raise UnusableError(dicom.LACKS_PREAMBLE)
    if heif.is_heic(beginning):
        return heif.opened(path.read_bytes()).size
    with Image.open(path, formats=FORMATS) as image:
        return image.size


def _tiff_size(path: Path) -> tuple[int, int]:
    import tifffile  # 0.1 s, and few data sets need it

    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)  # what it finds wrong is told by the exception
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        return int(page.imagewidth), int(page.imagelength)
