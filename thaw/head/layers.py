"""The new output layers: linear, with hidden layers, or by cosine."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from thaw.head.examples import Features, FeatureSet

_FIRST_SCALE = 10.0  # Gidaris and Komodakis 2018 (arXiv:1804.09458), section 5


class DroppedLinear(nn.Linear):
    """A linear layer that drops a share of its input while it trains; its tensors are named as without."""

    def __init__(self, num_features: int, num_classes: int, dropout: float) -> None:
        super().__init__(num_features, num_classes)
        self.dropout = dropout

    def forward(self, features: Tensor) -> Tensor:
        """Return logits [images, classes] of features [images, features]."""
        return super().forward(functional.dropout(features, self.dropout, self.training))


class CosineHead(nn.Module):
    """Logits are the cosines between an image's features and a direction for each class, times a learned scale.

    Gidaris and Komodakis 2018 (arXiv:1804.09458), section 3.2. The scale is kept as its logarithm (Radford et al. 2021,
    arXiv:2103.00020, section 2.5): a step of AdamW then changes it by a share of itself.
    """

    def __init__(self, num_features: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_classes, num_features) / num_features**0.5)
        self.log_scale = nn.Parameter(torch.tensor(math.log(_FIRST_SCALE)))
        self.dropout = dropout

    def forward(self, features: Tensor) -> Tensor:
        """Return logits [images, classes] of features [images, features]."""
        features = functional.dropout(features, self.dropout, self.training)
        cosines = functional.linear(functional.normalize(features), functional.normalize(self.weight))
        return self.log_scale.exp() * cosines


def build_head(
    num_features: int, num_classes: int, hidden: Sequence[int], dropout: float, *, kind: str | None = None
) -> nn.Module:
    """Return an untrained head: one linear layer, hidden layers with ReLU and dropout before it, or a cosine head.

    Without a `kind` the hidden layers decide between the first two.
    """
    if kind == "cosine":
        return CosineHead(num_features, num_classes, dropout)
    if not hidden:
        return DroppedLinear(num_features, num_classes, dropout) if dropout else nn.Linear(num_features, num_classes)
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Dropout(dropout), nn.Linear(num_features, width), nn.ReLU()]
        num_features = width
    return nn.Sequential(*layers, nn.Dropout(dropout), nn.Linear(num_features, num_classes))


def mean_directions(train: FeatureSet, num_classes: int) -> Tensor:
    """Return the mean [classes, features] of each class's features at unit length, at unit length itself.

    Imprinted weights, Qi et al. 2018 (arXiv:1712.07136), section 3.3.
    """
    directions = functional.normalize(torch.from_numpy(train.features))
    labels = torch.from_numpy(train.labels)
    return functional.normalize(torch.stack([directions[labels == label].mean(dim=0) for label in range(num_classes)]))


def logits_of(head: nn.Module, features: Features) -> NDArray[np.float32]:
    """Return logits [images, classes] of features [images, features]."""
    with torch.inference_mode():
        logits: NDArray[np.float32] = head(torch.from_numpy(features)).numpy()
    return logits
