"""A file that lacks pixels is refused, whatever its markers say, and one that lacks none is not."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests import cut
from thaw.data import jpeg, needs
from thaw.data.decoding import Picture, UnusableError, decode


def read(data: bytes, megapixels: float = 1.0) -> Picture:
    return decode(data, size_px=16, fit="squash", background=255, max_megapixels=megapixels)


PLAIN: dict[str, dict[str, Any]] = {
    "baseline": {},
    "4:4:4": {"subsampling": 0},
    "restarts": {"restart_marker_rows": 1},
    "progressive": {"progressive": True},
}


@pytest.mark.parametrize("options", PLAIN.values(), ids=list(PLAIN))
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_with_an_end_marker_behind_the_cut_is_refused(options: dict[str, Any], mode: str) -> None:
    image = cut.IMAGE.convert(mode)
    assert read(cut.jpeg(1, image, **options)).width == cut.WIDTH
    for share in (0.1, 0.5, 0.9, 0.96):
        with pytest.raises(UnusableError, match="damaged or cut short"):
            read(cut.jpeg(share, image, **options))


def test_a_progressive_jpeg_that_ends_between_two_scans_is_refused() -> None:
    data = cut.jpeg(1, progressive=True)
    scans = [place for place in range(len(data)) if data[place : place + 2] == b"\xff\xda"]
    assert len(scans) == 10
    for place in scans[1:]:
        with pytest.raises(UnusableError, match="the JPEG lacks scans"):
            read(data[:place] + b"\xff\xd9")


@pytest.mark.parametrize("level", [126, 127, 128, 129, 130])
def test_a_jpeg_that_is_grey_where_a_missing_block_would_be_is_whole(level: int) -> None:
    data = cut.encoded("JPEG", Image.new("RGB", (40, 40), (level, level, level)))
    assert np.unique(read(data).pixels).tolist() == [level]


def test_a_jpeg_of_more_scans_than_any_encoder_writes_is_refused_unread() -> None:
    data = cut.jpeg(1, progressive=True)
    start = data.index(b"\xff\xda")
    scan = data[start : data.index(b"\xff", start + 2)]
    with pytest.raises(UnusableError, match="too many scans"):
        read(data[:start] + scan * jpeg.MOST_SCANS + data[start:])


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("rows", [1, 5, 24, 47])
def test_a_png_without_its_last_rows_is_refused(rows: int, interlaced: bool) -> None:
    assert read(cut.png(cut.HEIGHT, interlaced=interlaced)).height == cut.HEIGHT
    with pytest.raises(UnusableError, match="damaged or cut short"):
        read(cut.png(rows, interlaced=interlaced))


@pytest.mark.parametrize("level", [0, 74, 181, 255])
def test_a_png_of_the_colour_that_it_is_painted_with_is_whole_and_without_its_last_row_is_not(level: int) -> None:
    assert np.unique(read(cut.png(cut.HEIGHT, level=level)).pixels).tolist() == [level]
    with pytest.raises(UnusableError, match="rows are missing"):
        read(cut.png(cut.HEIGHT - 1, level=level))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("level", [0, 1, 181])
def test_a_png_of_any_mode_keeps_its_pixels(mode: str, level: int) -> None:
    plain = Image.new("L", (9, 9), level if mode != "1" else 255 * (level > 127))
    image = plain.convert(mode) if mode != "I;16" else Image.new("I;16", (9, 9), level)
    pixels = read(cut.encoded("PNG", image)).pixels
    assert np.unique(pixels).tolist() == [255 * (level > 127) if mode == "1" else level]


CUTS: dict[str, Callable[[float], bytes]] = {
    "GIF": lambda share: cut.gif(int(cut.WIDTH * cut.HEIGHT * share)),
    "WebP": cut.webp,
    "WebP without loss": lambda share: cut.webp(share, lossless=True),
    "BMP of runs": cut.bmp,
    "TIFF": lambda share: cut.tiff(share, "raw"),
    "TIFF, LZW": lambda share: cut.tiff(share, "tiff_lzw"),
    "TIFF, deflate": lambda share: cut.tiff(share, "tiff_adobe_deflate"),
    "TIFF, packbits": lambda share: cut.tiff(share, "packbits"),
    "TIFF, JPEG": lambda share: cut.tiff(share, "jpeg"),
    "TIFF, fax": lambda share: cut.tiff(share, "group4", "1"),
    "TIFF, strips": lambda share: cut.tiff(share, "raw", missing=share < 1),
    "TIFF, strips of JPEG": lambda share: cut.tiff(share, "jpeg", missing=share < 1),
}


@pytest.mark.parametrize("write", CUTS.values(), ids=list(CUTS))
def test_every_other_format_is_refused_where_its_data_end_early(write: Callable[[float], bytes]) -> None:
    assert read(write(1)).height == cut.HEIGHT
    for share in (0.3, 0.5, 0.9):
        with pytest.raises(UnusableError, match=r"damaged or cut short|not an image"):
            read(write(share))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 40), st.sampled_from(["L", "RGB", "CMYK"]), st.booleans(), st.integers(0, 2),
    st.integers(1, 100), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_a_whole_jpeg_is_never_refused(
    width: int, height: int, mode: str, progressive: bool, subsampling: int, quality: int, seed: int
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8) // (seed % 3 * 60 + 1)
    image = Image.fromarray(pixels.astype(np.uint8)).convert(mode)
    options = {"subsampling": subsampling} if mode == "RGB" else {}
    data = cut.encoded("JPEG", image, progressive=progressive, quality=quality, **options)
    assert (read(data).width, read(data + b"\xff\xd8 more").height) == (width, height)


HUNGRY: dict[str, Callable[[], bytes]] = {
    "WebP": lambda: cut.encoded("WEBP", Image.new("RGB", (1000, 2000)), lossless=True, method=0),
    "progressive": lambda: cut.encoded("JPEG", Image.new("CMYK", (1000, 2000)), progressive=True),
    "thin": lambda: cut.encoded("PNG", Image.new("L", (2_000_000, 1))),
}


@pytest.mark.parametrize("write", HUNGRY.values(), ids=list(HUNGRY))
def test_what_takes_more_memory_than_its_pixels_say_is_refused_from_its_header(
    write: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write()
    assert read(data, megapixels=100.0).pixels.shape[:2] == (16, 16)
    monkeypatch.setattr(needs, "_LEAST_BYTES", 2**16)
    with pytest.raises(UnusableError, match=r"needs \d+ million bytes to be decoded, more than .* make it smaller, or"):
        read(data, megapixels=2.0)
