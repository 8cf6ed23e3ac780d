"""PNM, JPEG 2000, AVIF and HEIC: the right pixels, recognised by content, and nothing that is cut short."""

import builtins
import struct
from collections.abc import Callable
from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
import pillow_heif
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests import cut
from thaw.data import needs
from thaw.data.decoding import Picture, UnusableError, decode
from thaw.errors import MissingLibraryError

GREY = np.random.default_rng(0).integers(0, 256, (16, 16)).astype(np.uint8)
DEEP = np.random.default_rng(1).integers(0, 4096, (16, 16)).astype(np.uint16)
RGB = np.random.default_rng(2).integers(0, 256, (16, 16, 3)).astype(np.uint8)


def read(data: bytes, megapixels: float = 1.0, **options: Any) -> Picture:
    return decode(data, size_px=16, fit="crop", background=255, max_megapixels=megapixels, **options)


def pnm(kind: int, top: int, values: NDArray[Any], comment: str = "") -> bytes:
    height, width = values.shape[:2]
    body = values.astype(">u2" if top > 255 else "u1").tobytes()
    if kind < 4:
        body = " \n".join(map(str, values.ravel().tolist())).encode()
    return f"P{kind}\n{comment}{width} {height}\n{top}\n".encode() + body


def jp2(values: NDArray[Any], **options: Any) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(values, level=0, **options))


def heic(image: Image.Image, **options: Any) -> bytes:
    file = BytesIO()
    pillow_heif.from_pillow(image).save(file, quality=90, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (pnm(5, 255, GREY), GREY),
        (pnm(2, 255, GREY, "# a b 7\n# c\n"), GREY),
        (pnm(6, 255, RGB), RGB),
        (pnm(3, 255, RGB), RGB),
        (pnm(5, 65535, DEEP), DEEP),
        (pnm(5, 4095, DEEP, "# 12 bits\n"), np.rint(DEEP * (65535 / 4095))),
        (pnm(2, 4095, DEEP), np.rint(DEEP * (65535 / 4095))),
        (pnm(6, 65535, RGB.astype(np.uint16) * 257), RGB.astype(np.uint16) * 257),
        (pnm(5, 100, GREY // 3), np.rint(GREY // 3 * 2.55)),
        (cut.encoded("PPM", Image.fromarray(GREY > 127)), (GREY > 127) * 255),
        (cut.encoded("PPM", Image.fromarray(GREY.astype(np.float32) / 255)), GREY.astype(np.uint16) * 257),
    ],
    ids=["P5", "P2", "P6", "P3", "16 bits", "12 bits", "12 bits as text", "colour of 16", "white is 100", "P4", "PFM"],
)
def test_a_pnm_has_the_levels_that_its_header_says(data: bytes, wanted: NDArray[Any]) -> None:
    found = read(data).pixels
    np.testing.assert_allclose(found.squeeze().astype(int), np.squeeze(wanted), atol=1)
    assert found.dtype == (np.uint16 if wanted.max() > 255 else np.uint8)


def test_the_range_of_a_pnm_is_in_the_units_of_the_file() -> None:
    found = read(pnm(5, 65535, DEEP), value_range=((0.0, 4095.0),))
    assert found.measured is not None
    assert found.measured.used == ((DEEP.min(), DEEP.max()),)
    np.testing.assert_allclose(found.pixels[:, :, 0], DEEP * (65535 / 4095), atol=1)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (pnm(5, 65535, DEEP)[:-1], "fewer pixels than its header says"),
        (pnm(5, 4095, DEEP)[:200], "fewer pixels than its header says"),
        (pnm(2, 255, GREY)[:300], "damaged or cut short"),
        (pnm(2, 255, GREY)[:300] + b"x" * 300, "damaged or cut short"),
        (pnm(5, 255, GREY)[:-1], "damaged or cut short"),
        (pnm(5, 1000, DEEP), "above 1000, which its header calls white"),
        (b"P5 60000 60000 4095\n", "claims more than 1 million pixels"),
        (b"P5 0 9 4095\n", "fewer pixels"),
        (b"P2 1000 1000 4095\n", "fewer pixels"),
    ],
)
def test_a_pnm_that_lacks_pixels_or_claims_too_many_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(UnusableError, match=reason):
        read(data)


def test_jpeg_2000_has_its_pixels_also_beyond_8_bits_and_four_bands() -> None:
    assert np.array_equal(read(cut.encoded("JPEG2000", Image.fromarray(RGB))).pixels, RGB)
    assert np.array_equal(read(cut.encoded("JPEG2000", Image.fromarray(GREY), no_jp2=True)).pixels[:, :, 0], GREY)
    twelve = jp2(DEEP, bitspersample=12)
    np.testing.assert_allclose(read(twelve).pixels[:, :, 0], DEEP * (65535 / 4095), atol=1)
    colour = RGB.astype(np.uint16) * 257
    assert np.array_equal(read(jp2(colour)).pixels, colour)
    bands = np.random.default_rng(3).integers(0, 256, (16, 16, 6)).astype(np.uint8)
    assert np.array_equal(read(jp2(bands)).pixels, bands)


def test_signed_values_of_jpeg_2000_need_a_range() -> None:
    data = jp2(DEEP.astype(np.int16) - 1024)
    with pytest.raises(UnusableError, match=r"int16 pixels have no known range; they go from -\d+ to \d+: set prepare"):
        read(data)
    found = read(data, value_range=((-1024.0, 3071.0),))
    np.testing.assert_allclose(found.pixels[:, :, 0], DEEP * (65535 / 4095), atol=1)


def test_avif_and_heic_are_told_apart_by_their_content_and_have_their_pixels() -> None:
    avif = cut.encoded("AVIF", cut.IMAGE, quality=100, subsampling="4:4:4")
    for data in (avif, heic(cut.IMAGE, chroma=444)):
        found = decode(data, size_px=48, fit="crop", background=255, max_megapixels=1.0)
        assert (found.width, found.height, found.planes) == (cut.WIDTH, cut.HEIGHT, 1)
        middle = cut.PIXELS[:, 8:56].astype(int)
        assert np.abs(found.pixels - middle).mean() < 4


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_heic_is_turned_once(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = heic(cut.IMAGE, exif=exif.tobytes())
    upright = read(cut.encoded("PNG", cut.IMAGE, exif=exif))
    found = read(data)
    assert (found.width, found.height) == (upright.width, upright.height)
    assert np.abs(found.pixels.astype(int) - upright.pixels).mean() < 8


def test_transparency_of_avif_and_jpeg_2000_is_laid_on_the_background() -> None:
    clear = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    for kind in ("AVIF", "JPEG2000"):
        assert np.unique(read(cut.encoded(kind, clear)).pixels).tolist() == [255]


CUTS: dict[str, bytes] = {
    "AVIF": cut.encoded("AVIF"),
    "HEIC": heic(cut.IMAGE),
    "JP2": cut.encoded("JPEG2000"),
    "J2K": cut.encoded("JPEG2000", no_jp2=True),
    "JP2 with loss": cut.encoded("JPEG2000", quality_mode="rates", quality_layers=[20, 10], irreversible=True),
    "JP2 of 12 bits": jp2(np.tile(DEEP, (3, 4)), bitspersample=12),
}


@pytest.mark.parametrize("data", CUTS.values(), ids=list(CUTS))
@pytest.mark.parametrize("marker", [b"", b"\xff\xd9"])
def test_what_ends_early_is_refused_whatever_marker_follows(data: bytes, marker: bytes) -> None:
    assert read(data).height == cut.HEIGHT
    for share in (0.1, 0.3, 0.5, 0.7, 0.9, 0.97):
        with pytest.raises(UnusableError, match=r"damaged or cut short|not an image"):
            read(data[: int(len(data) * share)] + marker)


def huge_jpeg_2000() -> bytes:
    data = bytearray(cut.encoded("JPEG2000", no_jp2=True))
    struct.pack_into(">2I", data, 8, 60000, 60000)
    return bytes(data)


def huge_deep_jpeg_2000() -> bytes:
    data = bytearray(jp2(DEEP, codecformat="j2k"))
    struct.pack_into(">2I", data, 8, 60000, 60000)
    return bytes(data)


@pytest.mark.parametrize(
    "write", [huge_jpeg_2000, huge_deep_jpeg_2000, lambda: cut.encoded("AVIF", Image.new("L", (1100, 1000))),
              lambda: heic(Image.new("RGB", (1100, 1000)))],
)  # fmt: skip
def test_more_pixels_than_allowed_are_refused_from_the_header(write: Callable[[], bytes]) -> None:
    with pytest.raises(UnusableError, match="claims more than 1 million pixels"):
        read(write())


@pytest.mark.parametrize(
    "write",
    [
        lambda: cut.encoded("AVIF", Image.new("RGB", (1000, 900))),
        lambda: heic(Image.new("RGB", (1000, 900))),
        lambda: cut.encoded("JPEG2000", Image.new("RGB", (1000, 900))),
        lambda: jp2(np.zeros((900, 1000, 3), np.uint16)),
        lambda: pnm(2, 255, np.zeros((900, 1000), np.uint8)),
    ],
    ids=["AVIF", "HEIC", "JP2", "JP2 of 16 bits", "P2"],
)
def test_what_takes_more_memory_than_allowed_is_refused_from_its_header(
    write: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write()
    assert read(data, megapixels=10.0).pixels.shape[:2] == (16, 16)
    monkeypatch.setattr(needs, "_LEAST_BYTES", 2**16)
    with pytest.raises(UnusableError, match=r"needs \d+ million bytes to be decoded"):
        read(data)


def test_a_heic_without_its_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    data, real = heic(cut.IMAGE), builtins.__import__

    def without(name: str, *arguments: Any) -> Any:
        if name.partition(".")[0] == "pillow_heif":
            raise ModuleNotFoundError(name=name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingLibraryError, match=r"pillow_heif is not installed; run `pip install '.*\[heic\]'`"):
        read(data)
