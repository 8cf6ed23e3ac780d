"""Read the trained phases, put the verdict into words, and write the network that was chosen."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from thaw.config.schema import SelectParams
from thaw.errors import ArtifactError, ParamsError
from thaw.evaluation.comparison import Candidate, Result
from thaw.evaluation.diagnostics import TrainingRun, findings_of
from thaw.pipeline import artifacts, facts, tables
from thaw.pipeline.candidates import FOLDER, average_name, display_name
from thaw.pipeline.model_facts import ModelFacts
from thaw.pipeline.report_facts import CandidateFacts, Selection, ValidationFigures, ValidationMetrics, looked_at

HEAD = "head"
COST_WORDS = {
    "accuracy": "error rate plus Brier score",
    "log_loss": "log loss",
    "balanced_accuracy": "balanced error",
    "macro_f1": "lack of macro F1",
    "roc_auc": "lack of area under ROC",
}
"""What is compared for each metric (`comparison.COSTS`), in words."""


@dataclass(frozen=True)
class TrainedPhase:
    """The folder of the head or of a phase, checked against its manifest."""

    name: str
    start: str | None
    folder: Path
    fingerprint: str
    model: ModelFacts
    logits: NDArray[np.floating]
    labels: NDArray[np.int64]
    rows: NDArray[np.int64]
    folds: NDArray[np.int64]
    """The fold in which each image is validated on."""

    @property
    def num_folds(self) -> int:
        """How often it was trained to answer for images that it had not seen."""
        return int(self.folds.max()) + 1

    @property
    def candidate(self) -> Candidate:
        """What `choose` compares."""
        return Candidate(self.name, self.start, self.logits)

    @property
    def training_run(self) -> TrainingRun:
        """What `findings_of` looks at."""
        path = self.folder / "curves.csv"
        curves = tables.read(path) if path.exists() else pd.DataFrame()
        return TrainingRun(self.name, curves, self.logits, self.labels, self.model.earlier_layers)


def read_phases(root: Path, starts: Mapping[str, str]) -> list[TrainedPhase]:
    """Return the head and the phases named in `starts` (phase -> start), each after the one it starts from.

    Where a phase also left the mean of itself and its start, that follows it, as something that started from it.
    Phases of equal distance from the head come by depth, then by name: the order in params.yaml is not tracked by DVC
    and must not matter.
    Raises: ArtifactError if a folder is damaged, was not made from the same validation images and classes, or belongs
    to no phase: DVC leaves the output of a removed stage where it is, as a part of what `select` depends on, and
    dvc.lock would then differ from that of a fresh clone.
    """
    strays = [path for path in sorted(root.glob("[!.]*")) if path.is_dir() and path.name not in {HEAD, *starts}]
    if strays:
        raise ArtifactError(
            f"{strays[0]} belongs to no phase of params.yaml; run `rm -r {' '.join(map(str, strays))}` (DVC's cache "
            "keeps a copy), then `dvc repro`"
        )
    phases = [_read_phase(root / name, name, start) for name, start in [(HEAD, None), *sorted(starts.items())]]
    averages = {
        name: _read_phase(root / name / FOLDER, average_name(start, name), name)
        for name, start in starts.items()
        if (root / name / FOLDER).is_dir()
    }
    head = phases[0]
    for phase in [*phases[1:], *averages.values()]:
        pairs = ((phase.rows, head.rows), (phase.labels, head.labels), (phase.folds, head.folds))
        if not all(np.array_equal(ours, theirs) for ours, theirs in pairs):
            raise ArtifactError(f"{phase.folder} was validated on other images than {head.folder}; run `dvc repro`")
        if phase.model.classes != head.model.classes:
            raise ArtifactError(f"{phase.folder} has other classes than {head.folder}; run `dvc repro`")
    ordered = sorted(phases, key=lambda phase: (len(_chain(phase.name, starts)), phase.model.depth_blocks, phase.name))
    with_averages = [[phase, averages.get(phase.name)] for phase in ordered]
    return [phase for group in with_averages for phase in group if phase is not None]


def trained_of(phases: Sequence[TrainedPhase]) -> list[TrainedPhase]:
    """Return the head and the phases that were trained, each with the nearest of them that it comes from as its start.

    A phase that the advice did not find worth training holds what it would have started from, and is no candidate.
    """
    starts = {phase.name: phase.start for phase in phases}
    skipped = {phase.name for phase in phases if phase.model.not_trained is not None}

    def from_trained(start: str | None) -> str | None:
        return from_trained(starts[start]) if start in skipped else start

    kept = [phase for phase in phases if phase.name not in skipped]
    return [replace(phase, start=from_trained(phase.start)) for phase in kept]


def not_trained(phases: Sequence[TrainedPhase]) -> dict[str, str]:
    """Return why each phase that was not trained was not, by its name."""
    return {phase.name: phase.model.not_trained for phase in phases if phase.model.not_trained is not None}


def check_final(phases: Sequence[TrainedPhase], settings: SelectParams) -> None:
    """Raises: ParamsError if an ensemble is asked for and there is one network, or no memory for all of them.

    `evaluate` holds those of all candidates at once. Their files have at least half the size of their tensors.
    """
    if settings.final != "ensemble":
        return
    folds = phases[0].num_folds
    if folds == 1:
        raise ParamsError(
            "params.yaml: select.final is ensemble, but there is one fold, which trains one network; set select.final "
            "to refit, or select.folds to 2 or more"
        )
    needed = 2 * sum(path.stat().st_size for phase in phases for path in phase.folder.glob("fold-*.safetensors"))
    free = psutil.virtual_memory().available
    if needed > free:
        raise ParamsError(
            f"params.yaml: select.final is ensemble, but the {folds} networks of each of {len(phases)} candidates take "
            f"{needed / 2**30:.2f} GiB of memory, and {free / 2**30:.2f} GiB are free; set select.final to refit, or "
            "fewer select.folds"
        )


def read_groups(samples: Path, rows: NDArray[np.int64]) -> NDArray[Any]:
    """Return the group of each of these rows of samples.csv, '' where it has none.

    Raises: ArtifactError if the table is missing or has no such rows.
    """
    try:
        return tables.read(samples).set_index("row")["group"][rows].to_numpy(dtype=object)
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(f"{samples} does not list the validation images ({error}); run `dvc repro`") from None


def selection_report(
    phases: Sequence[TrainedPhase],
    results: Sequence[Result],
    settings: SelectParams,
    skipped: Mapping[str, str] | None = None,
) -> Selection:
    """Return the content of selection.json: the choice, the sentence that explains it, evidence, findings.

    `skipped` says why phases were not trained (`not_trained`).
    """
    chosen = chosen_result(results)
    candidates = {
        result.name: _evidence(result, phase.folder / "curves.csv", chosen=result is chosen)
        for result, phase in zip(results, phases, strict=True)
    }
    images, folds = len(phases[0].labels), phases[0].num_folds
    return Selection(
        chosen=chosen.name,
        reason=reason(results, settings, images=images, folds=folds),
        images=images,
        folds=folds,
        metric=settings.metric,
        cost=COST_WORDS[settings.metric],
        final=settings.final if folds > 1 else None,
        min_win_rate=settings.min_win_rate,
        draws=settings.draws,
        candidates=candidates,
        findings=findings_of([phase.training_run for phase in phases]),
        not_trained=dict(skipped or {}),
    )


def chosen_result(results: Sequence[Result]) -> Result:
    """Return the result of the candidate to keep: the last that became the best."""
    return [result for result in results if result.replaced_best][-1]


def reason(results: Sequence[Result], settings: SelectParams, *, images: int, folds: int) -> str:
    """Return one sentence: what is kept, and what the choice rests on."""
    chosen, head, on = chosen_result(results), results[0], looked_at(images, folds)
    if len(results) == 1:
        return f"No phase was trained; the head alone has an accuracy of {head.accuracy:.3f} on {on}."
    asked = f"{100 * settings.min_win_rate:.0f} % are asked for"
    cost = COST_WORDS[settings.metric]
    if chosen is head:
        rivals = [(result, result.against_best) for result in results if result.against_best is not None]
        nearest, duel = max(rivals, key=lambda rival: rival[1].win_rate)
        return (
            f"The head alone is kept: {display_name(nearest.name)} has a smaller {cost} in "
            f"{100 * duel.win_rate:.0f} % of {settings.draws} bootstrap draws ({asked}), and an accuracy of "
            f"{nearest.accuracy:.3f} against {head.accuracy:.3f}, on {on}."
        )
    gain = chosen.against_head
    assert gain is not None
    return (
        f"{display_name(chosen.name)} is kept: it has a smaller {cost} than the head in {100 * gain.win_rate:.0f} % of "
        f"{settings.draws} bootstrap draws ({asked}), and an accuracy of {chosen.accuracy:.3f} against "
        f"{head.accuracy:.3f}, on {on}."
    )


def write_final(
    folder: Path, backbone: Path, phase: TrainedPhase, result: Result, *, candidates: Sequence[str], ensemble: bool
) -> None:
    """Write the whole network in the files that model_files.py describes, and its model.json.

    They are the chosen phase's own, of all folds with `ensemble`, and the backbone's tensors that are not in there.
    Raises: ArtifactError if a tensor of the phase has no place in the backbone, or another shape or type.
    """
    fingerprint = artifacts.verify(backbone)
    pretrained = {f"backbone.{name}": tensor for name, tensor in _load(backbone / "weights.safetensors").items()}
    files = sorted(phase.folder.glob("fold-*.safetensors")) if ensemble else [phase.folder / "weights.safetensors"]
    trained, *_ = [_names_that_fit(pretrained, path, backbone) for path in files]
    frozen = {name: tensor for name, tensor in pretrained.items() if name not in trained}
    made_from = {"backbone_manifest": fingerprint, "phase_manifest": phase.fingerprint}
    lineage = phase.model.lineage.model_copy(update=made_from)
    chosen = {"temperature": result.temperature, "selected_from": list(candidates), "lineage": lineage}
    members = {"members": len(files)} if len(files) > 1 else {}
    with artifacts.new_folder(folder) as new:
        save_file(frozen, new / "frozen.safetensors")
        for path in files:
            shutil.copyfile(path, new / path.name)
        facts.write(new / "model.json", phase.model.model_copy(update=chosen | members))


def validation_metrics(selection: Selection) -> ValidationMetrics:
    """Return validation.json: what experiments are compared by, in as many figures as a table has room for."""
    return ValidationMetrics(
        chosen=selection.chosen,
        validation={
            name: ValidationFigures(accuracy=seen.accuracy, log_loss=seen.calibrated_log_loss)
            for name, seen in selection.candidates.items()
        },
    )


def read_curves(phases: Sequence[TrainedPhase]) -> dict[str, pd.DataFrame]:
    """Return the curves.csv of each phase that took epochs, by name."""
    curves = {phase.name: phase.training_run.curves for phase in phases}
    return {name: table for name, table in curves.items() if not table.empty}


def read_range_tests(phases: Sequence[TrainedPhase]) -> dict[str, pd.DataFrame]:
    """Return the range_test.csv of each phase, by name; of one whose rate was given, the one row with that rate."""
    found = {}
    for phase in phases:
        path, lr = phase.folder / "range_test.csv", phase.model.lr
        if path.exists():
            found[phase.name] = tables.read(path)
        elif lr is not None:
            found[phase.name] = pd.DataFrame({"rate": [lr], "change": np.nan, "smoothed": np.nan, "chosen": 1})
    return found


def _names_that_fit(pretrained: Mapping[str, NDArray[Any]], path: Path, backbone: Path) -> set[str]:
    """Return the names of what was trained. Raises: ArtifactError if a tensor of it has no place in the backbone."""
    trained = _load(path)
    for name, tensor in trained.items():
        if name.startswith("head."):
            continue
        place = pretrained.get(name)
        # A first layer trained on grey images has fewer input channels than the one that was pretrained.
        if place is None or _but_channels(place.shape) != _but_channels(tensor.shape) or not _same(place, tensor):
            found = "absent" if place is None else f"{place.dtype} {place.shape}"
            wanted = f"{tensor.dtype} {tensor.shape}"
            raise ArtifactError(f"{path}: {name} is {wanted}, in {backbone} it is {found}; run `dvc repro`")
    return set(trained)


def _same(place: NDArray[Any], tensor: NDArray[Any]) -> bool:
    """Return whether one is of the type of the other; float16 stands for float32 (thaw/networks/model_files.py)."""
    return tensor.dtype in ({place.dtype, np.dtype(np.float16)} if place.dtype == np.float32 else {place.dtype})


def _but_channels(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0], *shape[2:]) if len(shape) == 4 else shape


def _evidence(result: Result, curves: Path, *, chosen: bool) -> CandidateFacts:
    return CandidateFacts(
        chosen=chosen,
        start=result.start,
        accuracy=result.accuracy,
        log_loss=result.log_loss,
        temperature=result.temperature,
        calibrated_log_loss=result.calibrated_log_loss,
        cost=result.cost,
        against_head=result.against_head,
        against_start=result.against_start,
        against_best=result.against_best,
        replaced_best=result.replaced_best,
        train_validation_gap=_gap(curves),
    )


def _read_phase(folder: Path, name: str, start: str | None) -> TrainedPhase:
    fingerprint = artifacts.verify(folder)
    model, answers = facts.read(folder / "model.json", ModelFacts), _load(folder / "validation.safetensors")
    try:
        logits, labels, rows, folds = (answers[key] for key in ("logits", "labels", "rows", "folds"))
    except KeyError as error:
        raise ArtifactError(f"{folder} has no {error} in validation.safetensors; run `dvc repro`") from None
    if (model.phase, model.start) != (name, start):
        raise ArtifactError(
            f"{folder} holds phase {model.phase!r} with start {model.start!r}, not {name!r}, {start!r}; run `dvc repro`"
        )
    if not len(rows):
        raise ArtifactError(f"{folder} was validated on no images; raise prepare.val_fraction and run `dvc repro`")
    return TrainedPhase(name, start, folder, fingerprint, model, logits, labels, rows, folds)


def _load(path: Path) -> dict[str, NDArray[Any]]:
    try:
        tensors: dict[str, NDArray[Any]] = load_file(path)
    except (FileNotFoundError, SafetensorError) as error:
        raise ArtifactError(f"{path} cannot be read ({error}); delete its folder and run `dvc repro`") from None
    return tensors


def _chain(name: str, starts: Mapping[str, str]) -> list[str]:
    return [name] if name == HEAD else [*_chain(starts[name], starts), name]


def _gap(path: Path) -> float | None:
    """Return the validation loss minus the training loss after the last epoch, in nats, where curves exist."""
    if not path.exists():
        return None
    curves = tables.read(path).dropna(subset=["val_loss", "train_loss"])
    return None if curves.empty else float(curves["val_loss"].iloc[-1] - curves["train_loss"].iloc[-1])
