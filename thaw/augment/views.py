"""Views of packed images: what the network sees, as a pure function of (seed, sample id, view number).

View 0 is the plain image. Mirror images are enumerated, not drawn, so that the views of a phase hold each equally
often; everything else is drawn for views from 1 on, from a counter-based generator keyed by seed, id and view. An
image's view does not depend on which other images are in the batch, not even in its last bit.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2 import functional as transforms

from thaw.config.schema import AugmentParams
from thaw.data.pixel_values import Pixels
from thaw.errors import DataError, ParamsError

# A symmetry of the square: transpose first (or not), then mirror the rows (or not), then the columns (or not).
_Symmetry = tuple[bool, bool, bool]
_NO_YES = (False, True)
_SYMMETRIES: dict[str, tuple[_Symmetry, ...]] = {
    "none": ((False, False, False),),
    "horizontal": ((False, False, False), (False, False, True)),
    "vertical": ((False, False, False), (False, True, False)),
    "both": tuple((False, rows, columns) for rows in _NO_YES for columns in _NO_YES),
    "square": tuple((turn, rows, columns) for turn in _NO_YES for rows in _NO_YES for columns in _NO_YES),
}

# Inception's random crop keeps aspect ratios between these (Szegedy et al. 2015, arXiv:1409.4842, section 6).
_ASPECT = (3 / 4, 4 / 3)
_NUM_DRAWS = 11  # always as many, so that one setting's draws do not depend on another's


def render(
    images: Pixels,
    ids: Sequence[str],
    views: Sequence[int],
    *,
    seed: int,
    augment: AugmentParams,
    input_px: int,
    channels: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> Tensor:
    """Return one view of each image, ready for the network.

    `images` is [images, height, width, channels]; `ids` and `views` name the sample and the view of each. The result is
    float32 [images, channels, input_px, input_px], channels last in memory, scaled as (x / 255 - mean) / std, or by
    65535 for uint16. Raises: DataError for images of other channels than the network's, but grey serves three;
    ParamsError for saturation or hue where there is no colour.
    """
    num_images, _, _, num_channels = images.shape
    if num_channels not in (channels, 1) or (num_channels == 1 and channels not in (1, 3)):
        raise DataError(
            f"the images have {num_channels} channels but the network was built for {channels}; "
            "rebuild it with `dvc repro`, or convert the images"
        )
    _require_colour(num_channels, augment)
    full = int(np.iinfo(images.dtype).max)
    # One value per number of an image, channels last: a loop over contiguous memory is three times as fast as one
    # that broadcasts over channels (77 against 271 us per image, 224 px).
    scale = torch.tensor([1 / (full * deviation) for deviation in std]).repeat(input_px**2)
    shift = torch.tensor([-level / deviation for level, deviation in zip(mean, std, strict=True)]).repeat(input_px**2)
    out = torch.empty((num_images, channels, input_px, input_px), memory_format=torch.channels_last)
    draws_anything = _draws_anything(augment)
    with _one_thread():
        for target, image, name, view in zip(out.permute(0, 2, 3, 1), images, ids, views, strict=True):
            symmetry = symmetry_of(name, view, seed=seed, flip=augment.flip)
            if draws_anything and view > 0:
                draws = _generator(seed, name, view).random(_NUM_DRAWS).tolist()
                placed = _place(_mirror(_planes(image), symmetry), draws, augment, input_px)
                shown = _colour(placed, draws, augment, full)
            else:
                shown = _mirror(_resize(_planes(image), input_px), symmetry)
            target.copy_(shown[0].permute(1, 2, 0))
            torch.addcmul(shift, target.view(-1), scale, out=target.view(-1))
    return out


def _require_colour(num_channels: int, augment: AugmentParams) -> None:
    for name, amount in (("saturation", augment.saturation), ("hue", augment.hue)):
        if amount > 0 and num_channels != 3:
            raise ParamsError(
                f"params.yaml: augment.{name} is {amount:g}, but images of {num_channels} "
                f"channel{'s' if num_channels > 1 else ''} have no colour; set it to 0"
            )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch to one thread: an image is too small to share, and waiting threads ruin a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def still(augment: AugmentParams) -> AugmentParams:
    """Return the augmentation that only mirrors, as `augment` does: what answers are averaged over."""
    return augment.model_copy(
        update={"crop_scale": 1.0, "rotate_deg": 0.0, "shift": 0.0}
        | dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0.0)
    )


def num_answers(augment: AugmentParams) -> int:
    """Return how many views an answer is averaged over: all mirror images in force, or the plain image alone."""
    return len(_SYMMETRIES[augment.flip]) if augment.tta else 1


def num_distinct(num_views: int, augment: AugmentParams) -> int:
    """Return how many of the first views differ: where only mirror images are shown, they come round again."""
    return num_views if _draws_anything(augment) else min(num_views, len(_SYMMETRIES[augment.flip]))


def symmetry_of(name: str, view: int, *, seed: int, flip: str) -> _Symmetry:
    """Return which mirror image a view shows: none for view 0, then the others in an order of the sample's own."""
    group = _SYMMETRIES[flip]
    step = view % len(group)
    if step == 0:
        return group[0]
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return sorted(group[1:], key=lambda symmetry: digest[group.index(symmetry)])[step - 1]


def _generator(seed: int, name: str, view: int) -> np.random.Generator:
    """Return a generator of its own for each (seed, id, view): Philox (Salmon et al. 2011), keyed by a hash."""
    key = hashlib.sha256(f"{seed}:{name}:{view}".encode()).digest()[:16]
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "big")))


def _draws_anything(augment: AugmentParams) -> bool:
    amounts = (augment.rotate_deg, augment.shift, augment.brightness, augment.contrast, augment.saturation, augment.hue)
    return augment.crop_scale < 1 or any(amount > 0 for amount in amounts)


def _mirror(batch: Tensor, symmetry: _Symmetry) -> Tensor:
    turn, rows, columns = symmetry
    axes = [axis for axis, mirrored in ((2, rows), (3, columns)) if mirrored]
    return (batch.transpose(2, 3) if turn else batch).flip(axes)


def _planes(image: Pixels) -> Tensor:
    """Return an image [height, width, channels] as [1, channels, height, width], its memory order as it was.

    16 bits become float32, which holds them exactly: torch cannot resize them.
    """
    values = image if image.dtype == np.uint8 else image.astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(values)).permute(2, 0, 1)[None]


def _resize(batch: Tensor, side_px: int) -> Tensor:
    """Return uint8 or float images at side_px by side_px, antialiased.

    On uint8 torch resizes colour six times as fast as on float32 (160 against 1,100 us per image, 256 to 224 px), at
    most one grey level off, and grey to the same values as its three-channel copy.
    """
    if batch.shape[2] == batch.shape[3] == side_px:
        return batch
    return functional.interpolate(batch, size=(side_px, side_px), mode="bilinear", antialias=True)


def _place(image: Tensor, draws: list[float], augment: AugmentParams, input_px: int) -> Tensor:
    """Return the image [1, channels, height, width] cropped, resized, rotated, shifted; edges are mirrored outwards."""
    top, left, height, width = _crop_box(image.shape[2], image.shape[3], augment.crop_scale, draws[:4])
    image = _resize(image[:, :, top : top + height, left : left + width], input_px).float()
    if augment.rotate_deg == 0 and augment.shift == 0:
        return image
    angle = math.radians(augment.rotate_deg * (2 * draws[4] - 1))
    # affine_grid counts the side as 2, from -1 to 1.
    shifts = [2 * augment.shift * (2 * draw - 1) for draw in draws[5:7]]
    cosine, sine = math.cos(angle), math.sin(angle)
    matrix = torch.tensor([[[cosine, -sine, shifts[0]], [sine, cosine, shifts[1]]]])
    grid = functional.affine_grid(matrix, list(image.shape), align_corners=False)
    return functional.grid_sample(image, grid, padding_mode="reflection", align_corners=False)


def _crop_box(height: int, width: int, crop_scale: float, draws: list[float]) -> tuple[int, int, int, int]:
    """Return (top, left, height, width) of a random crop, in pixels; its share of the area is in [crop_scale, 1]."""
    area = 1 - (1 - crop_scale) * draws[0]
    # No narrower than its area allows: beyond that, one side would be longer than the image's.
    low, high = max(_ASPECT[0], area), min(_ASPECT[1], 1 / area)
    aspect = math.exp(math.log(low) + (math.log(high) - math.log(low)) * draws[1])
    box_height = min(height, max(1, round(height * math.sqrt(area / aspect))))
    box_width = min(width, max(1, round(width * math.sqrt(area * aspect))))
    top, left = round((height - box_height) * draws[2]), round((width - box_width) * draws[3])
    return top, left, box_height, box_width


def _colour(image: Tensor, draws: list[float], augment: AugmentParams, full: int) -> Tensor:
    """Return the image, 0 to `full`, with its colours jittered, always in the same order; bands one by one."""
    factors: list[tuple[Any, float, float]] = [
        (transforms.adjust_brightness, augment.brightness, 1 + augment.brightness * (2 * draws[7] - 1)),
        (transforms.adjust_contrast, augment.contrast, 1 + augment.contrast * (2 * draws[8] - 1)),
    ]
    if image.shape[1] == 3:  # a grey image has neither saturation nor hue
        factors += [
            (transforms.adjust_saturation, augment.saturation, 1 + augment.saturation * (2 * draws[9] - 1)),
            (transforms.adjust_hue, augment.hue, augment.hue * (2 * draws[10] - 1)),
        ]
    banded = image.shape[1] not in (1, 3)  # torchvision knows grey and RGB: each band is a grey image
    image = (image.transpose(0, 1) if banded else image) / full
    for adjust, amount, factor in factors:
        if amount > 0:
            image = adjust(image, factor)
    image = image.clamp(0, 1) * full
    return image.transpose(0, 1) if banded else image
