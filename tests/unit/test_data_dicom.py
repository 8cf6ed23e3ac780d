"""DICOM: the pixels that pydicom makes of them, each kind of compression, and nothing about the patient."""

import builtins
import logging
import warnings
from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.pixels.processing import apply_color_lut, apply_windowing, convert_color_space

from tests.faults.mutated import mutated
from tests.scans import PATIENT, dicom
from thaw.data import dicom as reader
from thaw.data.decoding import Picture, UnusableError, decode
from thaw.errors import MissingLibraryError

SIDE = 16
EIGHT = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE)).astype(np.uint8)
TWELVE = np.random.default_rng(1).integers(0, 4096, (SIDE, SIDE)).astype(np.uint16)
RGB = np.random.default_rng(2).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
JPEG = "1.2.840.10008.1.2.4."


def read(data: bytes, **options: Any) -> Picture:
    return decode(data, **{"size_px": SIDE, "fit": "crop", "background": 255, "max_megapixels": 1.0, **options})


def grey(data: bytes, **options: Any) -> NDArray[Any]:
    return read(data, **options).pixels[:, :, 0]


def as_16_bits(share: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(np.rint(share * 65535))


def encoded(kind: str, values: NDArray[Any], **options: Any) -> bytes:
    file = BytesIO()
    Image.fromarray(values).save(file, kind, **options)
    return file.getvalue()


def j2k(values: NDArray[Any], **options: Any) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(values, codecformat="j2k", level=0, **options))


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"])
def test_bits_that_are_stored_are_the_range_of_grey(syntax: str) -> None:
    found = read(dicom(TWELVE, BitsStored=12, syntax=syntax))
    assert (found.width, found.height, found.planes, found.notes) == (SIDE, SIDE, 1, ())
    np.testing.assert_allclose(found.pixels[:, :, 0], as_16_bits(TWELVE / 4095), atol=1)
    with_overlay = TWELVE | np.uint16(0x8000)  # bits above those that are stored hold no pixels
    np.testing.assert_array_equal(grey(dicom(with_overlay, BitsStored=12, syntax=syntax)), found.pixels[:, :, 0])
    assert np.array_equal(grey(dicom(EIGHT, syntax=syntax)), EIGHT)


def test_monochrome1_has_white_for_0() -> None:
    assert np.array_equal(grey(dicom(EIGHT, kind="MONOCHROME1")), 255 - EIGHT)
    asked = {"value_range": ((0.0, 4095.0),)}
    data = dicom(TWELVE, kind="MONOCHROME1", BitsStored=12, WindowCenter=9, WindowWidth=9)
    np.testing.assert_allclose(grey(data, **asked), as_16_bits(1 - TWELVE / 4095), atol=1)
    wide = decode(dicom(EIGHT[:8], kind="MONOCHROME1"), size_px=SIDE, fit="pad", background=255, max_megapixels=1.0)
    assert np.unique(wide.pixels[0]).tolist() == [255]


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("centre", "width"), [(40, 400), (300, 60), (-600.5, 1500)])
def test_a_window_is_what_pydicom_makes_of_it(function: str, centre: float, width: float) -> None:
    elements: dict[str, Any] = {"RescaleSlope": "1", "RescaleIntercept": "-1024", "VOILUTFunction": function}
    data = dicom(TWELVE, BitsStored=12, WindowCenter=[centre, 1], WindowWidth=[width, 9], **elements)
    dataset = pydicom.dcmread(BytesIO(data))
    wanted = apply_windowing(TWELVE.astype(np.float64) - 1024, dataset)
    np.testing.assert_allclose(grey(data), as_16_bits((wanted + 1024) / 4095), atol=2)
    assert any("own window" in note for note in read(data).notes)


def test_with_a_range_the_values_are_those_of_the_modality_and_no_window_is_used() -> None:
    units: dict[str, Any] = {"RescaleSlope": "2", "RescaleIntercept": "-1024", "BitsStored": 12}
    data = dicom(TWELVE, WindowCenter=40, WindowWidth=400, **units)
    found, hounsfield = read(data, value_range=((-1000.0, 400.0),)), TWELVE * 2.0 - 1024
    np.testing.assert_allclose(found.pixels[:, :, 0], as_16_bits(((hounsfield + 1000) / 1400).clip(0, 1)), atol=1)
    assert found.measured is not None
    assert found.measured.used == ((hounsfield.min(), hounsfield.max()),)
    assert found.notes == ()


def test_signed_values_without_a_window_need_a_range_and_with_one_do_not() -> None:
    signed = TWELVE.astype(np.int16) - 1024
    with pytest.raises(UnusableError, match=r"no known range; they go from -10\d\d to 30\d\d: set prepare.value_range"):
        read(dicom(signed))
    np.testing.assert_allclose(grey(dicom(signed), value_range=((-1024.0, 3071.0),)), as_16_bits(TWELVE / 4095), atol=1)
    assert np.ptp(grey(dicom(signed, WindowCenter=1024, WindowWidth=2048))) > 60000


def test_the_windows_of_enhanced_files_are_those_of_each_frame_or_of_all() -> None:
    def group(sequence: str, **elements: Any) -> pydicom.Dataset:
        inner, outer = pydicom.Dataset(), pydicom.Dataset()
        for name, value in elements.items():
            setattr(inner, name, value)
        setattr(outer, sequence, pydicom.Sequence([inner]))
        return outer

    frames = np.stack([TWELVE, TWELVE])
    shared = group("PixelValueTransformationSequence", RescaleSlope="1", RescaleIntercept="-1024")
    own = [group("FrameVOILUTSequence", WindowCenter=str(centre), WindowWidth="100") for centre in (0, 2000)]
    data = dicom(
        frames, NumberOfFrames=2, BitsStored=12,
        SharedFunctionalGroupsSequence=pydicom.Sequence([shared]),
        PerFrameFunctionalGroupsSequence=pydicom.Sequence(own),
    )  # fmt: skip
    for number, centre in enumerate((0, 2000)):
        wanted = ((TWELVE - 1024.0 - (centre - 0.5)) / 99 + 0.5).clip(0, 1)
        np.testing.assert_allclose(grey(data, plane=number), as_16_bits(wanted), atol=2)


def test_tables_of_values_are_what_pydicom_makes_of_them() -> None:
    table = pydicom.Dataset()
    table.LUTDescriptor, table.LUTData = [4096, 0, 12], np.arange(4096)[::-1].astype("<u2").tobytes()
    data = dicom(TWELVE, BitsStored=12, VOILUTSequence=pydicom.Sequence([table]))
    np.testing.assert_allclose(grey(data), as_16_bits((4095 - TWELVE) / 4095), atol=1)


def test_colours_are_rgb_however_they_are_stored() -> None:
    assert np.array_equal(read(dicom(RGB)).pixels, RGB)
    planes = np.ascontiguousarray(np.moveaxis(RGB, 2, 0)).reshape(RGB.shape)
    assert np.array_equal(read(dicom(planes, PlanarConfiguration=1)).pixels, RGB)
    wanted = convert_color_space(RGB, "YBR_FULL", "RGB").astype(int)
    assert np.abs(read(dicom(RGB, kind="YBR_FULL")).pixels - wanted).max() <= 1
    halves = np.random.default_rng(5).integers(0, 256, (SIDE, SIDE // 2, 4)).astype(np.uint8)
    data = dicom(halves.reshape(SIDE, SIDE, 2), kind="YBR_FULL_422", SamplesPerPixel=3, Rows=SIDE, Columns=SIDE)
    oracle = pydicom.dcmread(BytesIO(data))
    oracle.PlanarConfiguration = 0
    assert np.abs(read(data).pixels - oracle.pixel_array.astype(int)).max() <= 1


def test_palettes_are_looked_up() -> None:
    names = ("Red", "Green", "Blue")
    tables = [np.random.default_rng(number).integers(0, 65536, 256).astype("<u2") for number in range(3)]
    elements: dict[str, Any] = {f"{name}PaletteColorLookupTableDescriptor": [256, 0, 16] for name in names}
    elements |= {f"{name}PaletteColorLookupTableData": t.tobytes() for name, t in zip(names, tables, strict=True)}
    data = dicom(EIGHT, kind="PALETTE COLOR", **elements)
    assert np.array_equal(read(data).pixels, apply_color_lut(EIGHT, pydicom.dcmread(BytesIO(data))))


def test_single_bits_and_floats_are_read() -> None:
    bits = EIGHT > 127
    packed = np.packbits(bits, bitorder="little").reshape(2, SIDE)
    assert np.array_equal(grey(dicom(packed, Rows=SIDE, Columns=SIDE, BitsAllocated=1, BitsStored=1)), bits * 255)
    floats = EIGHT.astype(np.float32) / 255
    np.testing.assert_allclose(grey(dicom(floats)), as_16_bits(floats), atol=1)
    with pytest.raises(UnusableError, match="not all between 0 and 1; they go from 0 to"):
        read(dicom(floats * 900))


COMPRESSED: dict[str, tuple[str, bytes, int]] = {
    "JPEG of 8 bits": (f"{JPEG}50", encoded("JPEG", EIGHT, quality=100), 8),
    "JPEG of 12 bits": (f"{JPEG}51", bytes(imagecodecs.jpeg8_encode(TWELVE, level=100, bitspersample=12)), 12),
    "JPEG without loss": (f"{JPEG}70", bytes(imagecodecs.ljpeg_encode(TWELVE, bitspersample=12)), 12),
    "JPEG-LS": (f"{JPEG}80", bytes(imagecodecs.jpegls_encode(TWELVE)), 12),
    "JPEG 2000": (f"{JPEG}90", j2k(TWELVE, bitspersample=12), 12),
    "HTJ2K": (f"{JPEG}201", bytes(imagecodecs.htj2k_encode(TWELVE)), 12),
}


@pytest.mark.parametrize("name", COMPRESSED)
def test_every_compression_has_its_pixels_and_is_refused_cut_short(name: str) -> None:
    syntax, frame, bits = COMPRESSED[name]
    values = EIGHT if bits == 8 else TWELVE
    found = grey(dicom(values, BitsStored=bits, syntax=syntax, frames=[frame]))
    top = 255 if bits == 8 else 65535
    np.testing.assert_allclose(found, values / (2**bits - 1) * top, atol=2 * top / 2**bits)
    for share in (0.2, 0.5, 0.9):
        part = frame[: int(len(frame) * share)]
        for marker in (b"", b"\xff\xd9"):
            with pytest.raises(UnusableError, match=r"damaged"):
                read(dicom(values, BitsStored=bits, syntax=syntax, frames=[part + marker]))


@pytest.mark.parametrize("values", [EIGHT, TWELVE, RGB], ids=["8", "12", "colour"])
def test_run_lengths_are_read_and_refused_cut_short(values: NDArray[Any]) -> None:
    dataset = pydicom.dcmread(BytesIO(dicom(values)))
    dataset.compress("1.2.840.10008.1.2.5")
    file = BytesIO()
    dataset.save_as(file)
    assert np.array_equal(read(file.getvalue()).pixels.squeeze(), values)
    with pytest.raises(UnusableError, match="damaged"):
        read(file.getvalue()[:-100])


def test_colours_of_a_jpeg_are_those_that_the_header_names() -> None:
    smooth = np.asarray(Image.fromarray(RGB).resize((4, 4)).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    frame = encoded("JPEG", smooth, quality=100, subsampling=0)
    found = read(dicom(smooth, kind="YBR_FULL_422", syntax=f"{JPEG}50", frames=[frame])).pixels
    assert np.abs(found.astype(int) - smooth).max() < 6
    untransformed = bytes(imagecodecs.jpeg8_encode(smooth, level=100, colorspace="RGB", outcolorspace="RGB"))
    unnamed = untransformed.replace(b"Adobe", b"Xxxxx")
    for letter, number in zip(b"RGB", (1, 2, 3), strict=True):  # in the frame's header and in that of the scan
        unnamed = unnamed.replace(bytes([letter, 0x11]), bytes([number, 0x11])).replace(
            bytes([letter, 0]), bytes([number, 0])
        )
    for frame in (untransformed, untransformed.replace(b"Adobe", b"Xxxxx"), unnamed):
        found = read(dicom(smooth, kind="RGB", syntax=f"{JPEG}50", frames=[frame])).pixels
        assert np.abs(found.astype(int) - smooth).max() < 6
    found = read(dicom(RGB, kind="YBR_RCT", syntax=f"{JPEG}90", frames=[j2k(RGB)])).pixels
    assert np.array_equal(found, RGB)


def test_a_frame_is_chosen_or_all_are_combined() -> None:
    frames = np.stack([EIGHT, 255 - EIGHT, EIGHT // 2])
    data = dicom(frames, NumberOfFrames=3)
    assert read(data).planes == 3
    assert np.array_equal(grey(data), EIGHT)
    assert np.array_equal(grey(data, plane="middle"), 255 - EIGHT)
    assert np.array_equal(grey(data, plane=2), EIGHT // 2)
    assert np.array_equal(grey(data, plane="max"), frames.max(axis=0))
    np.testing.assert_allclose(grey(data, plane="mean"), frames.mean(axis=0), atol=0.51)
    parts = [encoded("JPEG", frame, quality=100) for frame in frames]
    data = dicom(frames, NumberOfFrames=3, syntax=f"{JPEG}50", frames=parts)
    np.testing.assert_allclose(grey(data, plane=2), EIGHT // 2, atol=2)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (
            dicom(EIGHT, syntax="1.2.840.10008.1.2.1.99"),
            r"syntax Deflated .* \(1.2.840.10008.1.2.1.99\) is not",
        ),
        (dicom(EIGHT, syntax=f"{JPEG}100", frames=[b"1234"]), "transfer syntax MPEG2 .* is not read; convert it"),
        (dicom(EIGHT, preamble=False), "looks like a DICOM without its preamble"),
        (dicom(EIGHT, Rows=60000, Columns=60000), "claims more than 1 million pixels"),
        (dicom(EIGHT, kind="CMYK"), "photometric interpretation is not read"),
        (dicom(np.stack([EIGHT]), NumberOfFrames=2_000_000_000), "fewer pixels than its header says"),
        (dicom(EIGHT, Rows=0), "no pixels"),
        (dicom(EIGHT, syntax=f"{JPEG}90", frames=[j2k(np.zeros((900, 900), np.uint8))]), "another size than"),
        (dicom(EIGHT, BitsAllocated=12), "its bits are not read"),
    ],
)
def test_what_is_not_read_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(UnusableError, match=reason):
        read(data)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6, 0.9, 0.99])
def test_a_file_that_ends_early_is_refused(share: float) -> None:
    data = dicom(TWELVE, BitsStored=12)
    with pytest.raises(UnusableError, match=r"damaged|not an image"):
        read(data[: int(len(data) * share)])


def test_no_reason_and_no_warning_names_a_patient(caplog: pytest.LogCaptureFixture) -> None:
    good = [dicom(TWELVE, BitsStored=12, WindowCenter=9, WindowWidth=9), dicom(EIGHT, BurnedInAnnotation="YES")]
    for syntax, frame, bits in COMPRESSED.values():
        good.append(dicom(EIGHT if bits == 8 else TWELVE, BitsStored=bits, syntax=syntax, frames=[frame]))
    said, refused = [note for data in good for note in read(data).notes], 0
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for number in range(600):
            data = mutated(good, 17, number, [b"PN", b"UI", b"DS", b"SQ"])
            try:
                said += read(data).notes
            except UnusableError as error:
                refused += 1
                said.append(str(error))
    assert refused > 200
    said += [str(warning.message) for warning in warned] + [record.getMessage() for record in caplog.records]
    for word in {part for text in PATIENT for part in text.split("^")}:
        assert not [line for line in said if word in line]


def test_only_elements_that_pictures_are_made_of_are_read() -> None:
    header, _, _ = reader._read_header(dicom(TWELVE))
    assert "PatientName" not in header
    assert "StudyInstanceUID" not in header


def test_a_dicom_without_its_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    data, real = dicom(EIGHT), builtins.__import__

    def without(name: str, *arguments: Any) -> Any:
        if name.partition(".")[0] == "pydicom":
            raise ModuleNotFoundError(name=name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingLibraryError, match=r"pydicom is not installed; run `pip install '.*\[dicom\]'`"):
        read(data)
