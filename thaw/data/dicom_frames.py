"""The stored values of one frame of a DICOM file, by its transfer syntax (PS3.5, annex A and section 8).

A frame is checked against the header before it is decoded, and has all of its pixels: what is cut short is refused.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from thaw.data import jpeg, jpeg2000, whole
from thaw.data.pixel_values import UnusableError

_BIG_ENDIAN, _IMPLICIT = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2"
NATIVE = (_IMPLICIT, "1.2.840.10008.1.2.1", _BIG_ENDIAN)
"""Transfer syntaxes that compress nothing."""
_KINDS = (b"OB", b"OW", b"OF", b"OD", b"UN")
_PIXELS, _FLOATS, _DOUBLES = (0x7FE0, 0x0010), (0x7FE0, 0x0008), (0x7FE0, 0x0009)
_UNDEFINED = 0xFFFFFFFF
_CUT = "damaged or cut short: the DICOM has fewer pixels than its header says"


@dataclass(frozen=True)
class Frame:
    """What the header says of each frame."""

    rows: int
    columns: int
    samples: int
    """For each pixel."""
    bits_allocated: int
    bits_stored: int
    signed: bool
    kind: str
    """The photometric interpretation."""
    planar: bool
    """Whether all of one colour come before the next."""
    num: int
    """How many frames."""
    syntax: str

    @classmethod
    def described(cls, header: Any, syntax: str) -> Self:
        """Return what a data set of pydicom says. Raises: UnusableError for bits that are not read."""
        if any(name not in header for name in ("Rows", "Columns", "BitsAllocated", "PhotometricInterpretation")):
            raise UnusableError("damaged or cut short: the DICOM has no pixels")
        allocated = int(header.BitsAllocated)
        stored = int(header.get("BitsStored") or allocated)
        if allocated not in (1, 8, 16, 32, 64) or not 0 < stored <= allocated:
            raise UnusableError("damaged, or its bits are not read: a DICOM has 1, 8, 16 or 32 of them")
        return cls(
            rows=int(header.Rows),
            columns=int(header.Columns),
            samples=int(header.get("SamplesPerPixel") or 1),
            bits_allocated=allocated,
            bits_stored=stored,
            signed=int(header.get("PixelRepresentation") or 0) == 1,
            kind=str(header.PhotometricInterpretation).strip().upper(),
            planar=int(header.get("PlanarConfiguration") or 0) == 1,
            num=int(header.get("NumberOfFrames") or 1),
            syntax=syntax,
        )

    @property
    def num_values(self) -> int:
        """Values of a frame."""
        return self.rows * self.columns * self.samples

    def source(self, data: bytes, place: int) -> Callable[[int], NDArray[Any]]:
        """Return what gives each frame [rows, columns, samples], of a file whose pixels are an element at a place.

        Raises: UnusableError if the file lacks pixels.
        """
        order = ">" if self.syntax == _BIG_ENDIAN else "<"
        if place + 12 > len(data):
            raise UnusableError("damaged or cut short: the DICOM has no pixels")
        tag = struct.unpack_from(f"{order}2H", data, place)
        has_kind = self.syntax != _IMPLICIT
        if tag not in (_PIXELS, _FLOATS, _DOUBLES) or (has_kind and data[place + 4 : place + 6] not in _KINDS):
            raise UnusableError("damaged or cut short: the DICOM has no pixels")
        start = place + (12 if has_kind else 8)
        (length,) = struct.unpack_from(f"{order}I", data, start - 4)
        if self.syntax in CODECS:
            if length != _UNDEFINED:
                raise UnusableError("damaged: the DICOM is compressed, and its pixels are not")
            return lambda number: self._decoded(data, start, number)
        end = min(len(data), start + length)
        kind = {_FLOATS: "f4", _DOUBLES: "f8"}.get(tag, f"{'i' if self.signed else 'u'}{self.bits_allocated // 8}")
        return self._native(memoryview(data)[start:end], np.dtype(order + kind) if self.bits_allocated > 1 else None)

    def _native(self, pixels: memoryview, dtype: np.dtype[Any] | None) -> Callable[[int], NDArray[Any]]:
        """Return what gives each frame of pixels that are not compressed; `dtype` is None for single bits."""
        halved = self.kind == "YBR_FULL_422"
        count = self.num_values * 2 // 3 if halved else self.num_values
        if len(pixels) < (-(-count * self.num // 8) if dtype is None else count * self.num * dtype.itemsize):
            raise UnusableError(_CUT)
        if dtype is None:
            return lambda number: self._shaped(_bits(pixels, number * count, count))
        if halved:
            return lambda number: _as_rgb(self._of_halves(np.frombuffer(pixels, dtype, count, number * count)))
        each = count * dtype.itemsize
        return lambda number: self.in_colour(
            self._stored(self._shaped(np.frombuffer(pixels, dtype, count, number * each)))
        )

    def _shaped(self, values: NDArray[Any]) -> NDArray[Any]:
        if self.planar and self.samples > 1:
            return np.moveaxis(values.reshape(self.samples, self.rows, self.columns), 0, 2)
        return values.reshape(self.rows, self.columns, self.samples)

    def _of_halves(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return Y, Cb and Cr for each pixel of rows in which two pixels share the last two (PS3.3 C.7.6.3.1.2)."""
        pairs = values.reshape(self.rows, self.columns // 2, 4)
        return np.stack([pairs[:, :, [0, 1]].reshape(self.rows, self.columns)] + [
            np.repeat(pairs[:, :, place], 2, axis=1) for place in (2, 3)
        ], axis=2)  # fmt: skip

    def _stored(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return whole numbers without the bits that are allocated and not stored (PS3.5, section 8.1.1)."""
        if values.dtype.kind == "f":
            return values
        spare = max(0, 8 * values.itemsize - self.bits_stored)
        wanted = np.dtype(f"{'i' if self.signed else 'u'}{values.itemsize}")
        plain: NDArray[Any] = values.astype(values.dtype.newbyteorder("=")).view(wanted)
        return (plain << spare) >> spare if spare else plain

    def in_colour(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return values as red, green and blue if they are Y, Cb and Cr that no codec has turned."""
        return _as_rgb(values) if self.samples == 3 and self.kind.startswith("YBR_FULL") else values

    def _decoded(self, data: bytes, start: int, number: int) -> NDArray[Any]:
        from pydicom.encaps import get_frame

        file = BytesIO(data)
        file.seek(start)
        values = CODECS[self.syntax](get_frame(file, number, number_of_frames=self.num), self)
        values = values[:, :, None] if values.ndim == 2 else values
        if values.shape != (self.rows, self.columns, self.samples):
            raise UnusableError("damaged: a frame of the DICOM has another size than its header says")
        return self._stored(values)


def _bits(pixels: memoryview, first: int, count: int) -> NDArray[np.uint8]:
    """Return single bits, of which each byte has the lowest first."""
    part = np.frombuffer(pixels[first // 8 : -(-(first + count) // 8)], np.uint8)
    return np.unpackbits(part, bitorder="little")[first % 8 : first % 8 + count]


def _as_rgb(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Return Y, Cb and Cr of 8 bits as red, green and blue (PS3.3 C.7.6.3.1.2, ITU-R BT.601)."""
    turned = np.empty(values.shape, np.uint8)
    for row in range(values.shape[0]):  # as floats, all of them would take 16 times as much
        luma, blue, red = values[row].astype(np.float32).T - np.array([[0], [128], [128]], np.float32)
        colours = [luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue]
        turned[row] = np.rint(np.stack(colours, axis=1)).clip(0, 255)
    return turned


def _rle(frame: bytes, header: Frame) -> NDArray[Any]:
    import imagecodecs

    dtype = np.dtype(f"{'i' if header.signed else 'u'}{header.bits_allocated // 8}")
    values = np.frombuffer(imagecodecs.dicomrle_decode(frame, dtype), dtype)
    if values.size < header.num_values:
        raise UnusableError(_CUT)
    planes = values[: header.num_values].reshape(header.samples, header.rows, header.columns)
    return header.in_colour(np.moveaxis(planes, 0, 2))


def _jpeg(frame: bytes, header: Frame) -> NDArray[Any]:
    """Return a frame of JPEG with 8 bits, or of one channel with 12."""
    import imagecodecs

    if header.bits_stored > 8:
        return _whole(frame, header, imagecodecs.jpeg8_decode)
    layout = jpeg.layout(frame)
    _check_size(header, None if layout is None else (layout.width, layout.height))
    assert layout is not None
    image = whole.read(frame, header.rows * header.columns / 1e6)
    unmarked = "adobe_transform" not in image.info and bytes(layout.components) != b"RGB"
    if header.kind == "RGB" and (unmarked or "jfif" in image.info):  # libjpeg takes it for YCbCr, against the header
        image = whole.opened(frame)
        image.draft("YCbCr", image.size)  # which leaves values as they are stored
        image.load()
    return np.asarray(image)


def _lossless(frame: bytes, header: Frame) -> NDArray[Any]:
    import imagecodecs

    return _whole(frame, header, imagecodecs.ljpeg_decode)


def _whole(frame: bytes, header: Frame, decode: Callable[[bytes], Any]) -> NDArray[Any]:
    """Return a JPEG from a decoder that fills what is missing, once noise behind the last scan changes nothing."""
    layout = jpeg.layout(frame)
    _check_size(header, None if layout is None else (layout.width, layout.height))
    assert layout is not None
    values = np.asarray(decode(frame))
    if not np.array_equal(values, np.asarray(decode(jpeg.followed_by_noise(frame, layout.end)))):
        raise UnusableError(_CUT)
    return values


def _jpeg_ls(frame: bytes, header: Frame) -> NDArray[Any]:
    import imagecodecs

    place = frame.find(b"\xff\xf7")
    size = struct.unpack_from(">2H", frame, place + 5) if 0 < place < len(frame) - 9 else None
    _check_size(header, size and (size[1], size[0]))
    return header.in_colour(np.asarray(imagecodecs.jpegls_decode(frame)))


def _jpeg2000(frame: bytes, header: Frame) -> NDArray[Any]:
    import imagecodecs

    size = jpeg2000.size(frame)
    _check_size(header, None if size is None else (size.width, size.height))
    assert size is not None
    if len(size.bits) != header.samples:
        raise UnusableError("damaged: a frame of the DICOM has other channels than its header says")
    return header.in_colour(np.asarray(imagecodecs.jpeg2k_decode(frame)))


def _check_size(header: Frame, size: tuple[int, int] | None) -> None:
    """Raise UnusableError if a frame has no header, or one of another size, so that nothing is made room for."""
    if size is None:
        raise UnusableError(_CUT)
    if size != (header.columns, header.rows):
        raise UnusableError("damaged: a frame of the DICOM has another size than its header says")


CODECS: dict[str, Callable[[bytes, Frame], NDArray[Any]]] = {
    "1.2.840.10008.1.2.5": _rle,
    "1.2.840.10008.1.2.4.50": _jpeg,
    "1.2.840.10008.1.2.4.51": _jpeg,
    "1.2.840.10008.1.2.4.57": _lossless,
    "1.2.840.10008.1.2.4.70": _lossless,
    "1.2.840.10008.1.2.4.80": _jpeg_ls,
    "1.2.840.10008.1.2.4.81": _jpeg_ls,
    "1.2.840.10008.1.2.4.90": _jpeg2000,
    "1.2.840.10008.1.2.4.91": _jpeg2000,
    "1.2.840.10008.1.2.4.201": _jpeg2000,
    "1.2.840.10008.1.2.4.202": _jpeg2000,
    "1.2.840.10008.1.2.4.203": _jpeg2000,
}
"""What decodes a frame of each transfer syntax that compresses."""
