"""Training of a head that is not solved: one with hidden layers, or by cosine."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from thaw.augment.draws import generator
from thaw.config.schema import HeadParams
from thaw.errors import TrainingError
from thaw.head.examples import FeatureSet, check_every_class, cross_entropy, inner_folds, soft_targets
from thaw.head.layers import CosineHead, build_head, mean_directions
from thaw.pipeline import timings

_BATCH = 256
_PATIENCE = 10
_DECAY = 0.01


@timings.counted("train")
def train_head(
    train: FeatureSet, num_classes: int, params: HeadParams, *, seed: int
) -> tuple[nn.Module, list[dict[str, float]]]:
    """Return a cosine head, or one with hidden layers, and a row for each epoch of the trial that settled how many.

    The trial leaves a part of the training images out and stops early on it; the head is then trained on all of them
    for as many epochs as were best there. Trained by AdamW: hidden layers on standardised features (the scaling is
    folded into the first of them), a cosine head from the mean directions of the classes.
    Raises: TrainingError if it diverges, or if a class has no training image.
    """
    check_every_class(train.labels, num_classes)
    parts = inner_folds(train, num_classes)
    if not parts:  # too few images to leave any out
        return _train(train, None, num_classes, params, params.epochs, seed=seed)[0], []
    _, rows = _train(train[~parts[0]], train[parts[0]], num_classes, params, params.epochs, seed=seed)
    best = min(rows, key=lambda row: row["val_loss"])
    return _train(train, None, num_classes, params, int(best["epoch"]), seed=seed)[0], rows


def _train(
    train: FeatureSet, left_out: FeatureSet | None, num_classes: int, params: HeadParams, epochs: int, *, seed: int
) -> tuple[nn.Module, list[dict[str, float]]]:
    """Return a head after its epochs, and a row for each; it stops early where the images left out say so."""
    torch.manual_seed(int(generator(seed, "head").integers(2**31)))
    head = build_head(train.features.shape[1], num_classes, params.hidden, params.dropout, kind=params.kind)
    centre, scale = torch.zeros(train.features.shape[1]), 1.0
    if isinstance(head, CosineHead):
        head.load_state_dict({**head.state_dict(), "weight": mean_directions(train, num_classes)})
    else:
        centre, scale = torch.from_numpy(train.features.mean(axis=0)), float(train.features.std()) or 1.0
    features = (torch.from_numpy(train.features) - centre) / scale
    targets = soft_targets(train.labels, train.confidence, num_classes)
    optimizer = torch.optim.AdamW(_groups(head), lr=params.lr)
    rows = list[dict[str, float]]()
    for epoch in range(1, epochs + 1):
        order = torch.from_numpy(generator(seed, "head", "order", epoch).permutation(len(features)))
        row = {"epoch": epoch, "train_loss": _train_epoch(head, optimizer, features, targets, order) / len(features)}
        head.eval()
        if left_out is not None:
            row |= _judged(head, (torch.from_numpy(left_out.features) - centre) / scale, left_out)
        if not all(math.isfinite(value) for value in row.values()):
            raise TrainingError(f"head: the loss is not finite in epoch {epoch}; lower head.lr (now {params.lr})")
        rows.append(row)
        losses = [known["val_loss"] for known in rows if "val_loss" in known]
        if losses and len(losses) - 1 - int(np.argmin(losses)) == _PATIENCE:
            break
    for layer in [layer for layer in head.modules() if isinstance(layer, nn.Linear)][:1]:
        _fold(layer, centre, scale)
    return head.eval(), rows


@torch.inference_mode()
def _judged(head: nn.Module, features: Tensor, examples: FeatureSet) -> dict[str, float]:
    """Return loss and accuracy of a head on examples."""
    logits = head(features).double().numpy()
    loss = cross_entropy(logits, examples.labels) if np.isfinite(logits).all() else math.nan
    return {"val_loss": loss, "val_accuracy": float((logits.argmax(axis=1) == examples.labels).mean())}


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
