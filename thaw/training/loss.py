"""Classes of unequal size, and examples between classes: weights in the loss, mixup and cutmix."""

import difflib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thaw.config.schema import PhaseParams
from thaw.errors import ParamsError


def class_weights(asked: str | Mapping[str, float], labels: NDArray[np.int64], classes: Sequence[str]) -> Tensor | None:
    """Return the weight of each class in the loss [classes], or None if all are equal.

    `balanced` is inverse to the number of training images, with a mean of 1 over them, as in scikit-learn.
    Raises: ParamsError if a weight is given to a class that does not exist, or to each the same.
    """
    if isinstance(asked, str):
        if asked == "none":
            return None
        counts = np.bincount(labels, minlength=len(classes)).clip(1)
        return torch.from_numpy(len(labels) / (len(classes) * counts)).float()
    for name in asked:
        if name not in classes:
            close = difflib.get_close_matches(name, classes, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(classes)}"
            raise ParamsError(f"params.yaml: class_weights names {name!r}, which is no class; {hint}")
    weights = [float(asked.get(name, 1.0)) for name in classes]
    if len(set(weights)) == 1:
        raise ParamsError("params.yaml: class_weights gives every class the same weight; set it to none")
    return torch.tensor(weights)


def mix(
    boundary: Sequence[Tensor], targets: Tensor, params: PhaseParams, random: Callable[[str], np.random.Generator]
) -> tuple[Sequence[Tensor], Tensor]:
    """Return a batch mixed as a phase asks for: by mixup, by cutmix, or where both are set by one of them.

    Which one is drawn evenly for each batch, as timm's Mixup does. `random` gives this batch's generator for a purpose.
    """
    kinds = [kind for kind, alpha in (("mixup", params.mixup), ("cutmix", params.cutmix)) if alpha > 0]
    if not kinds:
        return boundary, targets
    kind = kinds[int(random("mix").integers(len(kinds)))]
    if kind == "mixup":
        return mixup(boundary, targets, params.mixup, random(kind))
    return cutmix(boundary, targets, params.cutmix, random(kind))


def mixup(
    boundary: Sequence[Tensor], targets: Tensor, alpha: float, generator: np.random.Generator
) -> tuple[list[Tensor], Tensor]:
    """Return each example mixed with another one of its batch, boundary tensors and target probabilities alike.

    The share is drawn from Beta(alpha, alpha) once per batch (Zhang et al. 2018, arXiv:1710.09412). The activations at
    the cut are what is mixed (manifold mixup, Verma et al. 2019, arXiv:1806.05236), so the cache serves this as well.
    """
    share = float(generator.beta(alpha, alpha))
    partner = torch.from_numpy(generator.permutation(len(targets)))
    mixed = [torch.lerp(value[partner.to(value.device)], value, share) for value in boundary]
    return mixed, torch.lerp(targets[partner], targets, share)


def cutmix(
    boundary: Sequence[Tensor], targets: Tensor, alpha: float, generator: np.random.Generator
) -> tuple[list[Tensor], Tensor]:
    """Return each example with a box of another one of its batch in it, and the target probabilities mixed by area.

    CutMix (Yun et al. 2019, arXiv:1905.04899, section 3 and appendix A) on the activations at the cut: the share that
    stays is drawn from Beta(alpha, alpha), the box has the proportions of the map and an evenly drawn centre, and what
    lies outside is cut off. The box is one for all boundary tensors, rounded to the cells of each; targets are mixed by
    the mean of the areas that were pasted.
    """
    side = float(np.sqrt(1 - generator.beta(alpha, alpha)))
    edges = [(centre - side / 2, centre + side / 2) for centre in generator.random(2)]
    partner = torch.from_numpy(generator.permutation(len(targets)))
    mixed, shares = [], []
    for value in boundary:
        axes = map_axes(value.shape[1:])
        assert axes is not None, "checked before training"
        box = [slice(None)] * value.ndim
        for axis, (low, high) in zip(axes, edges, strict=True):
            cells = value.shape[axis + 1]
            box[axis + 1] = slice(round(max(low, 0.0) * cells), round(min(high, 1.0) * cells))
        pasted = value.clone()
        pasted[tuple(box)] = value[tuple(box)][partner.to(value.device)]
        mixed.append(pasted)
        shares.append(pasted[tuple(box)].numel() / value.numel())
    return mixed, torch.lerp(targets, targets[partner], float(np.mean(shares)))


def map_axes(shape: Sequence[int]) -> tuple[int, int] | None:
    """Return which axes of one image's activation are its rows and columns, or None if it is no map.

    The network's input is square, so its maps are as well: channels first (ResNet) or last (Swin).
    """
    if len(shape) == 3 and shape[1] == shape[2] > 1:
        return (1, 2)
    if len(shape) == 3 and shape[0] == shape[1] > 1:
        return (0, 1)
    return None


def require_maps(phase: str, shapes: Sequence[Sequence[int]]) -> None:
    """Raises: ParamsError if an activation at the cut, of these shapes for one image, has no box to cut out."""
    for shape in shapes:
        if map_axes(shape) is None:
            raise ParamsError(
                f"params.yaml: unfreeze.phases.{phase}.cutmix needs rows and columns to cut a box from, but an "
                f"activation at the cut is {'x'.join(map(str, shape))} (tokens or pooled values); use mixup instead, "
                "or choose a depth at which all of them are maps (`thaw blocks`); with all, it is the image"
            )
