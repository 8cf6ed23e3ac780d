"""Training of a head that is not solved: one with hidden layers, or by cosine."""

import copy
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from thaw.augment.draws import generator
from thaw.config.schema import HeadParams
from thaw.errors import TrainingError
from thaw.head.examples import FeatureSet, check_every_class, cross_entropy, soft_targets
from thaw.head.layers import CosineHead, build_head, mean_directions
from thaw.pipeline import timings

_BATCH = 256
_PATIENCE = 10
_DECAY = 0.01


@timings.counted("train")
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
