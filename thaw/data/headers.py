"""The size that a file claims, read from its header alone."""

import logging
import warnings
from io import BytesIO
from pathlib import Path
from typing import IO

from PIL import Image, UnidentifiedImageError

from thaw.data import dicom, heif, tiff_pages
from thaw.data.pixel_values import UnusableError
from thaw.data.whole import FORMATS, NO_FORMAT
from thaw.errors import ThawError

_BEGINNING_BYTES = 4096


def size(source: Path | bytes) -> tuple[int, int]:
    """Return the width and height in pixels of the image in a file, or in its bytes.

    Raises: UnusableError with the reason why it is no image; ThawError.
    """
    if (
        isinstance(source, Path) and source.exists() and not source.is_file()
    ):  # opening a pipe would wait for its writer
        raise UnusableError("not a regular file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large images, which `prepare` refuses
            with source.open("rb") if isinstance(source, Path) else BytesIO(source) as file:
                return _size(file)
    except (UnusableError, ThawError):
        raise
    except UnidentifiedImageError:
        raise UnusableError(NO_FORMAT) from None
    except OSError as error:
        raise UnusableError(error.strerror or "its header is damaged") from None
    except Exception as error:  # noqa: BLE001 - whatever a damaged header leads Pillow or tifffile to
        raise UnusableError(f"its header is damaged ({type(error).__name__})") from None


def _size(file: IO[bytes]) -> tuple[int, int]:
    beginning = file.read(_BEGINNING_BYTES)
    file.seek(0)
    if tiff_pages.is_tiff(beginning):
        return _tiff_size(file)
    if dicom.is_dicom(beginning):
        return dicom.size(file.read())
    if dicom.lacks_preamble(beginning):
        raise UnusableError(dicom.LACKS_PREAMBLE)
    if heif.is_heic(beginning):
        return heif.opened(file.read()).size
    with Image.open(file, formats=FORMATS) as image:
        return image.size


def _tiff_size(opened: IO[bytes]) -> tuple[int, int]:
    import tifffile  # 0.1 s, and few data sets need it

    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)  # what it finds wrong is told by the exception
    with tifffile.TiffFile(opened) as file:
        page = file.pages.first
        return int(page.imagewidth), int(page.imagelength)
