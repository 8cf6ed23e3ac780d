"""Add classes to a classifier: rows of the classes that it knows are kept by name, new ones start from class means."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from thaw.errors import ParamsError
from thaw.head.examples import Labels, check_every_class
from thaw.head.features import Features
from thaw.head.layers import CosineHead, mean_directions
from thaw.head.linear import linear_layer
from thaw.networks import model_files, values
from thaw.networks.sources.model import folder_of
from thaw.pipeline import artifacts, facts
from thaw.pipeline.model_facts import Grown, ModelFacts, Recall

Floats = NDArray[np.floating]
Tensors = Mapping[str, Tensor]


def grow(source: str, data: Features, *, kind: str = "linear") -> "Growth":
    """Return a head of a kind for the classes of `data`, grown from the model `source`.

    `source` is `model:FOLDER` or `model:REPOSITORY#PATH@REVISION`. A new class's row is imprinted (Qi et al. 2018,
    arXiv:1712.07136). In a linear head it points from the mean of all features to its own mean, as long as the old rows
    are on average, and its bias gives its mean the logit that the old classes' means get; in a cosine head it is the
    mean direction of its images.
    Raises: ParamsError if the model's head is of another kind, does not fit these features or shares no class with the
    data, ArtifactError if the model is not whole, BackboneError if it is not there or its weights hold what no weights
    do, TrainingError if a class has no training image.
    """
    parent = data.facts.backbone.parent.model if data.facts.backbone.parent else None
    folder = folder_of(source.removeprefix("model:"), fingerprint=parent)
    fingerprint, theirs = artifacts.verify(folder), facts.read(folder / "model.json", ModelFacts)
    _check(source, fingerprint == parent, theirs, data, kind)
    tensors = {
        name.removeprefix("head."): value
        for name, value in model_files.load_networks(folder)[0].items()
        if name.startswith("head.")
    }
    values.check(tensors)
    known, classes = theirs.classes, data.facts.classes
    if tensors["weight"].shape[1] != data.train.features.shape[1]:
        raise ParamsError(
            f"params.yaml: head.grow_from is {source}, whose head sees {tensors['weight'].shape[1]} features; here "
            f"there are {data.train.features.shape[1]}; set backbone.taps, backbone.keep and head.pool to what that "
            "model was made with"
        )
    check_every_class(data.train.labels, len(classes))
    return Growth(source, fingerprint, known, theirs.members or 1, *_FORMS[kind](tensors, known, data))


@dataclass(frozen=True)
class Growth:
    """A head that was grown, and the one that it was grown from."""

    source: str
    fingerprint: str
    known: list[str]
    """The classes of the head before."""
    members: int
    """The networks of that model, of which the first one's head grows."""
    before: nn.Module
    head: nn.Module


def report_on(growth: Growth, classes: Sequence[str], labels: Labels, then: Floats, now: Floats) -> Grown:
    """Return what became of a head, from its answers on validation before and after: logits [images, classes]."""
    known = growth.known
    old, recalls = _old_classes(
        np.array(classes)[labels], np.array(known)[then.argmax(1)], np.array(classes)[now.argmax(1)], known
    )
    grown = Grown(
        model=growth.fingerprint,
        kept=[name for name in classes if name in known],
        new=[name for name in classes if name not in known],
        dropped=[name for name in known if name not in classes],
        images_of_kept=old.images,
        accuracy_before=old.before,
        accuracy_after=old.after,
        recalls=recalls,
    )
    of_several = f", the first of its {growth.members} networks" if growth.members > 1 else ""
    print(
        f"head: grown from {growth.source}{of_several}; kept {', '.join(grown.kept)}, new "
        f"{', '.join(grown.new) or 'none'}; of {grown.images_of_kept} validation images of known classes "
        f"{grown.accuracy_before:.3f} were right before and {grown.accuracy_after:.3f} are now"
    )
    return grown


def _linear(tensors: Tensors, known: list[str], data: Features) -> tuple[nn.Module, nn.Module]:
    """Return the head before, and the one with a row for each class of the data, in its order."""
    classes, train = data.facts.classes, data.train
    weight, bias = (tensors[name].double().numpy() for name in ("weight", "bias"))
    before = linear_layer(weight, bias)
    weight, bias = weight - weight.mean(axis=0), bias - bias.mean()  # the same to a softmax, centred as new rows are
    kept = {name: (weight[known.index(name)], bias[known.index(name)]) for name in classes if name in known}
    means: list[Floats] = [
        train.features[train.labels == label].mean(axis=0, dtype=np.float64) for label in range(len(classes))
    ]
    at_own_mean = np.mean([row @ means[classes.index(name)] + offset for name, (row, offset) in kept.items()])
    length = np.mean([np.linalg.norm(row) for row, _ in kept.values()])
    rows = []
    for number, name in enumerate(classes):
        away = means[number] - train.features.mean(axis=0, dtype=np.float64)
        row = length * away / max(float(np.linalg.norm(away)), 1e-12)
        rows.append(kept.get(name, (row, at_own_mean - row @ means[number])))
    return before, linear_layer(np.stack([row for row, _ in rows]), np.array([offset for _, offset in rows]))


def _cosine(tensors: Tensors, known: list[str], data: Features) -> tuple[nn.Module, nn.Module]:
    """Return the head before, and the one with a row for each class of the data, in its order."""
    classes = data.facts.classes
    before, head = (CosineHead(tensors["weight"].shape[1], len(names), 0.0).eval() for names in (known, classes))
    before.load_state_dict(dict(tensors))
    length = tensors["weight"].norm(dim=1).mean()  # no answer depends on it, but the next steps of a phase do
    imprinted = length * mean_directions(data.train, len(classes))
    rows = [
        tensors["weight"][known.index(name)] if name in known else imprinted[number]
        for number, name in enumerate(classes)
    ]
    head.load_state_dict({"weight": torch.stack(rows), "log_scale": tensors["log_scale"]})
    return before, head


_FORMS = {"linear": _linear, "cosine": _cosine}


def _check(source: str, is_parent: bool, model: ModelFacts, data: Features, kind: str) -> None:
    if not is_parent:
        raise ParamsError(
            f"params.yaml: head.grow_from is {source}, but the backbone is not that model's, and the rows of its head "
            f"fit its own features only; set backbone.source to {source} as well"
        )
    theirs = model.head.form
    if theirs not in _FORMS:
        raise ParamsError(
            f"params.yaml: head.grow_from is {source}, whose head has hidden layers; only a linear or a cosine one "
            "grows; set head.grow_from to null"
        )
    if theirs != kind:
        raise ParamsError(
            f"params.yaml: head.grow_from is {source}, whose head is of kind {theirs}, and here it is {kind}; "
            f"set head.kind to {theirs}"
        )
    if not set(model.classes) & set(data.facts.classes):
        raise ParamsError(
            f"params.yaml: head.grow_from is {source}, which knows {', '.join(model.classes)}, and none of the "
            f"data's classes: {', '.join(data.facts.classes)}; set it to null"
        )


def _old_classes(
    names: NDArray[np.str_], then: NDArray[np.str_], now: NDArray[np.str_], known: list[str]
) -> tuple[Recall, dict[str, Recall]]:
    """Return how many validation images are of classes known before, and the share of right answers then and now.

    The second value is the same for each of these classes that has images.
    """
    old = np.isin(names, known)

    def share(answers: NDArray[np.str_], chosen: NDArray[np.bool_]) -> float:
        return float((answers == names)[chosen].mean()) if chosen.any() else 0.0

    def recall(chosen: NDArray[np.bool_]) -> Recall:
        return Recall(images=int(chosen.sum()), before=share(then, chosen), after=share(now, chosen))

    return recall(old), {name: recall(names == name) for name in sorted(set(names[old].tolist()))}
