"""Add classes to a classifier: rows of the classes that it knows are kept by name, new ones start from class means."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from torch import nn

from thaw import files
from thaw.errors import ParamsError
from thaw.training.features import Features
from thaw.training.head import FeatureSet, logits_of

Floats = NDArray[np.float64]


def grow(source: str, data: Features) -> tuple[nn.Linear, dict[str, Any]]:
    """Return a linear head for the classes of `data`, grown from the model `model:FOLDER`, and what became of it.

    A new class's row points from the mean of all features to its own mean (imprinting, Qi et al. 2018,
    arXiv:1712.07136), as long as the old rows are on average, and its bias gives its mean the logit that the old
    classes' means get.
    Raises: ParamsError if the model's head does not fit these features or shares no class with the data, ArtifactError
    if the model is not whole.
    """
    folder = Path(source.removeprefix("model:"))
    fingerprint = files.verify(folder)
    facts = files.read_json(folder / "model.json")
    _check(source, fingerprint, facts, data)
    tensors, known, classes = load_file(folder / "weights.safetensors"), facts["classes"], data.facts["classes"]
    weight, bias = tensors["head.weight"].astype(np.float64), tensors["head.bias"].astype(np.float64)
    if weight.shape[1] != data.train.features.shape[1]:
        raise ParamsError(
            f"params.yaml: head.grow_from is {source}, whose head sees {weight.shape[1]} features; here there are "
            f"{data.train.features.shape[1]}; set backbone.taps and backbone.keep to what that model was made with"
        )
    kept = [name for name in classes if name in known]
    head = _grown(weight, bias, known, data)
    grown: dict[str, Any] = {
        "model": fingerprint,
        "kept": kept,
        "new": [name for name in classes if name not in known],
        "dropped": [name for name in known if name not in classes],
        **_old_classes(data, _linear(weight, bias), known, head),
    }
    print(
        f"head: grown from {source}; kept {', '.join(kept)}, new {', '.join(grown['new']) or 'none'}; of "
        f"{grown['images_of_kept']} validation images of known classes {grown['accuracy_before']:.3f} were right "
        f"before and {grown['accuracy_after']:.3f} are now"
    )
    return head, grown


def _grown(weight: Floats, bias: Floats, known: list[str], data: Features) -> nn.Linear:
    """Return the old rows of the classes that are left, and a row for each new class, in the order of the data."""
    classes = data.facts["classes"]
    weight, bias = weight - weight.mean(axis=0), bias - bias.mean()  # the same to a softmax, centred as new rows are
    kept = {name: (weight[known.index(name)], bias[known.index(name)]) for name in classes if name in known}
    means = _class_means(data.train, len(classes))
    at_own_mean = np.mean([row @ means[classes.index(name)] + offset for name, (row, offset) in kept.items()])
    length = np.mean([np.linalg.norm(row) for row, _ in kept.values()])
    rows = []
    for number, name in enumerate(classes):
        away = means[number] - data.train.features.mean(axis=0, dtype=np.float64)
        row = length * away / max(float(np.linalg.norm(away)), 1e-12)
        rows.append(kept.get(name, (row, at_own_mean - row @ means[number])))
    return _linear(np.stack([row for row, _ in rows]), np.array([offset for _, offset in rows]))


def _check(source: str, fingerprint: str, facts: dict[str, Any], data: Features) -> None:
    if (data.facts["backbone"].get("parent") or {}).get("model") != fingerprint:
        raise ParamsError(
            f"params.yaml: head.grow_from is {source}, but the backbone is not that model's, and the rows of its head "
            f"fit its own features only; set backbone.source to {source} as well"
        )
    if facts["head"]["hidden"]:
        raise ParamsError(
            f"params.yaml: head.grow_from is {source}, whose head has hidden layers; only a linear one grows"
        )
    if not set(facts["classes"]) & set(data.facts["classes"]):
        raise ParamsError(
            f"params.yaml: head.grow_from is {source}, which knows {', '.join(facts['classes'])}, and none of the "
            f"data's classes: {', '.join(data.facts['classes'])}; set it to null"
        )


def _old_classes(data: Features, before: nn.Linear, known: list[str], head: nn.Linear) -> dict[str, float]:
    """Return how many validation images are of classes known before, and the share of right answers then and now."""
    classes = data.facts["classes"]
    names = np.array(classes)[data.val_labels()]
    old = np.isin(names, known)
    then = np.array(known)[logits_of(before, data.val.features)[: len(names)].argmax(axis=1)]
    now = np.array(classes)[logits_of(head, data.val.features)[: len(names)].argmax(axis=1)]
    return {
        "images_of_kept": int(old.sum()),
        "accuracy_before": float((then == names)[old].mean()) if old.any() else 0.0,
        "accuracy_after": float((now == names)[old].mean()) if old.any() else 0.0,
    }


def _class_means(train: FeatureSet, num_classes: int) -> list[Floats]:
    return [train.features[train.labels == label].mean(axis=0, dtype=np.float64) for label in range(num_classes)]


def _linear(weight: Floats, bias: Floats) -> nn.Linear:
    head = nn.Linear(weight.shape[1], weight.shape[0])
    head.load_state_dict({"weight": torch.from_numpy(weight).float(), "bias": torch.from_numpy(bias).float()})
    return head.eval()
