"""An image of Pillow as it is looked at: upright, and in a mode whose values are known."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from thaw.data.pixel_values import Bands, UnusableError
from thaw.pipeline.data_facts import Range

_BITS_PER_SAMPLE_TAG, _ORIENTATION_TAG = 258, 274


def is_turned(image: Image.Image) -> bool:
    """Tell whether an image is stored in another orientation than it is shown in."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1)) != 1
    except Exception:  # noqa: BLE001 - damaged EXIF, which counts as none
        return False


def set_upright(image: Image.Image) -> None:
    """Turn an image as its EXIF orientation says; damaged EXIF counts as none."""
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001, S110 - damaged EXIF; the pixels are fine
        pass


def own_range(image: Image.Image) -> Range | None:
    """Return what the values of an image of one channel are scaled by, if they are not of 8 bits."""
    if image.mode.startswith("I;16"):
        bits = int(image.tag_v2.get(_BITS_PER_SAMPLE_TAG, (16,))[0]) if hasattr(image, "tag_v2") else 16
        return 0.0, 2.0**bits - 1
    if image.mode == "I" and image.format == "PNG":  # in older versions of Pillow
        return 0.0, 65535.0
    return (0.0, 1.0) if image.mode == "F" and image.format == "PPM" else None  # a PFM


def in_8_bits(image: Image.Image) -> Image.Image:
    """Return an image of 8 bits or fewer in mode L, RGB or RGBA. Raises: UnusableError for one of 32."""
    if image.mode in ("I", "F"):
        raise UnusableError("32-bit pixels have no known range; convert the image to 8 or 16 bits")
    if image.mode == "RGBA":
        return image
    if image.mode in ("LA", "La", "PA", "RGBa") or "transparency" in image.info:
        return image.convert("RGBA")
    if image.mode in ("L", "RGB"):
        return image  # `convert` would copy it
    return image.convert("L" if image.mode == "1" else "RGB")


def channels_of(image: Image.Image, background: int) -> NDArray[np.uint8]:
    """Return an image of mode L, RGB or RGBA as [height, width, 1 or 3], what shines through it as a grey level."""
    if image.mode == "RGBA":
        behind = Image.new("RGBA", image.size, (background, background, background, 255))
        image = Image.alpha_composite(behind, image).convert("RGB")
    pixels = np.asarray(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def as_bands(found: Any, background: int) -> Bands:
    """Return an image of Pillow as numbers, with its transparency on a grey level; what is numbers already as it is."""
    if isinstance(found, Bands):
        return found
    set_upright(found)
    if (full := own_range(found)) is not None:
        return Bands(np.asarray(found)[:, :, None], full)
    values = channels_of(in_8_bits(found), background)
    return Bands(values, (0.0, 255.0), colour=values.shape[2] == 3)
