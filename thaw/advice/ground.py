"""What trials are made on: some of the images that a phase would train on, of which a part is left out to be asked."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from thaw.augment.draws import representatives
from thaw.config.schema import AugmentParams, ComputeParams, PhaseDefaults, PhaseParams
from thaw.data.packed import PackedImages
from thaw.head.examples import FeatureSet, Labels, inner_folds
from thaw.head.features import Features
from thaw.head.linear import LinearFit, fit_linear, linear_module
from thaw.networks.backbone import Backbone
from thaw.pipeline import artifacts
from thaw.pipeline.model_facts import HeadFacts, ModelFacts
from thaw.training import phase_folder
from thaw.training.parts import Start
from thaw.training.phase import Trained, run_phase
from thaw.training.warm_start import STRONG

FEWEST_ASKED = 10
"""Images left out below which nothing is measured."""
_SEEN = 768  # images in the steps of a trial, each as often as it comes up: fewer steps than that move nothing
_FEWEST_EPOCHS = 2
_VIEWS = 2
_PARTS_ASKED = 2  # of NUM_INNER_FOLDS


@dataclass(frozen=True)
class Ground:
    """A small data set, the head that was solved on what it trains on, and that head's answers for the others."""

    images: PackedImages
    start: Start
    logits: NDArray[np.float64]
    """[asked images, classes]"""
    labels: Labels
    """[asked images]"""
    units: NDArray[np.int64]
    """[asked images], the same number for images that belong together."""
    strong: Mapping[str, Tensor]
    """Tensors of a strongly regularised head on the same images, such as training begins with."""

    @property
    def num_trained(self) -> int:
        """How many images each trial trains on."""
        return len(self.images) - len(self.labels)

    def epochs(self, most: int) -> int:
        """Return how often a trial goes through its images, where a phase does so `most` times."""
        return min(most, max(_FEWEST_EPOCHS, math.ceil(_SEEN / self.num_trained)))

    def trial(
        self,
        start: Start,
        depth_blocks: int,
        lr: float,
        *,
        network: Callable[[], Backbone],
        augment: AugmentParams,
        defaults: PhaseDefaults,
        seed: int,
        compute: ComputeParams,
    ) -> Trained:
        """Train these images as a phase would, for a few epochs. Raises: TrainingError if that diverges."""
        given = {"start": "head", "depth": depth_blocks, "lr": lr, "unfreeze_every": 0, "average": False}
        given |= {"epochs": self.epochs(defaults.epochs), "views": min(defaults.views, _VIEWS)}
        usual = defaults.model_dump(exclude={"depth", "lr"})
        return run_phase(
            "advise",
            PhaseParams.model_validate(usual | given),
            images=self.images,
            backbone=network(),
            start=start,
            augment=augment.model_copy(update={"tta": False}),
            seed=seed,
            compute=compute,
        )


def ground_of(images: PackedImages, data: Features, head: ModelFacts, *, most: int, seed: int) -> Ground | None:
    """Return what trials are made on; None where there are too few images to train on some and to ask others.

    `data` are the features that the head was fitted on, `most` is how many images are used. Images that are validated
    on in a single split take no part.
    """
    plain = data.train[np.arange(len(data.train_rows))]
    chosen = representatives(plain.labels, most, seed=seed, purpose="advise")
    known = plain[chosen]
    asked = _asked(known, len(images.classes))
    if asked is None:
        return None
    assert known.units is not None
    trained, others = known[~asked], known[asked]
    fit = fit_linear(trained, len(images.classes))
    strong = fit_linear(trained, len(images.classes), (STRONG / len(trained.labels),))
    small = _part_of(images, data.train_rows[chosen], asked)
    return Ground(
        images=small,
        start=_start(fit, head, small),
        logits=fit.logits(others.features),
        labels=others.labels,
        units=np.unique(known.units[asked], return_inverse=True)[1].astype(np.int64),
        strong=phase_folder.head_tensors(linear_module(strong)),
    )


def _asked(known: FeatureSet, num_classes: int) -> NDArray[np.bool_] | None:
    """Return a mask of the images to ask about, without which each class is still there; None for too few."""
    parts = inner_folds(known, num_classes)
    for count in range(min(_PARTS_ASKED, len(parts)), 0, -1):
        asked: NDArray[np.bool_] = np.logical_or.reduce(parts[:count])
        if asked.sum() >= FEWEST_ASKED and len(set(known.labels[~asked].tolist())) == num_classes:
            return asked
    return None


def _part_of(images: PackedImages, rows: NDArray[np.int64], asked: NDArray[np.bool_]) -> PackedImages:
    """Return a data set of these rows, ascending, where those asked are its only fold."""
    samples = images.samples.iloc[rows].assign(
        row=np.arange(len(rows)), split=np.where(asked, "val", "train"), fold=np.where(asked, 0, -1)
    )
    places = rows if images.places is None else images.places[rows]
    fingerprint = artifacts.digest([images.fingerprint, rows.tolist(), asked.tolist()])
    return replace(images, samples=samples.reset_index(drop=True), fingerprint=fingerprint, places=places)


def _start(fit: LinearFit, head: ModelFacts, images: PackedImages) -> Start:
    """Return a solved head as what a phase of these images starts from."""
    solved = HeadFacts(kind="linear", hidden=[], dropout=0.0, strength=fit.strength, largest_weight=fit.largest_weight)
    lineage = head.lineage.model_copy(update={"data": images.fingerprint})
    model = head.model_copy(update={"head": solved, "lineage": lineage})
    return Start(phase_folder.head_tensors(linear_module(fit)), model)
