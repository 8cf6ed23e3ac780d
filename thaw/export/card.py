"""The model card, filled from what was measured, in the form of the Hugging Face hub: YAML front matter, Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import yaml

from thaw.names import as_code, as_code_cell, in_markdown
from thaw.pipeline import facts, tables
from thaw.pipeline.data_facts import Audit
from thaw.pipeline.model_facts import ExportedFacts
from thaw.pipeline.report_facts import Accuracy, ClassFigures, Metrics, Selection, interval

SAMPLE = "data/sample/images"
SAMPLE_LICENSE = "cc-by-nc-sa-4.0"

_MOST_CLASSES = 20
_METRICS = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "macro_f1": "Macro F1",
    "roc_auc": "ROC-AUC",
    "average_precision": "Average precision",
    "log_loss": "Log loss (nats)",
    "brier": "Brier score",
    "ece": "Expected calibration error, 15 bins",
}


@dataclass(frozen=True)
class Evidence:
    """What the card is filled from."""

    source: str
    """`data.raw` of params.yaml."""
    audit: Audit
    metrics: Metrics
    classes: ClassFigures
    selection: Selection
    predictions: pd.DataFrame
    """Columns label and predicted, a row for each test image."""

    @classmethod
    def read(cls, source: str, prepared: Path, reports: Path) -> Self:
        """Return what the stages before wrote. Raises: ArtifactError if a file is missing or holds something else."""
        return cls(
            source,
            facts.read(prepared / "audit.json", Audit),
            facts.read(reports / "metrics.json", Metrics),
            facts.read(reports / "classes.json", ClassFigures),
            facts.read(reports / "selection.json", Selection),
            tables.read(reports / "predictions.csv"),
        )


def license_of(source: str, stated: str | None) -> str:
    """Return the licence for the card: the one stated for the images, the sample's own, or `other`."""
    return stated or (SAMPLE_LICENSE if source == SAMPLE else "other")


def render(model: ExportedFacts, evidence: Evidence) -> str:
    """Return the model card, README.md of an exported folder."""
    front = yaml.safe_dump(_front_matter(model, evidence), sort_keys=False, allow_unicode=True, width=120)
    title = " / ".join(map(in_markdown, model.classes[:4]))
    parts = [
        f"# {title}{' / …' if len(model.classes) > 4 else ''}: an image classifier",
        _about(model, evidence),
        "## Intended use\n\n" + _use(model),
        "## How to use it\n\n" + _how(model),
        "## Data\n\n" + _data(evidence),
        "## Results\n\n" + _results(evidence),
        "## Limits\n\n" + _limits(evidence),
        "## Licence\n\n" + _licence(model, evidence),
        "## Lineage\n\n" + _lineage(model),
    ]
    return f"---\n{front}---\n\n" + "\n\n".join(parts) + "\n"


def _front_matter(model: ExportedFacts, evidence: Evidence) -> dict[str, Any]:
    test = evidence.metrics.test
    reported = [
        {"type": name, "name": words, "value": round(test[name], 4)} for name, words in _METRICS.items() if name in test
    ]
    result = {
        "task": {"type": "image-classification"},
        "dataset": {"type": "custom", "name": evidence.source, "split": "test"},
        "metrics": reported,
    }
    return {
        "license": model.license,
        "library_name": "onnx",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "thaw", model.backbone.name],
        "metrics": [entry["type"] for entry in reported],
        "model-index": [{"name": f"thaw-{model.fingerprint[:12]}", "results": [result]}],
    }


def _about(model: ExportedFacts, evidence: Evidence) -> str:
    backbone = model.backbone
    several = (
        f" An answer is the mean of {model.members} networks, one for each part of the images that was left out of "
        f"its training. They share the blocks that were not trained, and an answer takes {model.cost:.1f} times the "
        "multiplications of one network."
        if model.members
        else ""
    )
    return (
        f"{evidence.metrics.verdict.sentence}\n\n"
        f"Tells {len(model.classes)} classes apart: {_names(model.classes)}. A {as_code(backbone.name)} "
        f"({backbone.library}) fine-tuned by Thaw; chosen on validation was `{model.phase}`.{several} "
        f"What the choice was made on, no proof: {evidence.selection.reason}"
    )


def _use(model: ExportedFacts) -> str:
    channels = model.preprocessing.channels
    kind = {1: "grey", 3: "colour"}.get(channels, f"{channels}-channel")
    return (
        f"To sort {kind} images of the kind that it was trained on into these classes. Its probabilities were "
        "calibrated on validation images. It names one of its classes for any image, also for one that shows none of "
        "them, and nothing was measured on images from other cameras, places or times than those below. Where an error "
        "does harm, a person decides."
    )


def _how(model: ExportedFacts) -> str:
    settings = model.preprocessing
    flips = f"averaged over {model.views} mirror images, " if model.views > 1 else ""
    plane = "" if settings.plane is None else f"Of pages or frames it takes `prepare.plane: {settings.plane}`. "
    return (
        "`thaw predict FILES --model FOLDER`, which needs no torch. The ONNX file alone: input `squares`, "
        f"{settings.pixel_type} [images, {settings.size_px}, {settings.size_px}, "
        f"{settings.channels}]; output `probabilities`, float32 [images, {len(model.classes)}], {flips}"
        "calibrated. Before it, an image is made "
        f"square (`{settings.fit}`) and resized with Lanczos; resizing to {model.input.input_px} px and "
        "normalisation are in the file, and its metadata hold the class names and all constants. "
        f"{plane}Explanations: {model.explanation}."
    )


def _data(evidence: Evidence) -> str:
    audit = evidence.audit
    first = list(audit.classes.items())[:_MOST_CLASSES]
    columns = {"train": "train", "val": "validation", "test": "test"}
    if audit.folds > 1:
        columns = {"train": f"development ({audit.folds} folds)", "test": "test"}
    rows = [[as_code_cell(name), *(getattr(counts, split) for split in columns)] for name, counts in first]
    return (
        f"From {as_code(evidence.source)}: {audit.images} images, {audit.rejected} files rejected.\n\n"
        + _table(["class", *columns.values()], rows)
        + _more(len(audit.classes))
    )


def _results(evidence: Evidence) -> str:
    test, metrics = evidence.metrics.test, evidence.metrics
    rows = []
    for name, words in _METRICS.items():
        if name in test:
            ends = interval(test, name)
            between = f"{ends[0]:.3f} to {ends[1]:.3f}" if ends else f"not to be had from {test['n']} images"
            rows.append([words, f"{test[name]:.3f}", between])
    return (
        f"On {test['n']} test images, looked at once, with 95 % intervals.\n\n"
        + _table(["metric", "value", "interval"], rows)
        + f"\n\nThe most frequent class alone gives an accuracy of {_accuracy(metrics.majority)}, the new output "
        f"layer on the frozen network {_accuracy(metrics.head)}."
    )


def per_class(known: ClassFigures, predictions: pd.DataFrame) -> pd.DataFrame:
    """Return for each class with test images: images, recall, precision, and what it is mistaken for most; worst first.

    Recall and precision come with the ends of their intervals, NAME_low and NAME_high. `known` is classes.json.
    """
    wrong = predictions[predictions["label"] != predictions["predicted"]]
    mistaken = {str(name): rows.value_counts().index[0] for name, rows in wrong.groupby("label")["predicted"]}
    found = [
        {
            "class": name,
            "images": figures["support"],
            **{
                f"{name}{end}": figures.get(f"{name}{end}", float("nan"))
                for name in ("recall", "precision")
                for end in ("", "_low", "_high")
            },
            "mistaken for": mistaken.get(name, ""),
        }
        for name, figures in known.root.items()
        if figures["support"]
    ]
    return pd.DataFrame(found).sort_values(["recall", "class"], ignore_index=True)


def _accuracy(found: Accuracy) -> str:
    return f"{found.accuracy:.3f} ({found.accuracy_low:.3f} to {found.accuracy_high:.3f})"


def _limits(evidence: Evidence) -> str:
    metrics, audit = evidence.metrics, evidence.audit
    test, table = metrics.test, per_class(evidence.classes, evidence.predictions)
    rows = [
        [as_code_cell(entry["class"]), entry["images"], *(_between(entry, name) for name in ("recall", "precision")),
         as_code_cell(entry["mistaken for"])]
        for entry in table.head(_MOST_CLASSES).to_dict("records")
    ]  # fmt: skip
    worst = table.iloc[0]
    found = f"{100 * worst['recall']:.1f} % of {worst['images']}"
    between = f"{100 * worst['recall_low']:.1f} to {100 * worst['recall_high']:.1f} %"
    calibrated = f"confidence and accuracy differ by {test['ece']:.3f} on average, on images like those of the test set"
    lines = [
        f"- Weakest class: {as_code(worst['class'])}, of which {found} are found (95 % interval {between}).",
        f"- Calibration: {calibrated}; few images make that look larger.",
    ]
    near, conflicts = audit.near_duplicates, audit.label_conflicts.count
    if near.count:
        lines.append(f"- {near.count} groups of images look almost alike; {near.groups_across_splits} of them are on "
                     "both sides of the split, where the test is a little too optimistic.")  # fmt: skip
    if near.contradictory:
        lines.append(f"- {near.contradictory} of these groups have more than one label.")
    if conflicts:
        lines.append(f"- {conflicts} images are labelled in two ways.")
    return (
        "Measured on the test images, weakest class first.\n\n"
        + _table(["class", "images", "recall", "precision", "most often taken for"], rows)
        + _more(len(table))
        + "\n\n"
        + "\n".join(lines)
    )


def _between(entry: Mapping[Any, Any], name: str) -> str:
    value, low, high = (entry[f"{name}{end}"] for end in ("", "_low", "_high"))
    return f"{value:.3f} ({low:.3f} to {high:.3f})" if np.isfinite(value) else "no guess"


def _licence(model: ExportedFacts, evidence: Evidence) -> str:
    backbone, stated = model.backbone, model.license
    images = (
        "The images' licence was not stated (`data.license` in params.yaml): find it out before you pass this model on."
        if stated == "other"
        else f"The images are under {as_code(stated)}; the card takes the same for what was trained on them."
    )
    sample = (
        " They are the ELPV data set (Buerhop-Lutz and others 2018, doi:10.4229/35thEUPVSEC20182018-5CV.3.15): no "
        "commercial use, and derived work under the same terms."
        if evidence.source == SAMPLE
        else ""
    )
    origin = f" from {as_code(backbone.url)}" if backbone.url else ""
    return (
        f"{images}{sample} The pretrained weights{origin}: {in_markdown(backbone.license) or 'no licence is stated'}."
    )


def _lineage(model: ExportedFacts) -> str:
    rows = [("model", model.fingerprint), *sorted(model.lineage.named().items())]
    return "SHA-256 of what this model was made from, and what computed it.\n\n" + _table(
        ["what", "value"], [[in_markdown(name), as_code_cell(str(value))] for name, value in rows]
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _names(classes: Sequence[str]) -> str:
    shown = ", ".join(as_code(name) for name in classes[:_MOST_CLASSES])
    return shown + (f" and {len(classes) - _MOST_CLASSES} more" if len(classes) > _MOST_CLASSES else "")


def _more(num_classes: int) -> str:
    return f"\n\nThe other {num_classes - _MOST_CLASSES} classes are left out here." * (num_classes > _MOST_CLASSES)
