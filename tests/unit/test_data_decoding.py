"""What is read, and exactly how it becomes grey or RGB."""

import struct
from io import BytesIO
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from thaw.data.decoding import Picture, UnusableError, decode

Fit = Literal["crop", "pad", "squash"]


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def read(
    data: bytes, *, size_px: int = 16, fit: Fit = "crop", background: int = 255, megapixels: float = 1.0
) -> Picture:
    return decode(data, size_px=size_px, fit=fit, background=background, max_megapixels=megapixels)


def noise(height: int, width: int, channels: int = 3) -> NDArray[np.uint8]:
    values = np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return values if channels > 1 else values[:, :, 0]


def photo(kind: str, **options: Any) -> bytes:
    return encoded(Image.fromarray(noise(40, 60)), kind, **options)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF"])
def test_every_allowed_format_is_read(kind: str) -> None:
    picture = read(photo(kind))
    assert picture.pixels.shape == (16, 16, 3)
    assert (picture.width, picture.height, picture.planes) == (60, 40, 1)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_file_cut_short_is_refused(kind: str, share: float) -> None:
    data = photo(kind)
    with pytest.raises(UnusableError):
        read(data[: int(len(data) * share)])


def test_a_progressive_jpeg_that_ends_after_its_first_scan_is_refused() -> None:
    data = photo("JPEG", progressive=True)
    second_scan = data.index(b"\xff\xda", data.index(b"\xff\xda") + 2)
    with pytest.raises(UnusableError, match="cut short"):
        read(data[:second_scan])


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_bytes_after_the_end_change_nothing(kind: str) -> None:
    assert np.array_equal(read(photo(kind)).pixels, read(photo(kind) + b"\xff\xd8 garbage" * 9).pixels)


@pytest.mark.parametrize(
    "data",
    [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"<html></html>",
        b"\x1f\x8b\x08\x00",
        encoded(Image.new("RGB", (9, 9)), "PCX"),
        encoded(Image.new("RGB", (9, 9)), "EPS"),
        encoded(Image.new("RGB", (16, 16)), "ICO"),
    ],
)
def test_other_content_is_not_opened(data: bytes) -> None:
    with pytest.raises(UnusableError, match="not an image of a format that is read"):
        read(data)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_gives_the_pixels_of_the_upright_twin(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    data = photo(kind, exif=exif, **options)
    with Image.open(BytesIO(photo(kind, **options))) as plain:
        plain.getexif()[0x0112] = orientation
        upright = encoded(ImageOps.exif_transpose(plain.convert("RGB") if orientation == 1 else plain))
    picture, twin = read(data), read(upright)
    assert np.array_equal(picture.pixels, twin.pixels)
    assert (picture.width, picture.height) == (twin.width, twin.height)


def test_damaged_exif_counts_as_none() -> None:
    data = photo("JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    assert np.array_equal(read(data).pixels, read(photo("JPEG")).pixels)


def test_an_orientation_counts_although_another_tag_is_damaged() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    damaged = bytearray(exif.tobytes())
    damaged[17] = 83  # the type of the maker's name: Pillow reads it, and cannot write it
    with Image.open(BytesIO(photo("JPEG", exif=bytes(damaged)))) as image, pytest.raises(struct.error):
        ImageOps.exif_transpose(image)
    picture, twin = read(photo("JPEG", exif=bytes(damaged))), read(photo("JPEG", exif=exif))
    assert np.array_equal(picture.pixels, twin.pixels)
    assert (picture.width, picture.height) == (40, 60)


def flat(mode: str, value: Any, kind: str, **options: Any) -> int:
    pixels = read(encoded(Image.new(mode, (20, 20), value), kind, **options)).pixels
    assert pixels.shape == (16, 16, 1)
    assert pixels.min() == pixels.max()
    return int(pixels[0, 0, 0])


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("value", [0, 1, 257, 32896, 65535])
def test_16_bits_stay_16_bits(kind: str, value: int) -> None:
    pixels = read(encoded(Image.fromarray(np.full((20, 20), value, np.uint16)), kind)).pixels
    assert pixels.shape == (16, 16, 1)
    assert pixels.dtype == np.uint16
    assert np.unique(pixels).tolist() == [value]


@pytest.mark.parametrize(("value", "level"), [(0.0, 0), (0.5, 32768), (1.0, 65535)])
def test_floats_from_0_to_1_are_scaled(value: float, level: int) -> None:
    assert flat("F", value, "TIFF") == level


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan"), float("inf")])
def test_floats_beyond_0_to_1_are_refused(value: float) -> None:
    with pytest.raises(UnusableError, match=r"not all between 0 and 1|NaN or infinite"):
        flat("F", value, "TIFF")


def test_32_bit_integers_are_refused() -> None:
    with pytest.raises(UnusableError, match="no known range"):
        flat("I", 70000, "TIFF")


@pytest.mark.parametrize(("value", "level"), [(0, 0), (1, 255)])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_1_bit_becomes_black_and_white(kind: str, value: int, level: int) -> None:
    assert flat("1", value, kind) == level


@pytest.mark.parametrize(("mode", "value"), [("LA", (10, 0)), ("RGBA", (10, 10, 10, 0)), ("RGBA", (1, 2, 3, 0))])
def test_what_is_transparent_shows_the_background(mode: str, value: tuple[int, ...]) -> None:
    pixels = read(encoded(Image.new(mode, (20, 20), value)), background=77).pixels
    assert np.unique(pixels).tolist() == [77]


def test_half_transparent_black_over_white_is_middle_grey() -> None:
    assert abs(flat("RGBA", (0, 0, 0, 128), "PNG") - 127) <= 1


def test_a_palette_with_transparency_is_composited() -> None:
    image = Image.new("P", (20, 20), 1)
    image.putpalette([255, 0, 0, 0, 255, 0])
    assert read(encoded(image)).pixels[0, 0].tolist() == [0, 255, 0]
    assert read(encoded(image, transparency=1), background=9).pixels[0, 0].tolist() == [9]


def test_cmyk_becomes_rgb() -> None:
    pixels = read(encoded(Image.new("CMYK", (20, 20), (0, 255, 255, 0)), "TIFF")).pixels
    assert pixels[0, 0].tolist() == [255, 0, 0]
    red, green, blue = read(encoded(Image.new("CMYK", (20, 20), (0, 255, 255, 0)), "JPEG")).pixels[0, 0].tolist()
    assert red > 200
    assert max(green, blue) < 50


def test_grey_stored_as_colour_is_one_channel() -> None:
    grey = np.repeat(noise(20, 20, 1)[:, :, None], 3, axis=2)
    assert read(encoded(Image.fromarray(grey))).pixels.shape == (16, 16, 1)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF"])
def test_the_first_frame_is_taken_and_recorded(kind: str) -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    picture = read(encoded(frames[0], kind, save_all=True, append_images=frames[1:]))
    assert picture.planes > 1
    assert picture.pixels[8, 8, 0] > 240
    assert picture.pixels[8, 8, 2] < 15


def test_the_pixel_limit_holds_before_decoding() -> None:
    data = encoded(Image.new("L", (1000, 1000)))
    assert read(data, megapixels=1.0).width == 1000
    for limit in (0.999, 0.4):
        with pytest.raises(UnusableError, match="claims more than"):
            read(data, megapixels=limit)


def test_the_pixel_limit_may_be_above_that_of_pillow() -> None:
    data = encoded(Image.new("1", (10_000, 10_000)))
    before = Image.MAX_IMAGE_PIXELS
    assert read(data, megapixels=100.0).width == 10_000
    assert before == Image.MAX_IMAGE_PIXELS


def test_a_text_bomb_is_refused() -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("bomb", "0" * 50_000_000, zip=True)
    with pytest.raises(UnusableError):
        read(encoded(Image.new("L", (9, 9)), pnginfo=info))


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (30_000, 2), (3, 5)])
@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_any_shape_becomes_the_square(size: tuple[int, int], fit: Fit) -> None:
    picture = read(encoded(Image.new("L", size, 9)), fit=fit, background=9)
    assert np.unique(picture.pixels).tolist() == [9]
    assert (picture.width, picture.height) == size


def test_crop_keeps_the_centre_and_pad_keeps_everything() -> None:
    image = np.zeros((16, 48), np.uint8)
    image[:, 16:32] = 200
    data = encoded(Image.fromarray(image))
    assert np.unique(read(data, fit="crop").pixels).tolist() == [200]
    padded = read(data, fit="pad", background=100, size_px=48).pixels[:, :, 0]
    assert np.unique(padded[:16]).tolist() == np.unique(padded[32:]).tolist() == [100]
    assert np.array_equal(padded[16:32], image)


@pytest.mark.parametrize("size", [(48, 16), (47, 16), (16, 48), (17, 48), (33, 48), (30_000, 2)])
@pytest.mark.parametrize("size_px", [48, 49])
def test_the_border_of_a_padded_image_is_smaller_by_a_pixel_above_and_to_the_left(
    size: tuple[int, int], size_px: int
) -> None:
    pixels = read(encoded(Image.new("L", size, 9)), fit="pad", background=100, size_px=size_px).pixels[:, :, 0]
    for axis, length in enumerate((size[1], size[0])):
        inside = np.flatnonzero((pixels == 9).any(axis=1 - axis))
        assert len(inside) == max(1, round(length * (size_px / max(size))))
        assert inside[0] == (size_px - len(inside)) // 2


def test_a_square_of_the_right_size_is_kept_as_it_is() -> None:
    image = noise(16, 16)
    assert np.array_equal(read(encoded(Image.fromarray(image))).pixels, image)
