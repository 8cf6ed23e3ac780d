"""The new output layers, the targets that they learn, and the training of a head that is not solved."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from thaw import timing
from thaw.errors import TrainingError
from thaw.params import HeadParams
from thaw.training.schedule import generator, representatives

Features = NDArray[np.float32]
Labels = NDArray[np.int64]

_ENOUGH, _ENOUGH_A_CLASS = 5_000, 20
_BATCH = 256
_PATIENCE = 10
_DECAY = 0.01
_FIRST_SCALE = 10.0  # Gidaris and Komodakis 2018 (arXiv:1804.09458), section 5


@dataclass(frozen=True)
class FeatureSet:
    """Features [examples, features] with their labels [examples] and how sure the label is, above 0 up to 1."""

    features: Features
    labels: Labels
    confidence: NDArray[np.float64]


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


@timing.counted("train")
def train_head(
    train: FeatureSet, val: FeatureSet, num_classes: int, params: HeadParams, *, seed: int
) -> tuple[nn.Module, list[dict[str, float]]]:
    """Return a cosine head, or one with hidden layers, at its best validation loss, and a row for each epoch.

    Trained by AdamW with early stopping: hidden layers on standardised features (the scaling is folded into the first
    of them), a cosine head from the mean directions of the classes. Raises: TrainingError if it diverges, or if a class
    has no training image.
    """
    check_every_class(train.labels, num_classes)
    torch.manual_seed(int(generator(seed, "head").integers(2**31)))
    head = build_head(train.features.shape[1], num_classes, params.hidden, params.dropout, kind=params.kind)
    centre, scale = torch.zeros(train.features.shape[1]), 1.0
    if isinstance(head, CosineHead):
        head.load_state_dict({**head.state_dict(), "weight": mean_directions(train, num_classes)})
    else:
        centre, scale = torch.from_numpy(train.features.mean(axis=0)), float(train.features.std()) or 1.0
    features, val_features = ((torch.from_numpy(part.features) - centre) / scale for part in (train, val))
    targets = soft_targets(train.labels, train.confidence, num_classes)
    optimizer = torch.optim.AdamW(_groups(head), lr=params.lr)
    best, best_state, since, rows = float("inf"), copy.deepcopy(head.state_dict()), 0, list[dict[str, float]]()
    for epoch in range(1, params.epochs + 1):
        order = torch.from_numpy(generator(seed, "head", "order", epoch).permutation(len(features)))
        total = _train_epoch(head, optimizer, features, targets, order)
        head.eval()
        with torch.inference_mode():
            logits = head(val_features).double().numpy()
        val_loss = cross_entropy(logits, val.labels) if np.isfinite(logits).all() else math.nan
        if not math.isfinite(total + val_loss):
            raise TrainingError(f"head: the loss is not finite in epoch {epoch}; lower head.lr (now {params.lr})")
        accuracy = float((logits.argmax(axis=1) == val.labels).mean())
        rows.append(
            {"epoch": epoch, "train_loss": total / len(features), "val_loss": val_loss, "val_accuracy": accuracy}
        )
        best, best_state, since = (
            (val_loss, copy.deepcopy(head.state_dict()), 0) if val_loss < best else (best, best_state, since + 1)
        )
        if since == _PATIENCE:
            break
    head.load_state_dict(best_state)
    for layer in [layer for layer in head.modules() if isinstance(layer, nn.Linear)][:1]:
        _fold(layer, centre, scale)
    return head.eval(), rows


def _train_epoch(
    head: nn.Module, optimizer: torch.optim.Optimizer, features: Tensor, targets: Tensor, order: Tensor
) -> float:
    """Take a step for each batch of an epoch and return the sum of the losses of its examples."""
    head.train()
    total = 0.0
    for batch in torch.split(order, _BATCH):
        loss = functional.cross_entropy(head(features[batch]), targets[batch])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        total += float(loss.detach()) * len(batch)
    return total


def mean_directions(train: FeatureSet, num_classes: int) -> Tensor:
    """Return the mean [classes, features] of each class's features at unit length, at unit length itself.

    Imprinted weights, Qi et al. 2018 (arXiv:1712.07136), section 3.3.
    """
    directions = functional.normalize(torch.from_numpy(train.features))
    labels = torch.from_numpy(train.labels)
    return functional.normalize(torch.stack([directions[labels == label].mean(dim=0) for label in range(num_classes)]))


def check_every_class(labels: Labels, num_classes: int) -> None:
    """Raises: TrainingError if a class has no training image."""
    if absent := sorted(set(range(num_classes)) - set(labels.tolist())):
        raise TrainingError(
            f"{len(absent)} of {num_classes} classes have no training image (number {absent[0] + 1} of classes.json is "
            "the first); add images of it, or remove it"
        )


def enough(labels: Labels, num_classes: int, *, seed: int, purpose: str) -> NDArray[np.int64]:
    """Return the positions of as many examples as a head needs that only decides or starts something.

    That is all of them up to 5,000, or 20 a class; the head that answers is fitted on all of them in any case.
    """
    return representatives(labels, max(_ENOUGH, _ENOUGH_A_CLASS * num_classes), seed=seed, purpose=purpose)


def logits_of(head: nn.Module, features: Features) -> NDArray[np.float32]:
    """Return logits [images, classes] of features [images, features]."""
    with torch.inference_mode():
        logits: NDArray[np.float32] = head(torch.from_numpy(features)).numpy()
    return logits


def soft_targets(labels: Labels, confidence: NDArray[np.float64], num_classes: int, smoothing: float = 0.0) -> Tensor:
    """Return target probabilities [examples, classes]: the label with its confidence, the rest shared evenly.

    Label smoothing then moves a share of all of it to the uniform distribution (Szegedy et al. 2016,
    arXiv:1512.00567, section 7).
    """
    rest = (1 - confidence) / max(num_classes - 1, 1)
    targets = np.repeat(rest[:, None], num_classes, axis=1)
    targets[np.arange(len(labels)), labels] = confidence
    return torch.from_numpy((1 - smoothing) * targets + smoothing / num_classes).float()


def cross_entropy(logits: NDArray[np.float64], labels: Labels) -> float:
    """Return the mean log loss of logits [examples, classes], in nats."""
    return float(log_losses(logits, labels).mean())


def log_losses(logits: NDArray[np.float64], labels: Labels) -> NDArray[np.float64]:
    """Return the log loss of each example, in nats, from logits [examples, classes]."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    losses: NDArray[np.float64] = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]
    return losses


def _groups(head: nn.Module) -> list[dict[str, Any]]:
    """Return all parameters for the optimizer; the scale of a cosine head, a single number, does not decay."""
    return [
        {"params": [value for value in head.parameters() if bool(value.ndim) == decays], "weight_decay": decay}
        for decays, decay in ((True, _DECAY), (False, 0.0))
    ]


def _fold(layer: nn.Linear, centre: Tensor, scale: float) -> None:
    with torch.no_grad():
        layer.weight.div_(scale)
        layer.bias.sub_(layer.weight @ centre)
