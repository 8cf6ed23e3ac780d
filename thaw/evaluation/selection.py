"""Read the trained phases, put the verdict into words, and write the network that was chosen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from thaw.errors import ArtifactError
from thaw.evaluation.comparison import Candidate, Verdict
from thaw.evaluation.diagnostics import TrainingRun, findings_of
from thaw.pipeline import artifacts, facts, tables
from thaw.pipeline.candidates import FOLDER, average_name, display_name
from thaw.pipeline.facts import CandidateFacts, Comparison, ModelFacts, Selection

HEAD = "head"


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
        if not (np.array_equal(phase.rows, head.rows) and np.array_equal(phase.labels, head.labels)):
            raise ArtifactError(f"{phase.folder} was validated on other images than {head.folder}; run `dvc repro`")
        if phase.model.classes != head.model.classes:
            raise ArtifactError(f"{phase.folder} has other classes than {head.folder}; run `dvc repro`")
    ordered = sorted(phases, key=lambda phase: (len(_chain(phase.name, starts)), phase.model.depth_blocks, phase.name))
    with_averages = [[_as_its_start(phase, ordered), averages.get(phase.name)] for phase in ordered]
    return [phase for group in with_averages for phase in group if phase is not None]


def read_groups(samples: Path, rows: NDArray[np.int64]) -> NDArray[Any]:
    """Return the group of each of these rows of samples.csv, '' where it has none.

    Raises: ArtifactError if the table is missing or has no such rows.
    """
    try:
        return tables.read(samples).set_index("row")["group"][rows].to_numpy(dtype=object)
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(f"{samples} does not list the validation images ({error}); run `dvc repro`") from None


def selection_report(
    phases: Sequence[TrainedPhase], verdicts: Sequence[Verdict], *, min_win_rate: float, draws: int
) -> Selection:
    """Return the content of selection.json: the choice, the sentence that explains it, evidence, findings."""
    chosen = chosen_verdict(verdicts)
    candidates = {
        verdict.name: _evidence(verdict, phase.folder / "curves.csv", chosen=verdict is chosen)
        for verdict, phase in zip(verdicts, phases, strict=True)
    }
    images = len(phases[0].labels)
    return Selection(
        chosen=chosen.name,
        verdict=verdict_sentence(verdicts, min_win_rate=min_win_rate, draws=draws, images=images),
        images=images,
        min_win_rate=min_win_rate,
        draws=draws,
        candidates=candidates,
        findings=findings_of([phase.training_run for phase in phases]),
    )


def chosen_verdict(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the verdict of the candidate to keep: the last that became the best."""
    return [verdict for verdict in verdicts if verdict.replaced_best][-1]


def verdict_sentence(verdicts: Sequence[Verdict], *, min_win_rate: float, draws: int, images: int) -> str:
    """Return one sentence: did unfreezing help on validation, by how much, and how sure is that."""
    chosen, head = chosen_verdict(verdicts), verdicts[0]
    if len(verdicts) == 1:
        return (
            f"No phase was trained; the head alone has a validation accuracy of {head.accuracy:.3f} on {images} images."
        )
    if chosen is head:
        rivals = [(verdict, verdict.against_best) for verdict in verdicts if verdict.against_best is not None]
        nearest, duel = max(rivals, key=lambda rival: rival[1].win_rate)
        return (
            f"Unfreezing did not help: the best phase, {display_name(nearest.name)}, {_shift(duel)} that of the head "
            f"and wins in {100 * duel.win_rate:.1f} % of {draws} bootstrap draws ({100 * min_win_rate:.0f} % are asked "
            f"for), with an accuracy of {nearest.accuracy:.3f} against {head.accuracy:.3f} on {images} images; the "
            "head is kept."
        )
    gain = chosen.against_head
    assert gain is not None
    return (
        f"Unfreezing helped: {display_name(chosen.name)} {_shift(gain)} that of the head and wins in "
        f"{100 * gain.win_rate:.1f} % of {draws} bootstrap draws, with an accuracy of {chosen.accuracy:.3f} "
        f"against {head.accuracy:.3f} on {images} images."
    )


def write_final(folder: Path, backbone: Path, phase: TrainedPhase, verdict: Verdict, candidates: Sequence[str]) -> None:
    """Write the whole network, the backbone's tensors with the chosen phase's laid over them, and its model.json.

    Raises: ArtifactError if a tensor of the phase has no place in the backbone, or another shape or type.
    """
    fingerprint = artifacts.verify(backbone)
    tensors = {f"backbone.{name}": tensor for name, tensor in _load(backbone / "weights.safetensors").items()}
    for name, tensor in _load(phase.folder / "weights.safetensors").items():
        if not name.startswith("head."):
            place = tensors.get(name)
            # A first layer trained on grey images has fewer input channels than the one that was pretrained.
            if (
                place is None
                or _but_channels(place.shape) != _but_channels(tensor.shape)
                or place.dtype != tensor.dtype
            ):
                found = "absent" if place is None else f"{place.dtype} {place.shape}"
                wanted = f"{tensor.dtype} {tensor.shape}"
                raise ArtifactError(f"{phase.folder}: {name} is {wanted}, in {backbone} it is {found}; run `dvc repro`")
        tensors[name] = tensor
    made_from = {"backbone_manifest": fingerprint, "phase_manifest": phase.fingerprint}
    lineage = phase.model.lineage.model_copy(update=made_from)
    chosen = {"temperature": verdict.temperature, "selected_from": list(candidates), "lineage": lineage}
    with artifacts.new_folder(folder) as new:
        save_file(tensors, new / "weights.safetensors")
        facts.write(new / "model.json", phase.model.model_copy(update=chosen))


def _but_channels(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0], *shape[2:]) if len(shape) == 4 else shape


def _evidence(verdict: Verdict, curves: Path, *, chosen: bool) -> CandidateFacts:
    best_epoch, gap = _curve_summary(curves)
    return CandidateFacts(
        chosen=chosen,
        start=verdict.start,
        accuracy=verdict.accuracy,
        log_loss=verdict.log_loss,
        temperature=verdict.temperature,
        calibrated_log_loss=verdict.calibrated_log_loss,
        against_head=verdict.against_head,
        against_start=verdict.against_start,
        against_best=verdict.against_best,
        replaced_best=verdict.replaced_best,
        best_epoch=best_epoch,
        train_validation_gap=gap,
    )


def _shift(duel: Comparison) -> str:
    if duel.difference == 0:
        return "has the same validation log loss as"
    change, sign = ("lowers", -1) if duel.difference < 0 else ("raises", 1)
    low, high = sorted((sign * duel.low, sign * duel.high))
    by = f"{sign * duel.difference:.3f} (95 % interval {low:.3f} to {high:.3f})"
    return f"{change} the calibrated validation log loss by {by} from"


def _read_phase(folder: Path, name: str, start: str | None) -> TrainedPhase:
    fingerprint = artifacts.verify(folder)
    model, answers = facts.read(folder / "model.json", ModelFacts), _load(folder / "validation.safetensors")
    try:
        logits, labels, rows = answers["logits"], answers["labels"], answers["rows"]
    except KeyError as error:
        raise ArtifactError(f"{folder} has no {error} in validation.safetensors; run `dvc repro`") from None
    if (model.phase, model.start) != (name, start):
        raise ArtifactError(
            f"{folder} holds phase {model.phase!r} with start {model.start!r}, not {name!r}, {start!r}; run `dvc repro`"
        )
    if not len(rows):
        raise ArtifactError(f"{folder} was validated on no images; raise prepare.val_fraction and run `dvc repro`")
    return TrainedPhase(name, start, folder, fingerprint, model, logits, labels, rows)


def _as_its_start(phase: TrainedPhase, phases: Sequence[TrainedPhase]) -> TrainedPhase:
    """Give a phase that gained nothing the answers of its start: same weights, rounded on another path."""
    by_name = {other.name: other for other in phases}
    source = phase
    while source.model.best_epoch == 0 and source.start is not None:
        source = by_name[source.start]
    return replace(phase, logits=source.logits)


def _load(path: Path) -> dict[str, NDArray[Any]]:
    try:
        tensors: dict[str, NDArray[Any]] = load_file(path)
    except (FileNotFoundError, SafetensorError) as error:
        raise ArtifactError(f"{path} cannot be read ({error}); delete its folder and run `dvc repro`") from None
    return tensors


def _chain(name: str, starts: Mapping[str, str]) -> list[str]:
    return [name] if name == HEAD else [*_chain(starts[name], starts), name]


def _curve_summary(path: Path) -> tuple[int | None, float | None]:
    """Return the best epoch, and there the validation loss minus the training loss, in nats, where curves exist."""
    if not path.exists():
        return None, None
    curves = tables.read(path).dropna(subset=["val_loss"])
    if curves.empty:
        return None, None
    best = curves.iloc[int(curves["val_loss"].argmin())]
    gap = float(best["val_loss"] - best["train_loss"])
    return int(best["epoch"]), gap if np.isfinite(gap) else None
