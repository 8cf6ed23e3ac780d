"""The frames of a DICOM file as numbers, and nothing else of it: no name, number, date or UID of a patient is read out.

pydicom (the extra `dicom`) reads the header, of which only the elements named here are kept; what it says of a damaged
one may quote it, so only the kind of its error is passed on. Values are those of the modality (PS3.3 C.11.1: Hounsfield
units of a CT) where prepare.value_range is set, and otherwise those of the file's own window (PS3.3 C.11.2).
"""

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thaw.data import needs
from thaw.data.dicom_frames import CODECS, NATIVE, Frame
from thaw.data.pixel_values import Bands, UnusableError
from thaw.errors import ThawError
from thaw.pipeline.data_facts import Range

_PREAMBLE, _MAGIC = 128, b"DICM"
_SYNTAX = re.compile(rb"\x02\x00\x10\x00UI..([0-9.]{1,64})", re.DOTALL)
_META_BYTES = 4096
# The first element of a data set without a preamble: group 2 or 8, and a kind of value, or a length that is one.
_BARE = re.compile(rb"[\x02\x08]\x00[\x00-\x18]\x00(?:UL|CS|UI|DA|[\x04-\x40]\x00\x00\x00)", re.DOTALL)
LACKS_PREAMBLE = (
    "it looks like a DICOM without its preamble ('DICM' at byte 128), which is not read; write it anew, such as with "
    "`dcmconv IN OUT` (DCMTK)"
)
_BURNED = "the file says that annotations are burned into its pixels, which may name a person"
_WINDOW = "the file's own window says what is black and white; prepare.value_range sets one range for all"
_TAGS = [
    "Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation", "SamplesPerPixel", "NumberOfFrames",
    "PhotometricInterpretation", "PlanarConfiguration", "BurnedInAnnotation", "RescaleSlope", "RescaleIntercept",
    "ModalityLUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence",
    "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData", "SegmentedRedPaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData", "SegmentedBluePaletteColorLookupTableData",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip
_GREY, _PALETTE = ("MONOCHROME1", "MONOCHROME2"), "PALETTE COLOR"
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
# While a frame is decoded: a grey value as a float of 64 bits and of 32 beside what is stored; a colour in its codec.
_GREY_BYTES, _COLOUR_BYTES = 16, 8
_EIGHT_BITS = 8


def is_dicom(data: bytes) -> bool:
    """Tell whether a file is a DICOM."""
    return data[_PREAMBLE : _PREAMBLE + len(_MAGIC)] == _MAGIC


def lacks_preamble(data: bytes) -> bool:
    """Tell whether a file that is nothing else begins as the data set of a DICOM does."""
    return _BARE.match(data) is not None


@contextmanager
def _without_quotes() -> Iterator[None]:
    """Within, an error of others is a reason that quotes nothing of the file, and nothing is warned of."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (UnusableError, ThawError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - whatever a damaged file leads pydicom and the codecs to
        raise UnusableError(f"damaged or cut short: the DICOM cannot be read ({type(error).__name__})") from None


def size(data: bytes) -> tuple[int, int]:
    """Return the width and height of a DICOM. Raises: UnusableError, MissingLibraryError without pydicom."""
    with _without_quotes():
        header, _, _ = _read_header(data)
        return int(header.Columns), int(header.Rows)


class File:
    """A DICOM file; its frames are decoded one by one.

    With `windowed` the values are what the file's own window makes of them.
    """

    def __init__(self, data: bytes, max_megapixels: float, *, windowed: bool) -> None:
        with _without_quotes():
            self._header, start, syntax = _read_header(data)
            self._windowed = windowed
            self._frame = Frame.described(self._header, syntax)
            self._check_claims(len(data), max_megapixels)
            self._frame_of = self._frame.source(data, start)
            self.num = self._frame.num
            """How many frames."""
            self.notes = self._notes()
            """What is worth knowing of the file."""

    def _check_claims(self, size: int, max_megapixels: float) -> None:
        frame = self._frame
        pixels = frame.rows * frame.columns
        needs.check_pixels(pixels, max_megapixels)
        each = _GREY_BYTES if frame.samples == 1 else _COLOUR_BYTES
        needs.check(size + each * pixels * frame.samples, max_megapixels)
        kinds = (*_GREY, _PALETTE) if frame.samples == 1 else _COLOUR
        if not pixels or frame.num < 1 or frame.samples not in (1, 3):
            raise UnusableError("damaged or cut short: the DICOM has no pixels")
        if frame.kind not in kinds:
            raise UnusableError(
                f"its photometric interpretation is not read for {frame.samples} samples a pixel; MONOCHROME1, "
                "MONOCHROME2 and PALETTE COLOR are for one, RGB and YBR for three"
            )

    def _notes(self) -> tuple[str, ...]:
        burned = str(self._header.get("BurnedInAnnotation", "")).upper() == "YES"
        window = self._windowed and self._frame.kind in _GREY and self._window(0) is not None
        return (_BURNED,) * burned + (_WINDOW,) * window

    def read(self, number: int) -> Bands:
        """Return a frame. Raises: UnusableError."""
        with _without_quotes():
            stored = self._frame_of(number)
            if self._frame.kind in _GREY:
                return self._grey(stored[:, :, 0], number)
            if self._frame.kind == _PALETTE:
                from pydicom.pixels.processing import apply_color_lut

                colours: NDArray[Any] = apply_color_lut(stored[:, :, 0], self._header)
                return Bands(colours, _full(8 * colours.itemsize), colour=True)
            return Bands(stored, _full(self._frame.bits_stored), colour=True)

    def _grey(self, stored: NDArray[Any], number: int) -> Bands:
        """Return [height, width] of stored values as those of the modality, or as the window shows them."""
        inverted, small = self._frame.kind == _GREY[0], self._frame.bits_stored <= _EIGHT_BITS
        values, full = self._of_modality(stored, number)
        if not self._windowed:
            return Bands(values[:, :, None], full, inverted=inverted)
        if (window := self._window(number)) is not None:
            shown = window(values)
            if small:
                return Bands(np.rint(shown * 255).astype(np.uint8)[:, :, None], _full(8), inverted=inverted)
            return Bands(shown[:, :, None], (0.0, 1.0), inverted=inverted, as_shown=True)
        if "VOILUTSequence" in self._header and values.dtype.kind in "ui":
            from pydicom.pixels.processing import apply_voi

            table: Any = apply_voi(values, self._header)
            bits = int(self._header.VOILUTSequence[0].LUTDescriptor[2])
            return Bands(table[:, :, None], _full(bits), inverted=inverted)
        return Bands(values[:, :, None], full, inverted=inverted)

    def _of_modality(self, stored: NDArray[Any], number: int) -> tuple[NDArray[Any], Range | None]:
        """Return values in the units of the modality, and what they may be; None where that is no range to scale by."""
        stored_full = None if stored.dtype.kind != "u" or stored.itemsize > 2 else _full(self._frame.bits_stored)
        stored_full = (0.0, 1.0) if stored.dtype.kind == "f" else stored_full
        if "ModalityLUTSequence" in self._header:
            from pydicom.pixels.processing import apply_modality_lut

            return apply_modality_lut(stored, self._header), None
        found = self._group(number, "PixelValueTransformationSequence", "RescaleSlope")
        slope, intercept = float(found.get("RescaleSlope") or 1), float(found.get("RescaleIntercept") or 0)
        if (slope, intercept) == (1.0, 0.0):
            return stored, stored_full
        values = (stored * slope + intercept).astype(np.float32)
        if stored_full is None or slope < 0:
            return values, None
        return values, (stored_full[0] * slope + intercept, stored_full[1] * slope + intercept)

    def _group(self, number: int, sequence: str, element: str) -> Any:
        """Return the data set that has an element: the frame's, that of all frames, or the file (PS3.3 C.7.6.16)."""
        own = self._header.get("PerFrameFunctionalGroupsSequence") or []
        shared = self._header.get("SharedFunctionalGroupsSequence") or []
        for group in [*own[number : number + 1], *shared[:1]]:
            for item in (group.get(sequence) or [])[:1]:
                if element in item:
                    return item
        return self._header

    def _window(self, number: int) -> Callable[[NDArray[Any]], NDArray[np.float32]] | None:
        """Return what makes levels from 0 to 1 of values, by the first window of a frame; None if there is none."""
        found = self._group(number, "FrameVOILUTSequence", "WindowCenter")
        centre, width = _first(found.get("WindowCenter")), _first(found.get("WindowWidth"))
        if centre is None or width is None or not np.isfinite([centre, width]).all() or width <= 0:
            return None
        kind = str(found.get("VOILUTFunction") or "LINEAR").upper()
        return lambda values: _through(values, kind, centre, width)


def _through(values: NDArray[Any], kind: str, centre: float, width: float) -> NDArray[np.float32]:
    """Return values through a window, 0 to 1 (PS3.3 C.11.2.1.2 and C.11.2.1.3)."""
    levels = values.astype(np.float32)
    if kind == "SIGMOID":
        return np.asarray(1 / (1 + np.exp((-4 * (levels - centre) / width).clip(-80, 80))), np.float32)
    if kind == "LINEAR_EXACT":
        return np.asarray(((levels - centre) / width + 0.5).clip(0, 1), np.float32)
    if width <= 1:
        return (levels > centre - 0.5).astype(np.float32)
    return np.asarray(((levels - (centre - 0.5)) / (width - 1) + 0.5).clip(0, 1), np.float32)


def _first(value: Any) -> float | None:
    """Return the first of one number or several."""
    several = value if isinstance(value, list | tuple) or hasattr(value, "__iter__") else [value]
    return next((float(one) for one in several if one is not None and one != ""), None)


def _full(bits: int) -> Range:
    return 0.0, 2.0**bits - 1


def _read_header(data: bytes) -> tuple[Any, int, str]:
    """Return the elements that pictures are made of, where that of the pixels begins, and the transfer syntax."""
    with import_module("thaw.extras").named():  # not a stage's dep: what is extra changes no picture
        import pydicom
    import logging

    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)  # it may quote what it finds wrong
    found = _SYNTAX.search(data[_PREAMBLE : _PREAMBLE + _META_BYTES])
    if found is None:
        raise UnusableError("damaged or cut short: the DICOM names no transfer syntax")
    syntax = found[1].decode().rstrip(".")
    if syntax not in NATIVE and syntax not in CODECS:  # before anything is inflated
        raise UnusableError(
            f"its DICOM transfer syntax {pydicom.uid.UID(syntax).name} ({syntax}) is not read; convert it, such as "
            "with `gdcmconv --raw IN OUT` (GDCM)"
        )
    file = BytesIO(data)
    header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(_TAGS))
    if str(header.file_meta.TransferSyntaxUID) != syntax:
        raise UnusableError("damaged: the DICOM names two transfer syntaxes")
    return header, file.tell(), syntax
