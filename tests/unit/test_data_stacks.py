"""Stacks of pages and frames: which plane is the picture, and what is said of those that are dark."""

import itertools
import struct
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from tests import cut
from thaw.data import needs, tiff_pages
from thaw.data.decoding import Picture, Plane, UnusableError, decode

SIDE = 16
PLANES = np.random.default_rng(0).integers(0, 256, (4, SIDE, SIDE)).astype(np.uint8)
CHOICES: list[Plane] = ["first", "middle", "max", "mean", 0, 1, 3]


def read(data: bytes, plane: Plane = "first", **options: Any) -> Picture:
    asked: dict[str, Any] = {
        "size_px": SIDE,
        "fit": "crop",
        "background": 255,
        "max_megapixels": 1.0,
        "plane": plane,
    } | options
    return decode(data, **asked)


def tiff(planes: NDArray[Any], **options: Any) -> bytes:
    file = BytesIO()
    with tifffile.TiffWriter(
        file, bigtiff=options.pop("bigtiff", False), byteorder=options.pop("byteorder", "<")
    ) as to:
        for plane in planes:
            to.write(plane, photometric="minisblack", metadata=None, contiguous=False, **options)
    return file.getvalue()


def wanted(planes: NDArray[Any], plane: Plane) -> NDArray[Any]:
    if plane == "max" or plane == "mean":  # noqa: PLR1714 - mypy narrows by these
        combined = planes.max(axis=0) if plane == "max" else planes.astype(float).mean(axis=0)
        return np.asarray(np.rint(combined) if planes.dtype.kind in "ui" else combined)
    return np.asarray(planes[{"first": 0, "middle": len(planes) // 2}.get(str(plane), plane)])


@pytest.mark.parametrize("plane", CHOICES)
@pytest.mark.parametrize("layout", [{}, {"bigtiff": True}, {"byteorder": ">"}, {"compression": "zlib"}])
def test_of_a_tiff_the_page_is_taken_that_is_asked_for(plane: Plane, layout: dict[str, Any]) -> None:
    found = read(tiff(PLANES, **layout), plane)
    assert found.planes == 4
    assert np.array_equal(found.pixels[:, :, 0], wanted(PLANES, plane))


@pytest.mark.parametrize("plane", CHOICES)
def test_pages_of_more_bits_and_bands_are_chosen_and_combined_alike(plane: Plane) -> None:
    deep = PLANES.astype(np.uint16) * 200 + 7
    assert np.array_equal(read(tiff(deep), plane).pixels[:, :, 0], wanted(deep, plane))
    floats = PLANES.astype(np.float32) / 255
    np.testing.assert_allclose(read(tiff(floats), plane).pixels[:, :, 0], wanted(floats, plane) * 65535, atol=1)
    bands = np.stack([PLANES, 255 - PLANES, PLANES // 2, PLANES // 3, PLANES // 4], axis=3)
    found = read(tiff(bands, planarconfig="contig"), plane).pixels
    assert np.array_equal(found, wanted(bands, plane))


@pytest.mark.parametrize("plane", CHOICES)
@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_frame_is_taken_that_is_asked_for(plane: Plane, kind: str) -> None:
    first, *others = (Image.fromarray(plane) for plane in PLANES)
    options = {"lossless": True} if kind == "WEBP" else {}
    data = cut.encoded(kind, first, save_all=True, append_images=others, **options)
    found = read(data, plane)
    assert found.planes == 4
    assert np.array_equal(found.pixels[:, :, 0], wanted(PLANES, plane))


def test_transparency_is_laid_on_the_background_before_frames_are_combined() -> None:
    clear, half = Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0)), Image.new("RGBA", (SIDE, SIDE), (100, 100, 100, 255))
    data = cut.encoded("WEBP", half, save_all=True, append_images=[clear], lossless=True, exact=True)
    assert np.unique(read(data, "max", background=255).pixels).tolist() == [255]
    assert np.unique(read(data, "max", background=0).pixels).tolist() == [100]


def test_a_picture_without_planes_is_itself_for_all_but_a_number_that_it_lacks() -> None:
    data = cut.encoded("PNG", Image.fromarray(PLANES[0]))
    for plane in CHOICES[:5]:
        assert np.array_equal(read(data, plane).pixels[:, :, 0], PLANES[0])
    with pytest.raises(UnusableError, match=r"it has 1 plane, and prepare.plane is 1; they count from 0: name one"):
        read(data, 1)
    with pytest.raises(UnusableError, match=r"it has 4 planes, and prepare.plane is 4"):
        read(tiff(PLANES), 4)


def test_a_plane_that_is_cut_short_is_refused_and_one_that_is_not_used_may_be() -> None:
    data = tiff(PLANES, compression="zlib")
    places = tiff_pages.offsets(data)
    broken = bytearray(data)
    start = broken.index(zlib_of(data, 2))
    broken[start : start + 20] = bytes(20)
    fine: list[Plane] = ["first", 1, 3]
    for plane in fine:
        assert np.array_equal(read(bytes(broken), plane).pixels[:, :, 0], wanted(PLANES, plane))
    spoilt: list[Plane] = [2, "max", "mean"]
    for plane in spoilt:
        with pytest.raises(UnusableError, match="damaged or cut short"):
            read(bytes(broken), plane)
    assert len(places) == 4


def zlib_of(data: bytes, number: int) -> bytes:
    with tifffile.TiffFile(BytesIO(data)) as file:
        page = file.pages[number]
        return data[page.dataoffsets[0] :][: page.databytecounts[0]]


def test_planes_that_differ_in_size_or_type_are_not_combined() -> None:
    for other in (PLANES[1][:8], PLANES[1].astype(np.uint16)):
        file = BytesIO()
        with tifffile.TiffWriter(file) as to:
            for plane in (PLANES[0], other):
                to.write(plane, photometric="minisblack", metadata=None)
        for plane in CHOICES[2:4]:
            with pytest.raises(UnusableError, match="planes 0 and 1 have different sizes, channels or types"):
                read(file.getvalue(), plane)
        assert read(file.getvalue(), 1).planes == 2


DARK = np.stack([*np.random.default_rng(1).integers(0, 3, (2, SIDE, SIDE)).astype(np.uint8), PLANES[0]])


@pytest.mark.parametrize("factor", [np.uint8(1), np.uint16(16), np.float32(1 / 255)])
def test_a_dark_plane_beside_a_bright_one_is_named(factor: Any) -> None:
    data = tiff(DARK * factor)
    note = (
        "plane 0 of 3, which is used, is almost of one value, and plane 2 is not; set prepare.plane to 2, max or mean"
    )
    assert read(data, compare_planes=True).notes == (note,)
    assert read(data).notes == ()
    for plane in CHOICES[2:4]:
        assert read(data, plane, compare_planes=True).notes == ()


def test_planes_that_are_all_dark_or_all_bright_need_no_word() -> None:
    for planes in (DARK[:2], PLANES, np.zeros_like(PLANES)):
        assert read(tiff(planes), compare_planes=True).notes == ()


def test_a_damaged_plane_that_is_only_compared_with_harms_nothing() -> None:
    data = bytearray(tiff(np.stack([DARK[0], PLANES[0], PLANES[1]]), compression="zlib"))
    start = data.index(zlib_of(bytes(data), 1))
    data[start : start + 20] = bytes(20)
    (note,) = read(bytes(data), compare_planes=True).notes
    assert "plane 2 is not" in note


def test_a_chain_of_pages_that_leads_to_itself_or_beyond_the_file_ends() -> None:
    data = bytearray(tiff(PLANES))
    places = tiff_pages.offsets(bytes(data))
    count = struct.unpack_from("<H", data, places[3])[0]
    for target in (places[1], places[3], len(data) + 9, 2**32 - 1):
        struct.pack_into("<I", data, places[3] + 2 + 12 * count, target)
        assert tiff_pages.offsets(bytes(data)) == places
        assert np.array_equal(read(bytes(data), "max").pixels[:, :, 0], PLANES.max(axis=0))


def test_no_more_memory_is_taken_for_many_planes_than_for_two(monkeypatch: pytest.MonkeyPatch) -> None:
    import tracemalloc

    peaks = []
    for count in (2, 40):
        data = tiff(np.zeros((count, 256, 256), np.uint16), compression="zlib")
        tracemalloc.start()
        read(data, "mean")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]
    monkeypatch.setattr(needs, "_LEAST_BYTES", 2**16)
    with pytest.raises(UnusableError, match="million bytes to be decoded"):
        read(tiff(np.zeros((2, 256, 256), np.uint16)), "mean", max_megapixels=0.0656)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 6),
    st.sampled_from(["max", "mean"]),
    st.sampled_from(["uint8", "uint16", "float32"]),
    st.integers(0, 2**32),
)
def test_combining_is_what_numpy_makes_of_all_planes(count: int, plane: Plane, dtype: str, seed: int) -> None:
    planes = np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE)).astype(dtype)
    planes = planes / np.float32(255) if dtype == "float32" else planes
    found = read(tiff(planes), plane).pixels[:, :, 0]
    np.testing.assert_allclose(found, wanted(planes, plane) * (65535 if dtype == "float32" else 1), atol=1)


def test_further_pictures_of_an_mpo_are_no_planes() -> None:
    first, second = Image.new("RGB", (SIDE, SIDE), "red"), Image.new("RGB", (SIDE, SIDE), "blue")
    found = read(cut.encoded("MPO", first, save_all=True, append_images=[second]))
    assert found.planes == 1
    assert found.pixels[0, 0].tolist()[0] > 250


def test_white_is_zero_where_a_tiff_says_so_at_any_depth() -> None:
    for values, top in itertools.product((PLANES[0],), (1, 257)):
        file = BytesIO()
        scaled = values.astype(np.uint8 if top == 1 else np.uint16) * np.uint16(top)
        tifffile.imwrite(file, scaled.astype(np.uint8 if top == 1 else np.uint16), photometric="miniswhite")
        assert np.array_equal(read(file.getvalue()).pixels[:, :, 0], (255 - values.astype(int)) * top)


def of_imagej(planes: NDArray[Any], *, behind: bool = False) -> bytes:
    """Write a stack as ImageJ does beyond 4 GB: one page, whose description names the planes that lie behind it."""
    file = BytesIO()
    tifffile.imwrite(file, planes, imagej=True, truncate=True, byteorder=">")
    data = file.getvalue()
    assert len(tiff_pages.offsets(data)) == 1
    if not behind:
        return data
    place, end = tiff_pages.offsets(data)[0], data.index(planes.astype(planes.dtype.newbyteorder(">")).tobytes())
    moved = bytearray(data[:8] + bytes(end - 8) + data[end:] + data[8:end])  # the directory behind the pixels
    shift = len(data) - 8
    moved[4:8] = struct.pack(">I", place + shift)
    (count,) = struct.unpack_from(">H", moved, place + shift)
    for entry in range(place + shift + 2, place + shift + 2 + 12 * count, 12):
        tag, kind, num, value = struct.unpack_from(">HHII", moved, entry)
        if tag != 273 and num * {1: 1, 2: 1, 3: 2, 4: 4, 5: 8}[kind] > 4:
            struct.pack_into(">I", moved, entry + 8, value + shift)
    return bytes(moved)


@pytest.mark.parametrize("plane", CHOICES)
@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_planes_that_imagej_has_put_behind_one_page_are_planes(plane: Plane, behind: bool, dtype: str) -> None:
    planes = PLANES.astype(dtype)
    found = read(of_imagej(planes, behind=behind), plane, value_range=((0.0, 255.0),))
    same = read(tiff(planes), plane, value_range=((0.0, 255.0),))
    assert found.planes == 4
    assert np.array_equal(found.pixels, same.pixels)


def test_planes_of_colour_behind_one_page_are_planes() -> None:
    colours = np.random.default_rng(1).integers(0, 256, (3, SIDE, SIDE, 3)).astype(np.uint8)
    found = read(of_imagej(colours), 2)
    assert (found.planes, np.array_equal(found.pixels, colours[2])) == (3, True)


def test_a_stack_of_imagej_that_lacks_planes_is_cut_short_and_a_copy_of_its_first_is_said_to_be_one() -> None:
    data = of_imagej(PLANES)
    with pytest.raises(UnusableError, match="it holds 3 of the 4 planes that ImageJ's description names"):
        read(data[:-1])
    found = read(data[: -3 * SIDE * SIDE])
    assert found.planes == 1
    assert found.notes == ("ImageJ's description names 4 planes, and the file holds the first one alone",)
    with tifffile.TiffFile(BytesIO(data)) as stack, Image.open(BytesIO(data)) as image:
        file, described = BytesIO(), {270: stack.pages.first.description}
        image.save(file, "TIFF", compression="tiff_lzw", tiffinfo=described)
    assert read(file.getvalue()).notes == found.notes


def test_a_dark_plane_of_imagej_beside_a_bright_one_is_named() -> None:
    (note,) = read(of_imagej(np.stack([PLANES[0] % 3, PLANES[1]])), compare_planes=True).notes
    assert note.startswith("plane 0 of 2, which is used, is almost of one value, and plane 1 is not")
