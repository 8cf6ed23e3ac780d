"""Views: a pure function of (seed, id, view), with the plain image as view 0."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from thaw.augment.views import num_answers, render, still, symmetry_of
from thaw.config.schema import AugmentParams
from thaw.errors import DataError, ParamsError

NONE: dict[str, Any] = {
    "flip": "none",
    "tta": False,
    "crop_scale": 1.0,
    "rotate_deg": 0.0,
    "shift": 0.0,
    "brightness": 0.0,
    "contrast": 0.0,
    "saturation": 0.0,
    "hue": 0.0,
}
FULL: dict[str, Any] = {
    "flip": "square",
    "tta": True,
    "crop_scale": 0.5,
    "rotate_deg": 20.0,
    "shift": 0.1,
    "brightness": 0.3,
    "contrast": 0.3,
    "saturation": 0.3,
    "hue": 0.1,
}


COLOURLESS: dict[str, Any] = {"saturation": 0.0, "hue": 0.0}


def images(num_images: int, side: int = 24, channels: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (num_images, side, side, channels), dtype=np.uint8)


def shown(
    batch: NDArray[np.unsignedinteger[Any]], views: list[int], *, channels: int = 3, input_px: int = 16, **changes: Any
) -> Tensor:
    return render(
        batch,
        [f"id{index}" for index in range(len(batch))],
        views,
        seed=0,
        augment=AugmentParams(**(NONE | changes)),
        input_px=input_px,
        channels=channels,
        mean=([0.5, 0.4, 0.3] * 2)[:channels],
        std=([0.5, 0.25, 0.2] * 2)[:channels],
    )


def test_view_0_is_the_plain_image_normalised() -> None:
    batch = images(3, side=16)
    out = shown(batch, [0, 0, 0], **FULL)
    expected = (batch / 255 - np.array([0.5, 0.4, 0.3])) / np.array([0.5, 0.25, 0.2])
    np.testing.assert_allclose(out.permute(0, 2, 3, 1).numpy(), expected, atol=1e-5)
    assert out.dtype == torch.float32
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_resizing_is_antialiased() -> None:
    stripes = np.zeros((1, 64, 64, 1), np.uint8)
    stripes[:, :, ::2] = 255
    inner = shown(stripes, [0], channels=1)[0, 0, :, 2:-2]
    assert inner.abs().max() < 0.02  # mean grey is 0 once normalised; picking every fourth pixel would give -1 or 1


@pytest.mark.parametrize("changes", [{"flip": "square"}, FULL], ids=["flips", "everything"])
@pytest.mark.parametrize("stored", [1, 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_does_not_depend_on_its_batch(changes: dict[str, Any], stored: int, channels: int) -> None:
    if stored > channels:
        with pytest.raises(DataError, match="the images have 3 channels but the network was built for 1"):
            shown(images(1, channels=stored), [0], channels=channels)
        return
    changes = changes if stored == 3 else changes | COLOURLESS
    batch, ids, views = images(9, channels=stored), [f"id{i}" for i in range(9)], [0, 1, 2, 3, 4, 5, 6, 7, 8]

    def rendered(order: list[int]) -> Tensor:
        return render(
            batch[order],
            [ids[index] for index in order],
            [views[index] for index in order],
            seed=3,
            augment=AugmentParams(**(NONE | changes)),
            input_px=16,
            channels=channels,
            mean=[0.5] * channels,
            std=[0.5] * channels,
        )

    whole = rendered(list(range(9)))
    assert torch.equal(rendered(list(range(8, -1, -1))).flip(0), whole)
    for index in range(9):
        assert torch.equal(rendered([index])[0], whole[index])


def test_grey_gives_the_same_as_its_three_channel_copy() -> None:
    grey = images(4, channels=1)
    changes = FULL | COLOURLESS | {"contrast": 0.0}
    assert torch.equal(shown(grey, [0, 1, 2, 3], **changes), shown(np.repeat(grey, 3, axis=3), [0, 1, 2, 3], **changes))


@pytest.mark.parametrize(
    ("flip", "size"), [("none", 1), ("horizontal", 2), ("vertical", 2), ("both", 4), ("square", 8)]
)
def test_the_first_views_are_all_mirror_images_once(flip: str, size: int) -> None:
    image = images(1, side=16)
    views = shown(np.repeat(image, size, axis=0), [0] * size, flip=flip)
    bank = [shown(image, [view], flip=flip)[0] for view in range(2 * size)]
    assert torch.equal(bank[0], views[0])
    plain = bank[0]
    turned = [torch.rot90(mirrored, turns, (1, 2)) for mirrored in (plain, plain.flip(2)) for turns in range(4)]
    found = [next(i for i, other in enumerate(turned) if torch.equal(view, other)) for view in bank]
    assert len(set(found[:size])) == size
    assert found[size:] == found[:size]
    if flip == "horizontal":
        assert torch.equal(bank[1], plain.flip(2))
    if flip == "vertical":
        assert torch.equal(bank[1], plain.flip(1))


def test_sixteen_bits_give_what_eight_give() -> None:
    eight = images(3, channels=3)
    sixteen = eight.astype(np.uint16) * np.uint16(257)
    for changes in ({}, FULL):
        close = shown(sixteen, [0, 1, 2], **changes) - shown(eight, [0, 1, 2], **changes)
        assert close.abs().max() < 0.03  # a level and a bit: 8 bits are rounded once they are resized


def test_every_band_is_seen_as_it_would_be_alone() -> None:
    five = images(3, channels=5)
    for changes in ({}, FULL | COLOURLESS):
        whole = shown(five, [0, 1, 2], channels=5, **changes)
        for band in range(5):
            alone = shown(five[:, :, :, [band]], [0, 1, 2], channels=1, **changes)
            mean, std = ([0.5, 0.4, 0.3] * 2)[band], ([0.5, 0.25, 0.2] * 2)[band]
            torch.testing.assert_close(whole[:, [band]] * std + mean, alone * 0.5 + 0.5, atol=0.005, rtol=0)


@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("name", ["saturation", "hue"])
def test_colour_cannot_be_changed_where_there_is_none(name: str, channels: int) -> None:
    with pytest.raises(
        ParamsError, match=rf"augment\.{name} is 0\.1, but images of {channels} channels? have no colour"
    ):
        shown(images(1, channels=channels), [1], channels=channels, **dict[str, Any]({name: 0.1}))


def test_the_order_of_mirror_images_differs_between_samples() -> None:
    orders = {tuple(symmetry_of(f"id{i}", view, seed=0, flip="both") for view in range(4)) for i in range(200)}
    assert len(orders) == 6


@pytest.mark.parametrize("name", ["crop_scale", "rotate_deg", "shift", "brightness", "contrast", "saturation", "hue"])
def test_every_setting_changes_views_but_never_view_0(name: str) -> None:
    batch = images(2)
    plain, changed = shown(batch, [0, 1]), shown(batch, [0, 1], **{name: FULL[name]})
    assert torch.equal(plain[0], changed[0])
    assert not torch.equal(plain[1], changed[1])


def test_seed_id_and_view_all_matter() -> None:
    image = images(1)
    augment = AugmentParams(**(NONE | FULL))
    outs = [
        render(
            image, [name], [view], seed=seed, augment=augment, input_px=16, channels=3, mean=[0.5] * 3, std=[0.5] * 3
        )
        .numpy()
        .tobytes()
        for seed, name, view in [(0, "a", 1), (1, "a", 1), (0, "b", 1), (0, "a", 2), (0, "a", 1)]
    ]
    assert len(set(outs)) == 4
    assert outs[0] == outs[-1]


def test_an_empty_batch_gives_an_empty_tensor() -> None:
    assert shown(images(0), []).shape == (0, 3, 16, 16)


def test_colours_stay_within_their_range() -> None:
    out = shown(images(8), list(range(1, 9)), **FULL)
    levels = out.permute(0, 2, 3, 1).numpy() * np.array([0.5, 0.25, 0.2]) + np.array([0.5, 0.4, 0.3])
    assert levels.min() > -1e-5
    assert levels.max() < 1 + 1e-5


@pytest.mark.parametrize(
    ("flip", "expected"), [("none", 1), ("horizontal", 2), ("vertical", 2), ("both", 4), ("square", 8)]
)
def test_an_answer_is_averaged_over_every_flip_in_force_or_none(flip: str, expected: int) -> None:
    averaged = AugmentParams(**(NONE | {"flip": flip, "tta": True}))
    assert num_answers(averaged) == expected
    assert num_answers(averaged.model_copy(update={"tta": False})) == 1


def test_what_answers_are_averaged_over_only_mirrors() -> None:
    assert still(AugmentParams(**FULL)) == AugmentParams(**(NONE | {"flip": "square", "tta": True}))
