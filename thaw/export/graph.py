"""The whole classifier as one network: from packed squares to calibrated probabilities and class maps.

What `thaw.training.model.Model` does in steps is one graph here, to be exported: the plain view of packed squares, the
average over the mirror images in force and over the networks of an ensemble, the temperature.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from thaw.networks.together import Member, Together

# Transpose first (or not), then mirror the rows (or not), then the columns (or not), as in thaw.augment.views.
Symmetry = tuple[bool, bool, bool]

# How far the mean of a layer's output may be from the features, as a share of the largest, to be what they pool.
_POOLED = 1e-4
_WEIGHT_LIMIT = 2**15


class ExportableClassifier(nn.Module):
    """Maps packed squares [images, size_px, size_px, channels] to probabilities [images, classes], float32.

    Where the features are the mean of a layer's output over its places and the head is linear, class maps [images,
    classes, rows, columns] come second. Their mean over rows and columns are the logits that the probabilities are the
    softmax of, so they say exactly what each place adds to an answer: class activation mapping (Zhou et al. 2016,
    arXiv:1512.04150), with the bias, the mirror images and the temperature taken in. Of several networks logits and
    maps are the mean.
    """

    def __init__(
        self,
        members: Sequence[Member],
        *,
        cut: int,
        size_px: int,
        symmetries: Sequence[Symmetry],
        temperature: float,
        dtype: str = "uint8",
    ) -> None:
        """`cut` is the number of blocks that all members share; `dtype` that of the squares, uint8 or uint16."""
        super().__init__()
        backbone = members[0].backbone
        spec = backbone.spec
        self.network = Together(members, cut)
        self.cost = self.network.cost(backbone.example(1)) if len(members) > 1 else 1.0
        """Multiplications of an answer for a view, as a multiple of those of one network."""
        self.symmetries = tuple(symmetries)
        self.temperature = temperature
        full = np.iinfo(dtype).max
        self._in_steps = dtype == "uint8"
        self.register_buffer("resize", resize_weights(size_px, spec.input_px, in_steps=self._in_steps))
        self.register_buffer("scale", torch.tensor([1 / (full * value) for value in spec.input_std]).view(-1, 1, 1))
        shifts = [-mean / std for mean, std in zip(spec.input_mean, spec.input_std, strict=True)]
        self.register_buffer("shift", torch.tensor(shifts).view(-1, 1, 1))
        linear = all(isinstance(member.head, nn.Linear) for member in members)
        branches = self.network.branches() if linear else []
        pooled = [(branch, pooled_layer(branch, backbone.example(2))) for branch in branches]
        found = [(branch, layer) for branch, layer in pooled if layer is not None]
        self.has_maps = bool(found) and len(found) == len(branches)
        self._last: dict[int, Tensor] = {}
        for number, (branch, (path, order)) in enumerate(found if self.has_maps else ()):
            branch.get_submodule(path).register_forward_hook(partial(self._keep, number, order))
        self.eval()

    def forward(self, squares: Tensor) -> tuple[Tensor, ...]:
        """Return the probabilities of packed squares, and their class maps if there are any."""
        plain = self.look(squares)
        views = [mirrored(plain, symmetry) for symmetry in self.symmetries]
        logits = _mean(self.network(torch.cat(views)))
        averaged = _by_view(logits, len(views)).mean(0)
        answers: tuple[Tensor, ...] = (torch.softmax(averaged / self.temperature, dim=1),)
        if not self.has_maps:
            return answers
        heads: Any = self.network.heads
        maps = _mean(
            [
                functional.conv2d(self._last[place], head.weight[:, :, None, None], head.bias)
                for head, place in zip(heads, self.network.suffix_of, strict=True)
            ]
        )
        self._last.clear()
        parts = zip(_by_view(maps, len(views)).unbind(0), self.symmetries, strict=True)
        upright = torch.stack([restored(part, symmetry) for part, symmetry in parts]).mean(0)
        return (*answers, upright / self.temperature)

    def look(self, squares: Tensor) -> Tensor:
        """Return the plain view of packed squares: [images, channels, input_px, input_px], normalised."""
        planes, resize = squares.permute(0, 3, 1, 2).float(), self.get_buffer("resize")
        if resize.shape[0] != resize.shape[1]:
            planes = self._levels(planes @ resize.T)
            planes = self._levels(resize @ planes)
        return planes * self.get_buffer("scale") + self.get_buffer("shift")

    def _levels(self, values: Tensor) -> Tensor:
        return torch.floor(values + 0.5).clamp(0, 255) if self._in_steps else values

    def _keep(self, number: int, order: tuple[int, ...], _module: nn.Module, _given: object, out: Tensor) -> None:
        self._last[number] = out.permute(order)


def _mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack([*values]).mean(0) if len(values) > 1 else values[0]


def _by_view(values: Tensor, num_views: int) -> Tensor:
    return values.reshape(num_views, -1, *values.shape[1:])


def mirrored(images: Tensor, symmetry: Symmetry) -> Tensor:
    """Return images [images, channels, height, width] as one of their mirror images."""
    turn, rows, columns = symmetry
    return _flipped(images.transpose(2, 3) if turn else images, rows, columns)


def restored(images: Tensor, symmetry: Symmetry) -> Tensor:
    """Return the images of which these are mirror images."""
    turn, rows, columns = symmetry
    images = _flipped(images, rows, columns)
    return images.transpose(2, 3) if turn else images


def _flipped(images: Tensor, rows: bool, columns: bool) -> Tensor:
    axes = [axis for axis, wanted in ((2, rows), (3, columns)) if wanted]
    return images.flip(axes) if axes else images


def resize_weights(size_px: int, side_px: int, *, in_steps: bool = True) -> Tensor:
    """Return the matrix [side_px, size_px] by which torch resizes rows of pixels, bilinear and antialiased.

    Of uint8 (`in_steps`) torch weighs with 16-bit integers at the highest precision in which the largest fits, and
    rounds to whole grey levels after the columns and again after the rows. With the same weights as float32 the result
    is the same. Other types are resized as float32, and not rounded.
    """
    rows = torch.eye(size_px, dtype=torch.float64)[None, None]
    exact: Tensor = functional.interpolate(rows, size=(side_px, size_px), mode="bilinear", antialias=True)[0, 0]
    if not in_steps:
        return exact.float()
    bits = 0
    while bits < 22 and int(0.5 + float(exact.max()) * 2 ** (bits + 1)) < _WEIGHT_LIMIT:
        bits += 1
    rounded: Tensor = torch.floor(exact * 2**bits + 0.5) / 2**bits
    return rounded.float()


def pooled_layer(network: nn.Module, images: Tensor) -> tuple[str, tuple[int, ...]] | None:
    """Return the layer whose output, averaged over its places, is the network's features; None if there is none.

    The second value puts the axes of its output in the order images, channels, rows, columns. Of several such layers it
    is the last. Found out by running the network on noise, so it needs no knowledge of architectures.
    """
    outputs: dict[str, object] = {}
    hooks = [
        module.register_forward_hook(lambda _module, _given, out, path=path: outputs.update({path: out}))
        for path, module in network.named_modules()
        if path
    ]
    try:
        with torch.inference_mode():
            noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
            features = network(noise)
    finally:
        for hook in hooks:
            hook.remove()
    if features.ndim != 2:
        return None
    for path, out in reversed(outputs.items()):
        if not isinstance(out, Tensor) or out.ndim != 4:
            continue
        for axes, order in (((2, 3), (0, 1, 2, 3)), ((1, 2), (0, 3, 1, 2))):
            mean, places = out.mean(axes), out.shape[axes[0]] * out.shape[axes[1]]
            if (
                places > 1
                and mean.shape == features.shape
                and (mean - features).abs().max() <= _POOLED * features.abs().max()
            ):
                return path, order
    return None
