"""TIFFs of many bands and more than 8 bits: what is read, how it is scaled, and what is refused."""

import struct
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from tests.unit.test_data_decoding import encoded
from thaw.data import pixel_values
from thaw.data.decoding import Picture, UnusableError, decode, from_array
from thaw.pipeline.data_facts import Range


def tiff(values: NDArray[Any], **options: Any) -> bytes:
    """Return [height, width, channels] as a TIFF of bands, as GDAL writes them."""
    buffer = BytesIO()
    separate = options.get("planarconfig") == "separate"
    pixels = np.moveaxis(values, 2, 0) if separate else values
    tifffile.imwrite(
        buffer, pixels, **{"photometric": "minisblack", "planarconfig": "contig", "metadata": None} | options
    )
    return buffer.getvalue()


def read(
    data: bytes, size_px: int = 20, value_range: pixel_values.Ranges | None = None, megapixels: float = 1.0
) -> Picture:
    return decode(data, size_px=size_px, fit="crop", background=255, max_megapixels=megapixels, value_range=value_range)


def noise(channels: int, dtype: str = "uint16", top: int = 65535) -> NDArray[Any]:
    return np.random.default_rng(channels).integers(0, top + 1, (20, 20, channels)).astype(dtype)


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "packbits", "lzma", "zstd"])
@pytest.mark.parametrize("layout", [{}, {"planarconfig": "separate"}, {"tile": (16, 16)}, {"bigtiff": True}])
def test_thirteen_bands_of_16_bits_are_packed_as_they_are(compression: str | None, layout: dict[str, Any]) -> None:
    values = noise(13)
    picture = read(tiff(values, compression=compression, **layout))
    assert picture.pixels.dtype == np.uint16
    assert np.array_equal(picture.pixels, values)
    assert (picture.width, picture.height, picture.planes) == (20, 20, 1)


@pytest.mark.parametrize("channels", [2, 4, 5, 13])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_bands_of_8_bits_stay_8_bits(channels: int, byteorder: Any) -> None:
    values = noise(channels, "uint8", 255)
    picture = read(tiff(values, byteorder=byteorder, predictor=2, compression="lzw"))
    assert picture.pixels.dtype == np.uint8
    assert np.array_equal(picture.pixels, values)
    assert picture.measured is None


def test_a_band_is_resized_like_a_grey_image() -> None:
    values = noise(4, "uint8", 255)
    alone = [read(encoded(Image.fromarray(values[:, :, band])), 9).pixels for band in range(4)]
    assert np.array_equal(read(tiff(values), 9).pixels, np.concatenate(alone, axis=2))


def test_a_fourth_sample_beside_rgb_is_a_band_unless_the_file_calls_it_alpha() -> None:
    values = noise(4, "uint8", 255)
    assert np.array_equal(read(tiff(values, photometric="rgb", extrasamples=["unspecified"])).pixels, values)
    composited = read(tiff(values, photometric="rgb", extrasamples=["unassalpha"])).pixels
    assert composited.shape == (20, 20, 3)


def test_colour_of_16_bits_keeps_them_and_is_grey_if_its_channels_are_equal() -> None:
    values = noise(3)
    assert np.array_equal(read(tiff(values, photometric="rgb")).pixels, values)
    grey = np.repeat(values[:, :, :1], 3, axis=2)
    assert np.array_equal(read(tiff(grey, photometric="rgb")).pixels, values[:, :, :1])
    assert np.array_equal(read(tiff(grey)).pixels, grey)  # three bands are not RGB


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_tag_means_what_it_means_in_a_grey_tiff(orientation: int) -> None:
    values = noise(2, "uint8", 255)[:12]
    exif = Image.Exif()
    exif[274] = orientation
    bands = [read(encoded(Image.fromarray(values[:, :, band]), "TIFF", exif=exif), 12) for band in range(2)]
    picture = read(tiff(values, extratags=[(274, "H", 1, orientation, True)]), 12)
    assert np.array_equal(picture.pixels, np.concatenate([band.pixels for band in bands], axis=2))
    assert (picture.width, picture.height) == (bands[0].width, bands[0].height)


def test_a_value_range_is_spread_over_all_levels_and_clips_beyond_and_says_so() -> None:
    values = np.zeros((20, 20, 2), np.uint16)
    values[:10], values[10:, :, 0], values[10:, :, 1] = 1000, 2000, 9000
    picture = read(tiff(values), value_range=((1000.0, 3000.0),))
    assert picture.pixels[0, 0].tolist() == [0, 0]
    assert picture.pixels[19, 0].tolist() == [32768, 65535]
    assert picture.measured == pixel_values.Measured(((1000.0, 2000.0), (1000.0, 9000.0)), (0.0, 65535.0), 0.25)


def test_each_band_may_have_a_range_of_its_own() -> None:
    values = np.full((20, 20, 2), 100, np.uint16)
    picture = read(tiff(values), value_range=((0.0, 100.0), (0.0, 200.0)))
    assert picture.pixels[0, 0].tolist() == [65535, 32768]
    with pytest.raises(UnusableError, match=r"it has 2 channels, but prepare\.value_range gives 3 ranges"):
        read(tiff(values), value_range=((0.0, 1.0),) * 3)


def test_a_value_range_holds_for_8_bits_as_well() -> None:
    data = encoded(Image.fromarray(np.full((20, 20), 50, np.uint8)))
    assert np.unique(read(data, value_range=((0.0, 100.0),)).pixels).tolist() == [128]
    rgb = encoded(Image.new("RGB", (20, 20), (50, 100, 200)))
    assert read(rgb, value_range=((0.0, 100.0), (0.0, 200.0), (0.0, 200.0))).pixels[0, 0].tolist() == [128, 128, 255]


def test_a_16_bit_png_and_a_tiff_are_scaled_alike() -> None:
    values = noise(1, "uint16", 4095)[:, :, 0]
    png, plain = (encoded(Image.fromarray(values), kind) for kind in ("PNG", "TIFF"))
    ranges = ((0.0, 4095.0),)
    assert np.array_equal(read(png, value_range=ranges).pixels, read(plain, value_range=ranges).pixels)
    assert read(png, value_range=ranges).pixels.max() == round(int(values.max()) * 65535 / 4095)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int16", "int32", "uint32"])
def test_a_type_without_a_known_range_is_read_with_the_range_that_is_given(dtype: str) -> None:
    values = np.full((20, 20, 2), 100, dtype)
    with pytest.raises(UnusableError, match=r"prepare\.value_range"):
        read(tiff(values))
    assert np.unique(read(tiff(values), value_range=((0.0, 200.0),)).pixels).tolist() == [32768]


def test_negative_values_are_read_where_the_range_begins_below_zero() -> None:
    values = np.full((20, 20, 2), -500, np.int16)
    assert np.unique(read(tiff(values), value_range=((-1000.0, 0.0),)).pixels).tolist() == [32768]


def test_nan_is_refused_whatever_the_range() -> None:
    values = np.full((20, 20, 2), np.nan, np.float32)
    with pytest.raises(UnusableError, match="NaN or infinite"):
        read(tiff(values), value_range=((0.0, 1.0),))


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "packbits", "lzma", "zstd"])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.99])
def test_bands_cut_short_are_refused(compression: str | None, share: float) -> None:
    data = tiff(noise(5), compression=compression, rowsperstrip=4)
    with pytest.raises(UnusableError):
        read(data[: int(len(data) * share)])


def with_tag(data: bytes, code: int, **changes: int) -> bytes:
    """Return a little-endian TIFF with one entry of its first directory altered."""
    start = int.from_bytes(data[4:8], "little")
    for index in range(int.from_bytes(data[start : start + 2], "little")):
        place = start + 2 + 12 * index
        entry = dict(zip(("code", "type", "count", "value"), struct.unpack_from("<HHII", data, place), strict=True))
        if entry["code"] == code:
            fresh = struct.pack("<HHII", *(entry | changes).values())
            return data[:place] + fresh + data[place + 12 :]
    raise AssertionError(f"no tag {code}")


@pytest.mark.parametrize(
    ("code", "changes", "reason"),
    [
        (256, {"value": 2**31}, "claims more than 1 million pixels"),
        (
            277,
            {"value": 65535},
            r"needs 210 million bytes to be decoded, more than the 75 million that prepare\.max_meg",
        ),
        (257, {"value": 0}, "no numbers"),
        (258, {"value": 3}, "damaged|no numbers"),
        (259, {"value": 7}, "compression JPEG is not read for bands"),
        (273, {"value": 2**31}, "empty or lie beyond its end"),
        (273, {"value": 0}, "empty or lie beyond its end"),
        (279, {"value": 0}, "empty or lie beyond its end"),
        (278, {"value": 1}, "parts of the TIFF are missing"),
    ],
)
def test_tags_that_cannot_be_are_refused_before_anything_is_decoded(
    code: int, changes: dict[str, int], reason: str
) -> None:
    data = tiff(noise(5), rowsperstrip=20, **({"compression": "zlib"} if code == 277 else {}))
    with pytest.raises(UnusableError, match=reason):
        read(with_tag(data, code, **changes))


def test_a_directory_that_leads_to_itself_ends() -> None:
    data = bytearray(tiff(noise(2)))
    start = int.from_bytes(data[4:8], "little")
    after = start + 2 + 12 * int.from_bytes(data[start : start + 2], "little")
    assert data[after : after + 4] == bytes(4)
    data[after : after + 4] = start.to_bytes(4, "little")
    assert read(bytes(data)).pixels.shape == (20, 20, 2)


@pytest.mark.parametrize(("kind", "planes"), [(0, 2), (1, 1), (4, 1)])
def test_further_pages_are_recorded_but_smaller_copies_and_masks_are_none(kind: int, planes: int) -> None:
    first = noise(4)
    second = np.zeros((20, 20), bool) if kind == 4 else noise(1)[:, :, 0]
    buffer = BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(first, photometric="minisblack", planarconfig="contig", metadata=None)
        writer.write(second, photometric="minisblack", metadata=None, subfiletype=kind)
    picture = read(buffer.getvalue())
    assert np.array_equal(picture.pixels, first)
    assert picture.planes == planes


def test_a_deflate_bomb_takes_no_more_memory_than_its_tags_say() -> None:
    import tracemalloc
    import zlib

    data = tiff(noise(2), compression="zlib")
    bomb = zlib.compress(bytes(2**27))
    start, size = len(data), len(bomb)
    data = with_tag(with_tag(data, 273, value=start, type=4), 279, value=size, type=4) + bomb
    tracemalloc.start()
    with pytest.raises(UnusableError):
        read(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**24


def test_an_array_is_treated_like_the_file_that_holds_it() -> None:
    values = noise(5)
    ranges = ((100.0, 50000.0),)
    array = from_array(values, size_px=11, fit="pad", background=9, value_range=ranges)
    file = decode(tiff(values), size_px=11, fit="pad", background=9, max_megapixels=1.0, value_range=ranges)
    assert np.array_equal(array.pixels, file.pixels)


def test_padding_has_the_level_of_the_background_in_16_bits_too() -> None:
    values = np.zeros((10, 20, 2), np.uint16)
    picture = decode(tiff(values), size_px=20, fit="pad", background=255, max_megapixels=1.0)
    assert np.unique(picture.pixels[0]).tolist() == [65535]
    assert np.unique(picture.pixels[10]).tolist() == [0]


def test_depths_are_changed_so_that_black_and_white_stay() -> None:
    eight = np.arange(256, dtype=np.uint8)
    sixteen = pixel_values.as_depth(eight, np.dtype(np.uint16))
    assert sixteen[[0, 1, 255]].tolist() == [0, 257, 65535]
    assert np.array_equal(pixel_values.as_depth(sixteen, np.dtype(np.uint8)), eight)


def measured(*used: Range, full: Range | None = (0.0, 65535.0)) -> pixel_values.Measured:
    return pixel_values.Measured(used, full, 0.0)


def test_the_report_names_the_range_to_write_where_the_data_use_a_small_part() -> None:
    report = pixel_values.report([measured((7, 4000)), None, measured((3, 4090))], None)
    assert report is not None
    assert report.used == [(3, 4090)]
    assert str(report.warning).endswith("set prepare.value_range: [0, 4095]")
    for ranges, asked in ((measured((0, 20000)), None), (measured((0, 4090)), ((0.0, 4095.0),))):
        quiet = pixel_values.report([ranges], asked)
        assert quiet is not None
        assert quiet.warning is None
    assert pixel_values.report([None, None], None) is None
    floats = pixel_values.report([measured((0.0, 0.2), full=(0.0, 1.0))], None)
    assert str(floats and floats.warning).endswith("set prepare.value_range: [0, 0.2]")
    two = pixel_values.report([measured((0, 10), (0, 900))], ((0.0, 1000.0), (0.0, 1000.0)))
    assert str(two and two.warning).startswith("channels [0] use less than a quarter")
