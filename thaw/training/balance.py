"""Classes of unequal size, and examples between classes: weights in the loss, and mixup."""

import difflib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thaw.errors import ParamsError


def class_weights(asked: str | Mapping[str, float], labels: NDArray[np.int64], classes: Sequence[str]) -> Tensor | None:
    """Return the weight of each class in the loss [classes], or None if all are equal.

    `balanced` is inverse to the number of training images, with a mean of 1 over them, as in scikit-learn.
    Raises: ParamsError if a weight is given to a class that does not exist.
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
    return torch.tensor([float(asked.get(name, 1.0)) for name in classes])


def mixup(
    boundary: Sequence[Tensor], targets: Tensor, alpha: float, generator: np.random.Generator
) -> tuple[list[Tensor], Tensor]:
    """Return each example mixed with another one of its batch, boundary tensors and target probabilities alike.

    The share is drawn from Beta(alpha, alpha) once a batch (Zhang et al. 2018, arXiv:1710.09412). The activations at
    the cut are what is mixed (manifold mixup, Verma et al. 2019, arXiv:1806.05236), so the cache serves this as well.
    """
    share = float(generator.beta(alpha, alpha))
    partner = torch.from_numpy(generator.permutation(len(targets)))
    mixed = [torch.lerp(value[partner.to(value.device)], value, share) for value in boundary]
    return mixed, torch.lerp(targets[partner], targets, share)
