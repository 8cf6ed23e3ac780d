"""What the page says in words and tables: the verdict, the phases, the metrics, the data, where it all came from."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from thaw.export.card import SAMPLE
from thaw.pipeline.data_facts import Audit
from thaw.pipeline.report_facts import Comparison, Figures, interval
from thaw.report.sources import Sources

_METRICS = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "macro_f1": "Macro F1",
    "top_3_accuracy": "Top-3 accuracy",
    "top_5_accuracy": "Top-5 accuracy",
    "roc_auc": "ROC AUC",
    "average_precision": "Average precision",
    "log_loss": "Log loss",
    "log_loss_uncalibrated": "Log loss before calibration",
    "brier": "Brier score",
    "ece": "Calibration error",
    "ece_uncalibrated": "Calibration error before calibration",
}
_LONGEST_HEADLINE = 120
_PACKAGES = ("torch", "torchvision", "timm", "onnxruntime", "numpy", "pandas", "pillow", "dvc")
_SAMPLE_LICENCE = (
    "CC BY-NC-SA 4.0: ELPV, electroluminescence images of solar cells (Buerhop-Lutz and others 2018; Deitsch and "
    "others 2019), not for commercial use"
)


@dataclass(frozen=True)
class Verdict:
    """The sentences at the top of the page."""

    headline: str
    """The first words of the verdict of metrics.json; empty where these are no short beginning."""
    rest: str
    colon: str
    """What stands between them."""
    tested: str
    """The result on the test images."""
    choice: str
    """The sentence of selection.json, what the choice was made on."""


def verdict(sources: Sources) -> Verdict:
    """Return the verdict on the test images, cut after its first words, the test result, and the choice."""
    sentence, metrics = sources.metrics.verdict.sentence, sources.metrics
    headline, colon, rest = sentence.partition(": ")
    if not colon or len(headline) > _LONGEST_HEADLINE:
        headline, rest = "", sentence
    test, chosen = metrics.test, sources.selection.chosen
    tested = (
        f"No choice has seen these {test['n']:,} test images. The accuracy of {chosen} there is {test['accuracy']:.3f}"
        f"{_interval(test, 'accuracy')}; always naming the most frequent class gives {metrics.majority.accuracy:.3f}."
    )
    return Verdict(headline, rest, ": " if headline else "", tested, sources.selection.reason)


def contradictions(audit: Audit) -> str:
    """Return how many looks and images have more than one label; empty where none has."""
    copies, looks = audit.label_conflicts.count, audit.near_duplicates.contradictory
    said = []
    if looks:
        few = "1 group of near copies has" if looks == 1 else f"{looks} groups of near copies have"
        said.append(f"{few} more than one label: no model can be right about all of their images (see Duplicates).")
    if copies:
        few = "1 image was" if copies == 1 else f"{copies} images were"
        said.append(f"{few} listed under more than one label, and rejected.")
    return " ".join(said)


@dataclass(frozen=True)
class Bar:
    """A test accuracy, and where it and its interval stand on the scale, in per cent."""

    name: str
    value: float
    chosen: bool
    at: float
    low: float
    high: float


def bars(sources: Sources) -> list[Bar]:
    """Return the test accuracy of the most frequent class, the head and each phase, each with its interval."""
    metrics, chosen = sources.metrics, sources.selection.chosen
    shown = {"most frequent class": metrics.majority, "head": metrics.head, **metrics.phases}
    floor = max(0.0, min(found.accuracy_low for found in shown.values()) - 0.04)
    ceiling = min(1.0, max(found.accuracy_high for found in shown.values()) + 0.02)
    return [
        Bar(
            name,
            found.accuracy,
            name == chosen,
            *(_share(at, floor, ceiling) for at in (found.accuracy, found.accuracy_low, found.accuracy_high)),
        )
        for name, found in shown.items()
    ]


@dataclass(frozen=True)
class Tile:
    """A test metric with the ends of its interval, where it has one."""

    name: str
    value: float
    low: float | None
    high: float | None


def tiles(sources: Sources) -> list[Tile]:
    """Return each test metric that there is, with its interval."""
    test = sources.metrics.test
    return [
        Tile(label, test[key], *(interval(test, key) or (None, None))) for key, label in _METRICS.items() if key in test
    ]


@dataclass(frozen=True)
class Places:
    """Where a difference and its interval stand on the scale, in per cent."""

    low: float
    high: float
    difference: float


@dataclass(frozen=True)
class PhaseRow:
    """The head, a phase, or a mean in the table of phases."""

    name: str
    chosen: bool
    accuracy: float
    loss: float
    """Calibrated log loss, in nats."""
    duel: Comparison | None
    """With what it started from; None for the head."""
    places: Places | None
    gap: float | None
    """Validation loss minus training loss, in nats."""
    overfits: bool
    depth: int | None
    """Blocks that were unfrozen; None where its folder is not there."""


def phase_rows(sources: Sources) -> list[PhaseRow]:
    """Return the table of phases, a row for each entry of selection.json, its difference on a scale common to all."""
    candidates = sources.selection.candidates
    duels = [entry.against_start for entry in candidates.values() if entry.against_start is not None]
    ends = [abs(end) for duel in duels for end in (duel.low, duel.high, duel.difference) if end is not None]
    reach = max(ends, default=0.0) * 1.1 or 1.0
    overfitted = {finding.where for finding in sources.selection.findings if finding.kind == "overfits"}

    def places(duel: Comparison) -> Places:
        low, high = (duel.difference if end is None else end for end in (duel.low, duel.high))
        return Places(*(_centred(value, reach) for value in (low, high, duel.difference)))

    return [
        PhaseRow(
            name=name,
            chosen=name == sources.selection.chosen,
            accuracy=entry.accuracy,
            loss=entry.calibrated_log_loss,
            duel=entry.against_start,
            places=None if entry.against_start is None else places(entry.against_start),
            gap=entry.train_validation_gap,
            overfits=name in overfitted,
            depth=sources.phases[name].depth_blocks if name in sources.phases else None,
        )
        for name, entry in candidates.items()
    ]


@dataclass(frozen=True)
class KnownClass:
    """A class that the model knew from which the head was grown."""

    name: str
    images: int
    """Validation images of it."""
    recalls: list[float | None]
    """Of that model, of the head as it was grown, and of the model that was chosen."""


def known_classes(sources: Sources) -> list[KnownClass]:
    """Return, where the head was grown from that of another model, what became of each class that it knew."""
    head = sources.phases.get("head")
    if head is None or head.head.grown_from is None:
        return []
    answers, classes = sources.validation, sources.images.classes
    rows = []
    for name, recall in head.head.grown_from.recalls.items():
        own = answers.labels == classes.index(name) if answers else np.zeros(0, bool)
        now = float((answers.predicted[own] == classes.index(name)).mean()) if answers and own.any() else None
        rows.append(KnownClass(name, recall.images, [recall.before, recall.after, now]))
    return rows


def lineage(sources: Sources, raw: str, stated: str | None) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return where the model came from: data, backbone, model and versions, each as names and values.

    `stated` is `data.license` of params.yaml.
    """
    final, spec = sources.final, sources.final.backbone
    licence = stated or (_SAMPLE_LICENCE if raw == SAMPLE else "that of your images; Thaw does not know it")
    data = [
        ("images from", raw),
        ("images", f"{sources.audit.images} used, {sources.audit.rejected} rejected"),
        ("prepared as", sources.images.fingerprint),
        ("licence", licence),
    ]
    backbone = [
        ("network", f"{spec.library}: {spec.name}"),
        ("weights from", spec.url or "random weights"),
        ("SHA-256 of the weights", spec.sha256 or "none"),
        ("licence", spec.license or "not stated by its source"),
        ("input", f"{spec.input_px} px, {spec.in_channels} channel{'s' * (spec.in_channels > 1)}"),
    ]
    if spec.parent is not None:
        backbone.append(("made from model", spec.parent.model))
    temperature = 1.0 if final.temperature is None else final.temperature
    model = [
        ("phase", final.phase),
        ("blocks trained", f"{final.depth_blocks} of {len(final.blocks)}"),
        ("networks averaged", str(final.members or 1)),
        ("temperature", f"{temperature:.4f}"),
        ("flips averaged", final.augment.flip if final.augment.tta else "none"),
        *((name.replace("_", " "), value) for name, value in final.lineage.named().items()),
    ]
    return [("Data", data), ("Backbone", backbone), ("Model", model), ("Versions", versions())]


def versions() -> list[tuple[str, str]]:
    """Return the versions of Python and of the packages that decide figures, without those not installed."""
    found = [("Python", f"{sys.version_info[0]}.{sys.version_info[1]}")]
    for package in _PACKAGES:
        try:
            found.append((package, version(package).partition("+")[0]))
        except PackageNotFoundError:  # a dev build under another name
            continue
    return found


def flat(settings: Mapping[str, Any], above: str = "") -> list[tuple[str, str]]:
    """Return settings as dotted keys and values in the words of YAML."""
    rows: list[tuple[str, str]] = []
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            rows += flat(value, f"{above}{key}.")
        else:
            words = {None: "null", True: "true", False: "false"}
            rows.append((f"{above}{key}", words[value] if value is None or isinstance(value, bool) else str(value)))
    return rows


def _interval(test: Figures, name: str) -> str:
    ends = interval(test, name)
    return f" (95 % interval {ends[0]:.3f} to {ends[1]:.3f})" if ends else ""


def _share(value: float, floor: float, ceiling: float) -> float:
    """Return where a value between the floor and the ceiling stands, in per cent."""
    return round(100 * (value - floor) / ((ceiling - floor) or 1), 2)


def _centred(value: float, reach: float) -> float:
    """Return where a value between -reach and reach stands, in per cent."""
    return round(50 + 50 * value / reach, 2)
