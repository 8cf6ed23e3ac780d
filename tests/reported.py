"""The outputs of a whole run, small and with real files in each place, for the tests of the report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from tests import tiny
from thaw.data.packed import PackedImages
from thaw.evaluation import test_set
from thaw.evaluation.plots import write_test_plots, write_training_plots
from thaw.head.layers import build_head
from thaw.networks import model_files
from thaw.pipeline import artifacts, facts, tables
from thaw.pipeline.data_facts import ClassNames
from thaw.pipeline.model_facts import ModelFacts
from thaw.pipeline.report_facts import Selection
from thaw.report import page, sources
from thaw.training import model, phase_folder

DECISION = "12 files beside the images are not used (12 .xml; <b>.xml)"
HOSTILE = "<script>alert(1)</script>"
LONG = f"functional {'x' * 120}"
VERDICT = "Unfreezing helped: top lowers the calibrated validation log loss by 0.072 from that of the head."
CURVES = pd.DataFrame(
    {
        "epoch": [0, 1, 2],
        "train_loss": [None, 0.5, 0.4],
        "val_loss": [0.7, 0.6, 0.5],
        "val_accuracy": [0.6, 0.7, 0.8],
        "lr:head": [0.0, 1e-3, 5e-4],
        "lr:layer4": [0.0, 1e-4, 5e-5],
    }
)


def build(
    root: Path,
    *,
    classes: Sequence[str] = ("defective", HOSTILE, LONG),
    num_images: int = 90,
    single_class: bool = False,
    size_px: int = 40,
    channels: int = 1,
    folds: int = 1,
    rejected: Sequence[tuple[str, str]] = (("a/broken <b>.png", "cut short"),),
) -> Path:
    """Write data/, models/ and reports/ below a folder, every second image a test image, and return the folder.

    With `single_class` all test images have one label. With several `folds` every other image is validated on in one.
    """
    samples = tiny.samples(num_images)
    label = [classes[(row // 2) % len(classes)] for row in range(num_images)]
    split = [("test", "train", "test", "val")[row % 4] for row in range(num_images)]
    if single_class:
        label = [classes[0] if part == "test" else name for name, part in zip(label, split, strict=True)]
    samples = samples.assign(label=label, split=split, path=[f"{row % 7}/é<i>{row}.png" for row in range(num_images)])
    samples = tiny.folded(samples)
    if folds > 1:
        development = samples["split"] != "test"
        number = np.where(development, np.cumsum(development) % folds, -1)
        samples = samples.assign(split=np.where(development, "train", "test"), fold=number)
    _prepared(root / "data" / "prepared", samples, classes, size_px, channels, rejected)
    network = _final(root / "models" / "final", classes, channels)
    images = PackedImages.open(root / "data" / "prepared")
    for name in ("head", "top"):
        _phase(root / "models" / "phases" / name, name, images, network)
    _reports(root / "reports", images)
    return root


def read(root: Path) -> sources.Sources:
    """Return what the report is made of."""
    return sources.read(*(root / name for name in ("data/prepared", "models/final", "models/phases", "reports")))


def render(root: Path, *, licence: str | None = None, **settings: Any) -> str:
    """Return the page."""
    final = model.load(root / "models" / "final")
    return page.render(read(root), final, raw="data/mine", settings=settings or {"seed": 0}, licence=licence)


def selection(**changes: Any) -> Selection:
    """Return selection.json for a head and the phase `top`."""
    duel = {
        "reference": "head", "difference": -0.072, "low": -0.116, "high": -0.029, "win_rate": 0.99,
        "mcnemar_p": 0.0004,
    }  # fmt: skip
    usual = {"replaced_best": True, "temperature": 1.0, "log_loss": 0.3, "cost": 0.4}
    head = usual | {"chosen": False, "accuracy": 0.875, "calibrated_log_loss": 0.3}
    top = usual | {
        "chosen": True, "start": "head", "accuracy": 0.908, "calibrated_log_loss": 0.228, "against_head": duel,
        "against_start": duel, "against_best": duel, "train_validation_gap": 0.1,
    }  # fmt: skip
    shared: dict[str, Any] = {"chosen": "top", "reason": VERDICT, "images": 22, "min_win_rate": 0.6, "draws": 100}
    shared |= {"folds": 1, "metric": "accuracy", "cost": "error rate plus Brier score"}
    shared |= {"candidates": {"head": head, "top": top}, "findings": []}
    return Selection.model_validate(shared | changes)


def _prepared(
    folder: Path,
    samples: pd.DataFrame,
    classes: Sequence[str],
    size_px: int,
    channels: int,
    rejected: Sequence[tuple[str, str]],
) -> None:
    counts = samples.groupby(["label", "split"]).size()
    paths, labels = (samples[column].tolist()[:3] for column in ("path", "label"))
    group = {"images": 3, "splits": ["test", "train"], "paths": paths, "labels": labels}
    audit = tiny.audit(
        decisions=[DECISION],
        images=len(samples),
        channels=channels,
        classes={
            name: {split: int(counts.get((name, split), 0)) for split in ("train", "val", "test")} for name in classes
        },
        rejected=len(rejected),
        near_duplicates={"count": 1, "first": [group], "groups_across_splits": 1, "contradictory": 1},
    )
    with artifacts.new_folder(folder) as partial:
        np.save(partial / "images-00000.npy", tiny.pixels(len(samples), channels=channels, size_px=size_px))
        tables.write(partial / "samples.csv", samples)
        tables.write(partial / "rejected.csv", pd.DataFrame(rejected, columns=["path", "reason"], dtype=object))
        facts.write(partial / "classes.json", ClassNames(classes=list(classes)))
        facts.write(partial / "audit.json", audit)


def _final(folder: Path, classes: Sequence[str], channels: int) -> ModelFacts:
    network = tiny.backbone(in_channels=channels)
    torch.manual_seed(1)
    head = build_head(network.num_features, len(classes), [], 0.0)
    tensors = {f"backbone.{name}": value for name, value in network.module.state_dict().items()}
    tensors |= {f"head.{name}": value for name, value in head.state_dict().items()}
    model_json = tiny.changed(tiny.start(network).model, classes=list(classes), phase="top", temperature=1.25)
    with artifacts.new_folder(folder) as partial:
        model_files.save(tensors, partial / "weights.safetensors")
        facts.write(partial / "model.json", model_json)
    return model_json


def _phase(folder: Path, name: str, images: PackedImages, final: ModelFacts) -> None:
    fold = images.samples["fold"].to_numpy()
    rows = np.flatnonzero(fold >= 0)
    logits = np.random.default_rng(3).normal(size=(len(rows), len(images.classes))).astype(np.float32)
    start = None if name == "head" else "head"
    model_json = tiny.changed(final, phase=name, start=start, depth_blocks=int(name != "head"), temperature=None)
    with artifacts.new_folder(folder) as partial:
        phase_folder.write(
            partial,
            tensors={"head.weight": torch.zeros(1)},
            model=model_json,
            answers=phase_folder.Answers(logits, images.labels(rows), rows, fold[rows]),
            curves=[],
        )


def _reports(folder: Path, images: PackedImages) -> None:
    rows = images.rows("test")
    labels, num_classes = images.labels(rows), len(images.classes)
    random = np.random.default_rng(5)
    scores = random.normal(size=(len(rows), num_classes)) + 0.9 * np.eye(num_classes)[labels]
    chances = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    answers = {"head": np.full_like(chances, 1 / num_classes), "top": chances}
    metrics, known = test_set.test_metrics(
        labels,
        answers,
        selection(),
        classes=images.classes,
        temperature=1.25,
        groups=np.full(len(rows), ""),
        draws=50,
        seed=0,
    )
    folder.mkdir()
    facts.write(folder / "metrics.json", metrics)
    facts.write(folder / "classes.json", known)
    folds = int(images.samples["fold"].max()) + 1
    facts.write(folder / "selection.json", selection(folds=folds, images=int((images.samples["fold"] >= 0).sum())))
    table = test_set.predictions(images.samples.iloc[rows], labels, chances, answers["head"], images.classes)
    tables.write(folder / "predictions.csv", table)
    with artifacts.new_folder(folder / "plots") as plots:
        write_test_plots(plots, labels, chances, images.classes)
    with artifacts.new_folder(folder / "training") as plots:
        write_training_plots(plots, {"top": CURVES}, {})
