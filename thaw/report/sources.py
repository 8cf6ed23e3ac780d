"""The inputs of the report: everything that the stages before it wrote, read once and compared with each other."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.numpy import load_file

from thaw.data.packed import PackedImages
from thaw.errors import ArtifactError
from thaw.evaluation.calibration import probabilities
from thaw.pipeline import artifacts, facts, tables
from thaw.pipeline.advice_facts import Advice
from thaw.pipeline.candidates import folder_of
from thaw.pipeline.data_facts import Audit
from thaw.pipeline.model_facts import ModelFacts
from thaw.pipeline.report_facts import ClassFigures, Metrics, Selection

_COLUMNS = {"id", "path", "label", "predicted", "probability", "label_probability"}


@dataclass(frozen=True)
class Answers:
    """What the model says of some packed images that it was not trained on."""

    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    probability: NDArray[np.float64]
    """Of the class that the model names."""
    label_probability: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Sources:
    """The inputs of the report."""

    images: PackedImages
    audit: Audit
    rejected: pd.DataFrame
    metrics: Metrics
    classes: ClassFigures
    selection: Selection
    final: ModelFacts
    """model.json of the model that was chosen."""
    phases: dict[str, ModelFacts]
    """model.json of the head and of each phase, in the order in which they were compared."""
    plots: dict[str, pd.DataFrame]
    """The tables of reports/plots and reports/training by name; one that is missing is empty."""
    test: Answers
    validation: Answers | None
    """Out of fold where there are folds; None where the model that was chosen left no answers of its own."""
    learning_curve: pd.DataFrame
    """That of the head; empty where there is none."""
    advice: Advice | None
    """None where none was given."""

    def plot(self, name: str) -> pd.DataFrame:
        """Return a table of them, empty if there is none."""
        return self.plots.get(name, pd.DataFrame())


def read(prepared: Path, final: Path, phases: Path, reports: Path) -> Sources:
    """Return the inputs. Raises: ArtifactError if one is missing, altered, or not of the same run as the others."""
    images = PackedImages.open(prepared)
    drawn = reports / "plots", reports / "training"
    for folder in (final, *drawn):
        artifacts.verify(folder)
    metrics = facts.read(reports / "metrics.json", Metrics)
    selection = facts.read(reports / "selection.json", Selection)
    kept = facts.read(final / "model.json", ModelFacts)
    _check_choice(metrics, selection, kept)
    if kept.classes != images.classes:
        raise ArtifactError(f"{final} knows other classes than {prepared}; run `dvc repro`")
    known = [name for name in selection.candidates if folder_of(phases, name).is_dir()]
    return Sources(
        images=images,
        audit=facts.read(prepared / "audit.json", Audit),
        rejected=tables.read(prepared / "rejected.csv"),
        metrics=metrics,
        classes=facts.read(reports / "classes.json", ClassFigures),
        selection=selection,
        final=kept,
        phases={name: facts.read(folder_of(phases, name) / "model.json", ModelFacts) for name in known},
        plots={
            path.stem: tables.read(path)
            for folder in drawn
            for path in sorted(folder.glob("*.csv"))
            if path.stem != "confusion"  # the predictions say the same, and which images they are
        },
        test=_test_answers(reports / "predictions.csv", images),
        validation=_validation_answers(folder_of(phases, selection.chosen), kept),
        learning_curve=tables.read(curve)
        if (curve := phases / "head" / "learning_curve.csv").exists()
        else pd.DataFrame(),
        advice=_read_advice(phases.with_name("advice")),
    )


def _read_advice(folder: Path) -> Advice | None:
    if not folder.exists():
        return None
    artifacts.verify(folder)
    return facts.read(folder / "advice.json", Advice)


def _check_choice(metrics: Metrics, selection: Selection, final: ModelFacts) -> None:
    """Raises: ArtifactError if the three do not speak of the same model: the page would contradict itself."""
    chosen, tested, kept = selection.chosen, metrics.final.phase, final.phase
    marked = [name for name, candidate in selection.candidates.items() if candidate.chosen]
    if not (chosen == tested == kept and marked == [chosen]):
        raise ArtifactError(
            f"reports/selection.json chose {chosen}, reports/metrics.json tested {tested} and models/final holds "
            f"{kept}: they are not of one run; run `dvc repro`"
        )


def _test_answers(path: Path, images: PackedImages) -> Answers:
    if not path.is_file():
        raise ArtifactError(f"{path} is missing; `dvc repro` writes it")
    table, rows = tables.read(path), images.rows("test")
    if not set(table.columns) >= _COLUMNS or set(table["id"]) != set(images.samples["id"].iloc[rows]):
        raise ArtifactError(f"{path} does not list the test images of data/prepared; run `dvc repro`")
    place = dict(zip(images.samples["id"].iloc[rows], rows, strict=True))
    order = np.array([place[name] for name in table["id"]], dtype=np.int64)
    index = {name: position for position, name in enumerate(images.classes)}
    return Answers(
        rows=order,
        labels=images.labels(order),
        predicted=np.array([index[name] for name in table["predicted"]], dtype=np.int64),
        probability=table["probability"].to_numpy(np.float64),
        label_probability=table["label_probability"].to_numpy(np.float64),
    )


def _validation_answers(phase: Path, final: ModelFacts) -> Answers | None:
    if not (phase / "validation.safetensors").is_file():
        return None
    artifacts.verify(phase)
    stored = load_file(phase / "validation.safetensors")
    temperature, labels = 1.0 if final.temperature is None else final.temperature, stored["labels"]
    chances = probabilities(stored["logits"], temperature)
    own = chances[np.arange(len(labels)), labels]
    return Answers(stored["rows"], labels, chances.argmax(axis=1), chances.max(axis=1), own)
