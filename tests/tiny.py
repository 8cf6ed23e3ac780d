"""Tiny data sets, networks and settings, real ones, for the tests of training."""

from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import BaseModel

from thaw.config.schema import AugmentParams, ComputeParams, PhaseParams
from thaw.data.packed import COLUMNS, PackedImages
from thaw.head.layers import build_head
from thaw.networks.backbone import Backbone, assemble
from thaw.networks.sources.opening import describe
from thaw.pipeline import artifacts, facts, tables
from thaw.pipeline.data_facts import Audit, ClassNames, Preprocessing
from thaw.pipeline.model_facts import (
    AugmentFacts,
    BackboneFacts,
    BackboneSpec,
    ExportedFacts,
    FeaturesFacts,
    HeadFacts,
    Lineage,
    ModelFacts,
    Parent,
)
from thaw.pipeline.report_facts import Accuracy, Selection, Verdict
from thaw.training.parts import Start

Kind = TypeVar("Kind", bound=BaseModel)
CLASSES = ["bright", "dark", "striped"]
TORCH = ComputeParams(threads=1, workers=0, device="cpu", frozen_engine="torch", cache_gib=1.0)
BY_NAME = TORCH.model_copy(update={"frozen_engine": "onnxruntime"})
AUTO = TORCH.model_copy(update={"frozen_engine": "auto"})


def augment(**changes: Any) -> AugmentParams:
    """Return an augmentation that changes nothing, but for what is given."""
    numbers = ("rotate_deg", "shift", "brightness", "contrast", "saturation", "hue")
    still = {"flip": "none", "tta": False, "crop_scale": 1.0} | dict.fromkeys(numbers, 0.0)
    return AugmentParams.model_validate(still | changes)


def phase(**changes: Any) -> PhaseParams:
    """Return a short phase."""
    usual = {
        "start": "head", "depth": 2, "lr": 0.002, "lr_scale": 1.0, "epochs": 3, "views": 2, "batch_size": 4,
        "weight_decay": 0.01, "warmup": 0.2, "label_smoothing": 0.0, "norm": "train", "warm_start": False,
    }  # fmt: skip
    return PhaseParams.model_validate(usual | changes)


def pixels(num_images: int, *, channels: int = 3, size_px: int = 40, classes: int = 3) -> NDArray[np.uint8]:
    """Return images of `CLASSES` in turn, [images, size_px, size_px, channels]."""
    noise = np.random.default_rng(7).integers(0, 60, (num_images, size_px, size_px, channels))
    for index in range(num_images):
        kind = index % classes
        noise[index] += 150 if kind == 0 else 20 if kind == 1 else 0
        if kind == 2:
            noise[index, ::4] += 180
    return noise.clip(0, 255).astype(np.uint8)


def packed(
    num_images: int = 24, *, channels: int = 3, size_px: int = 40, classes: int = 3, **columns: Any
) -> PackedImages:
    """Return a data set in memory."""
    shard = pixels(num_images, channels=channels, size_px=size_px, classes=classes)
    table = folded(samples(num_images, classes).assign(**columns)).assign(**columns)
    return PackedImages(table, CLASSES[:classes], size_px, channels, "fingerprint", (shard,))


def samples(num_images: int, classes: int = 3) -> pd.DataFrame:
    """Return samples.csv: two images in three train, one validates."""
    rows = np.arange(num_images)
    table = pd.DataFrame(
        {
            "id": [f"{row:016x}" for row in rows],
            "path": [f"{row}.png" for row in rows],
            "label": [CLASSES[row % classes] for row in rows],
            "split": ["val" if (row // classes) % 3 == 2 else "train" for row in rows],
            "group": "",
            "sha256": [f"{row:064x}" for row in rows],
            "width": 40,
            "height": 40,
            "row": rows,
            "confidence": 1.0,
            "fold": -1,
            "look": "",
        },
        columns=list(COLUMNS),
    )
    return folded(table)


def folded(table: pd.DataFrame) -> pd.DataFrame:
    """Return samples.csv with the one fold that its split means: the images of val."""
    return table.assign(fold=np.where(table["split"] == "val", 0, -1))


def in_folds(images: PackedImages, num_folds: int, fold: NDArray[np.int64] | None = None) -> PackedImages:
    """Return a data set whose development images are each validated on in one of several folds, or in that given."""
    development = (images.samples["split"] != "test").to_numpy()
    number = (np.cumsum(development) - 1) // len(images.classes) % num_folds if fold is None else fold
    samples = images.samples.assign(
        split=np.where(development, "train", "test"), fold=np.where(development, number, -1)
    )
    return replace(images, samples=samples)


def one_fold(images: PackedImages, number: int) -> PackedImages:
    """Return a data set of several folds as one of a single split, in which a fold is val and the others are train."""
    out = (images.samples["fold"] == number).to_numpy()
    split = images.samples["split"].mask(out, "val")
    return replace(images, samples=images.samples.assign(split=split, fold=np.where(out, 0, -1)))


def prepared(folder: Path, images: PackedImages) -> PackedImages:
    """Write a data set as `prepare` does and open it."""
    with artifacts.new_folder(folder) as partial:
        np.save(partial / "images-00000.npy", images.shards[0])
        tables.write(partial / "samples.csv", images.samples)
        facts.write(partial / "classes.json", ClassNames(classes=images.classes))
    return PackedImages.open(folder)


def backbone(name: str = "test_resnet", *, in_channels: int = 3, input_px: int = 32, seed: int = 0) -> Backbone:
    """Return a tiny network of timm with random weights: the same ones for the same seed."""
    torch.manual_seed(seed)
    spec = describe(f"timm:{name}").with_channels(in_channels)
    return replace(assemble(spec.model_copy(update={"input_px": input_px}), None), fingerprint="weights")


def audit(**changes: Any) -> Audit:
    """Return an audit that found nothing, but for what is given."""
    lists = ("label_conflicts", "exact_duplicates", "first_frame_only", "moved_by_repair", "given_split_changed")
    nothing = {"count": 0, "first": []}
    usual: dict[str, Any] = dict.fromkeys((*lists, "missing", "never_validated"), nothing)
    usual |= {"images": 24, "channels": 3, "rejected": 0, "units_of_tied_groups": 0, "folds": 1}
    usual["near_duplicates"] = nothing | {"groups_across_splits": 0}
    usual["classes"] = {name: {"train": 5, "val": 3, "test": 0} for name in CLASSES}
    return Audit.model_validate(usual | changes)


def selection(**candidates: dict[str, Any]) -> Selection:
    """Return selection.json of these candidates, of which each says what matters to a test."""
    usual = {"chosen": False, "accuracy": 0.8, "log_loss": 0.7, "temperature": 1.0, "calibrated_log_loss": 0.6}
    usual |= {"cost": 0.4}
    return Selection.model_validate(
        {
            "chosen": next(iter(candidates)),
            "reason": "top is kept.",
            "images": 3,
            "folds": 1,
            "metric": "accuracy",
            "cost": "error rate plus Brier score",
            "min_win_rate": 0.6,
            "draws": 100,
            "candidates": {name: usual | {"replaced_best": True} | own for name, own in candidates.items()},
            "findings": [],
        }
    )


def accuracy(value: float) -> Accuracy:
    """Return an accuracy of the test images with an interval around it."""
    return Accuracy(accuracy=value, accuracy_low=value - 0.05, accuracy_high=value + 0.04)


def verdict(sentence: str = "top is kept; whether it helps is not shown by 9 test images: so it is.") -> Verdict:
    """Return a verdict of the test images on the phase top."""
    return Verdict(word="kept", model="top", metric="accuracy", sentence=sentence)


def backbone_facts(network: Backbone) -> BackboneFacts:
    """Return what models/backbone says of a network."""
    return BackboneFacts(
        source=f"timm:{network.spec.name}",
        backbone=network.spec,
        blocks=network.blocks,
        features=network.num_features,
    )


def preprocessing(**changes: Any) -> Preprocessing:
    """Return the settings of `prepare` that a model keeps."""
    usual = {"size_px": 40, "fit": "crop", "background": 255, "max_megapixels": 100.0}
    return Preprocessing.model_validate(usual | changes)


def changed(stored: Kind, **changes: Any) -> Kind:
    """Return facts with other values of some keys."""
    return type(stored).model_validate(stored.model_dump() | changes)


def model_facts(spec: BackboneSpec | None = None, **changes: Any) -> ModelFacts:
    """Return model.json of a head on a network of that spec, or on one that is only told of."""
    usual = ModelFacts(
        classes=CLASSES,
        backbone=spec or describe("timm:test_resnet"),
        blocks=["conv1", "layer1"],
        preprocessing=preprocessing(),
        augment=AugmentFacts(flip="none", tta=False),
        phase="head",
        start=None,
        depth_blocks=0,
        cut=2,
        head=HeadFacts(hidden=[], dropout=0.0),
        lineage=Lineage(data="fingerprint", backbone="weights"),
    )
    return changed(usual, **changes)


def exported_facts(**changes: Any) -> ExportedFacts:
    """Return model.json of an exported model of grey images that is only told of."""
    usual = {
        "format": 1,
        "classes": CLASSES,
        "preprocessing": preprocessing().model_dump() | {"channels": 1},
        "input": {"input_px": 32, "mean": [0.5], "std": [0.5]},
        "flips": "none",
        "views": 1,
        "temperature": 1.0,
        "explanation": "occlusion",
        "backbone": {"library": "timm", "name": "test_resnet", "license": "", "url": ""},
        "license": "other",
        "phase": "top",
        "fingerprint": "f" * 64,
        "lineage": {"data": "d" * 64, "backbone": "b" * 64},
    }
    return ExportedFacts.model_validate(usual | changes)


def features_facts(classes: list[str], *, parent: Parent | None = None) -> FeaturesFacts:
    """Return features.json of a network that is only told of."""
    spec = describe("timm:test_resnet").model_copy(update={"parent": parent})
    ours = {name: value for name, value in model_facts(spec, classes=classes) if name in FeaturesFacts.model_fields}
    return FeaturesFacts(**ours)


def start(
    network: Backbone,
    *,
    folds: int = 1,
    classes: int = 3,
    depth_blocks: int = 0,
    hidden: tuple[int, ...] = (),
    dropout: float = 0.0,
    kind: str | None = None,
) -> Start:
    """Return an untrained head as a phase's start, and another one for each of several folds."""
    torch.manual_seed(1)
    built = [
        build_head(network.num_features, classes, hidden, dropout, kind=kind)
        for _ in range(1 + folds if folds > 1 else 1)
    ]
    model = changed(
        model_facts(network.spec),
        classes=CLASSES[:classes],
        blocks=network.blocks,
        depth_blocks=depth_blocks,
        cut=len(network.blocks) - depth_blocks,
        head={"hidden": list(hidden), "dropout": dropout, "kind": kind},
    )
    first, *others = ({f"head.{name}": value for name, value in head.state_dict().items()} for head in built)
    return Start(first, model, others)
