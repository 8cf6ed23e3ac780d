"""Do earlier layers of the frozen backbone tell the classes apart better than its last one? A sign of a far domain.

Late layers are the most special to what a network was pretrained on (Yosinski et al. 2014, arXiv:1411.1792). Where the
images are far from that, a linear head on the pooled output of an earlier block can do better. That is found out in the
pass that the features take anyway: the network also gives what its earlier blocks hold.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import nn

from thaw import memory
from thaw.activations.prefix import Prefix
from thaw.augment.draws import representatives
from thaw.data.packed import PackedImages, Rows
from thaw.errors import BackboneError
from thaw.head import extract, features
from thaw.head.examples import Features, FeatureSet, Labels, log_losses
from thaw.head.extract import Development
from thaw.head.linear import fit_linear
from thaw.networks.backbone import Backbone
from thaw.networks.cut import CutPrefix, Origin, place_of_tap, probe
from thaw.networks.spec import Spec
from thaw.networks.taps import separate
from thaw.pipeline.model_facts import EarlierBlock, EarlierLayers, LastBlock

MAX_IMAGES = 600
"""Training images that the comparison takes; more would make it surer and slower."""
MIN_A_CLASS = 5
"""Training images per class, on average, below which nothing is compared."""
MOST_BLOCKS = 12
"""Earlier blocks that are compared; of a network with more of them, so many, evenly spaced."""
_NEAREST = 5


@dataclass(frozen=True)
class Tapped:
    """The whole frozen backbone: it maps images to its features and, behind them, to what each of `blocks` holds."""

    module: nn.Module
    blocks: list[str]
    """The earlier blocks; none where the network has no such, cannot be traced, or ends or is tapped elsewhere."""
    last: str

    def plain(
        self, prefix: Prefix, images: PackedImages, known: Development, seed: int, folder: Path
    ) -> tuple[FeatureSet, EarlierLayers | None]:
        """Return the features of view 0 of the development images, and what the comparison found.

        `prefix` runs this module; the features go to `folder`. What was found is for model.json, and None where
        nothing was compared.
        """
        trained = np.isin(known.rows, known.trained)
        chosen = None
        if self.blocks:
            found = sample(images.labels(known.trained), len(images.classes), seed)
            chosen = None if found is None else np.flatnonzero(trained)[found]
            if chosen is not None and not _every_class(images.labels(known.rows[chosen]), known.fold[chosen]):
                chosen = None
        compared = np.zeros(0, np.int64) if chosen is None else np.union1d(chosen, np.flatnonzero(known.fold >= 0))
        path = features.file_of(folder, "plain", 0)
        plain, *earlier = extract.compute_all(prefix, known.rows, compared, label="plain", path=path)
        whole = extract.examples(images, known.rows, plain)
        outputs = [whole.features[compared], *earlier]
        memory.drop_pages([whole.features])
        if chosen is None or not all(np.isfinite(values).all() for values in outputs):
            return whole, None
        labelled = whole[compared]
        trained, fold = np.isin(compared, chosen), known.fold[compared]
        tried = {
            name: (
                *_answers(replace(labelled, features=values), trained, fold, len(images.classes)),
                nearest_accuracy(values, labelled.labels, trained, fold),
            )
            for name, values in zip([self.last, *self.blocks], outputs, strict=True)
        }
        asked = images.samples.iloc[known.rows[compared[known.fold[compared] >= 0]]]
        return whole, _describe(tried, len(chosen), asked)


def tapped(backbone: Backbone) -> Tapped:
    """Return a backbone that also gives what its earlier blocks hold, pooled as taps are."""
    spec, blocks = backbone.spec, backbone.blocks
    count = min(len(blocks) - 1, MOST_BLOCKS)
    names = [
        blocks[index] for index in sorted(set(np.linspace(0, len(blocks) - 2, count).round().astype(int).tolist()))
    ]
    if names and not spec.keep and not spec.taps:
        with suppress(BackboneError):  # it cannot be traced, or not be tapped there
            module = replace(backbone, spec=spec.model_copy(update={"taps": tuple(names)})).split(0)[0]
            assert isinstance(module, CutPrefix)
            separate(module)
            module.origin = _untapped(module.origin, spec, [blocks.index(name) for name in names])
            if all(len(shape) == 1 for shape in probe(module, backbone.example(2))):
                return Tapped(module, names, blocks[-1])
    return Tapped(backbone.split(0)[0], [], blocks[-1])


def _untapped(origin: Origin | None, spec: Spec, indices: Sequence[int]) -> Origin:
    """Return what a network with separate taps was cut from: the network without them, and its places."""
    assert origin is not None
    places = (*origin.places, *map(place_of_tap, indices))
    return replace(origin, taps=(), spec=spec.model_dump_json(), places=places)


def sample(labels: Labels, num_classes: int, seed: int) -> Rows | None:
    """Return the indices of at most `MAX_IMAGES` examples with every class among them; None where they are too few."""
    if len(np.unique(labels)) < num_classes or min(len(labels), MAX_IMAGES) < MIN_A_CLASS * num_classes:
        return None
    return representatives(labels, MAX_IMAGES, seed=seed, purpose="earlier layers")


def _every_class(labels: Labels, fold: NDArray[np.int64]) -> bool:
    """Whether each class is left where any fold is left out."""
    return all(set(labels[fold != number]) == set(labels) for number in range(int(fold.max()) + 1))


def _answers(
    known: FeatureSet, trained: NDArray[np.bool_], fold: NDArray[np.int64], num_classes: int
) -> tuple[NDArray[np.float64], float]:
    """Return the log loss of each validated image, in nats, and the accuracy, of heads solved on some features.

    `trained` masks the examples that a head may be fitted on; it answers for those of a fold after the fit on others.
    """
    losses, right = np.zeros(len(fold)), np.zeros(len(fold), bool)
    for number in range(int(fold.max()) + 1):
        out = fold == number
        fit = fit_linear(known[trained & ~out], num_classes)
        logits = fit.logits(known.features[out])
        losses[out], right[out] = log_losses(logits, known.labels[out]), logits.argmax(axis=1) == known.labels[out]
    return losses[fold >= 0], float(right[fold >= 0].mean())


def nearest_accuracy(features: Features, labels: Labels, trained: NDArray[np.bool_], fold: NDArray[np.int64]) -> float:
    """Return how often the class of most of the five nearest images is right, by the cosine of standardised features.

    Those of a fold are answered by images of others that `trained` masks; of classes that come equally often, the one
    with the nearest image wins.
    """
    scaled = (features - features[trained].mean(axis=0)) / (features[trained].std(axis=0) + 1e-6)
    scaled /= np.linalg.norm(scaled, axis=1, keepdims=True) + 1e-12
    right = np.zeros(len(fold), bool)
    for number in range(int(fold.max()) + 1):
        out, known = fold == number, trained & (fold != number)
        order = np.argsort(-(scaled[out] @ scaled[known].T), axis=1, kind="stable")[:, :_NEAREST]
        found = labels[known][order]
        votes = (found[:, :, None] == found[:, None, :]).sum(axis=2)
        right[out] = found[np.arange(len(found)), votes.argmax(axis=1)] == labels[out]
    return float(right[fold >= 0].mean())


def _describe(
    tried: Mapping[str, tuple[NDArray[np.float64], float, float]], num_train: int, val: pd.DataFrame
) -> EarlierLayers:
    """Return the figures of each block, the last one first; those before it are compared with it, image by image.

    The standard error is that of the mean difference, over groups where images belong together.
    """
    (last, (reference, accuracy, nearest)), *others = tried.items()
    unit = val["group"].where(val["group"].fillna("") != "", val["id"]).to_numpy()
    ours = LastBlock(block=last, log_loss=float(reference.mean()), accuracy=accuracy, neighbours=nearest)
    earlier: dict[str, EarlierBlock] = {}
    for name, (losses, accuracy, nearest) in others:
        difference = losses - reference
        sums = pd.Series(difference - difference.mean()).groupby(unit).sum().to_numpy()
        earlier[name] = EarlierBlock(
            log_loss=float(losses.mean()),
            accuracy=accuracy,
            neighbours=nearest,
            difference=float(difference.mean()),
            standard_error=float(np.sqrt((sums**2).sum()) / len(losses)),
        )
    return EarlierLayers(images=num_train, last=ours, earlier=earlier)
