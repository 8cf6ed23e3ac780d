"""The new output layers, the targets that they learn, and the training of a head with hidden layers."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from thaw import timing
from thaw.errors import TrainingError
from thaw.params import HeadParams
from thaw.training.schedule import generator

Features = NDArray[np.float32]
Labels = NDArray[np.int64]

_BATCH = 256
_HIDDEN_PATIENCE = 10
_HIDDEN_DECAY = 0.01


@dataclass(frozen=True)
class FeatureSet:
    """Features [examples, features] with their labels [examples] and how sure the label is, above 0 up to 1."""

    features: Features
    labels: Labels
    confidence: NDArray[np.float64]


def build_head(num_features: int, num_classes: int, hidden: Sequence[int], dropout: float) -> nn.Module:
    """Return an untrained head: one linear layer, or hidden layers with ReLU and dropout before it."""
    if not hidden:
        return nn.Linear(num_features, num_classes)
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Dropout(dropout), nn.Linear(num_features, width), nn.ReLU()]
        num_features = width
    return nn.Sequential(*layers, nn.Dropout(dropout), nn.Linear(num_features, num_classes))


@timing.counted("train")
def fit_hidden(
    train: FeatureSet, val: FeatureSet, num_classes: int, params: HeadParams, *, seed: int
) -> tuple[nn.Module, list[dict[str, float]]]:
    """Return a head with hidden layers at its best validation loss, and a row for each epoch.

    Trained by AdamW on standardised features (the scaling is folded into the first layer), with early stopping.
    """
    torch.manual_seed(int(generator(seed, "head").integers(2**31)))
    head = build_head(train.features.shape[1], num_classes, params.hidden, params.dropout)
    centre, scale = torch.from_numpy(train.features.mean(axis=0)), float(train.features.std()) or 1.0
    features = (torch.from_numpy(train.features) - centre) / scale
    targets = soft_targets(train.labels, train.confidence, num_classes)
    val_features = (torch.from_numpy(val.features) - centre) / scale
    optimizer = torch.optim.AdamW(head.parameters(), lr=params.lr, weight_decay=_HIDDEN_DECAY)
    best, best_state, since, rows = float("inf"), copy.deepcopy(head.state_dict()), 0, list[dict[str, float]]()
    for epoch in range(1, params.epochs + 1):
        head.train()
        order = torch.from_numpy(generator(seed, "head", "order", epoch).permutation(len(features)))
        total = 0.0
        for batch in torch.split(order, _BATCH):
            loss = functional.cross_entropy(head(features[batch]), targets[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()
            total += float(loss.detach()) * len(batch)
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
        if since == _HIDDEN_PATIENCE:
            break
    head.load_state_dict(best_state)
    _fold(next(layer for layer in head.modules() if isinstance(layer, nn.Linear)), centre, scale)
    return head.eval(), rows


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
    shifted = logits - logits.max(axis=1, keepdims=True)
    return float((np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]).mean())


def _fold(layer: nn.Linear, centre: Tensor, scale: float) -> None:
    with torch.no_grad():
        layer.weight.div_(scale)
        layer.bias.sub_(layer.weight @ centre)
