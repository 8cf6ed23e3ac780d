"""The stage `select` on small folders of the real format."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from stages import select
from tests import tiny
from thaw.config.schema import SelectParams
from thaw.errors import ArtifactError, ParamsError
from thaw.evaluation.comparison import choose
from thaw.evaluation.selection import TrainedPhase, check_final, read_groups, read_phases, write_final
from thaw.networks import model_files
from thaw.pipeline import artifacts, code, facts
from thaw.pipeline.model_facts import ModelFacts
from thaw.training.phase_folder import carry_over

ROOT = Path(__file__).parents[2]
LABELS = np.arange(120, dtype=np.int64) % 2
ONE_FOLD = np.zeros(120, np.int64)


def phase_folder(
    name: str,
    start: str | None,
    *,
    accuracy: float,
    tensors: dict[str, NDArray[np.float32]],
    depth: int = 0,
    rows: NDArray[np.int64] | None = None,
    classes: tuple[str, ...] = ("a", "b"),
    curves: pd.DataFrame | None = None,
    average: float | None = None,
    folds: NDArray[np.int64] = ONE_FOLD,
    **changes: Any,
) -> None:
    """Write a phase's folder; `average` is the accuracy of its mean with its start, whose tensors are all 4.

    With several folds the tensors of each are those that are kept, with 10, 20 and so on added.
    """
    lineage = {"data": "x", "backbone": "y"}
    model = tiny.model_facts(
        phase=name, start=start, depth_blocks=depth, classes=list(classes), lineage=lineage, **changes
    )
    shown = np.arange(120) if rows is None else rows
    with artifacts.new_folder(Path("models/phases") / name) as folder:
        fill(folder, model, tensors, accuracy, shown, folds)
        if average is not None:
            with artifacts.new_folder(folder / "average") as inside:
                means = {tensor: np.full_like(value, 4) for tensor, value in tensors.items()}
                fill(inside, tiny.changed(model, phase=f"{start}+{name}", start=name), means, average, shown, folds)
        if start:
            usual = {"epoch": [0, 1, 2], "train_loss": [None, 0.4, 0.1], "val_loss": [0.6, 0.3, 0.5]}
            (pd.DataFrame(usual) if curves is None else curves).to_csv(folder / "curves.csv", index=False)


def fill(
    folder: Path,
    model: ModelFacts,
    tensors: dict[str, NDArray[np.float32]],
    accuracy: float,
    rows: NDArray[np.int64],
    folds: NDArray[np.int64],
) -> None:
    wrong = np.arange(len(LABELS)) >= accuracy * len(LABELS)
    logits = np.eye(2, dtype=np.float32)[np.where(wrong, 1 - LABELS, LABELS)] * 3
    answers: dict[str, NDArray[Any]] = {"logits": logits, "labels": LABELS, "rows": rows, "folds": folds}
    save_file(tensors, folder / "weights.safetensors")
    for number in range(folds.max() + 1 if folds.max() else 0):
        own = {tensor: value + np.float32(10 * (number + 1)) for tensor, value in tensors.items()}
        save_file(own, folder / f"fold-{number:02d}.safetensors")
    save_file(answers, folder / "validation.safetensors")
    facts.write(folder / "model.json", model)


def filled(value: float, *shape: int) -> NDArray[np.float32]:
    return np.full(shape, value, dtype=np.float32)


def first_values(folder: Path) -> dict[str, float]:
    """Return the first value of each tensor of a model; those of its further networks as `members.N.…`."""
    return {
        f"members.{number}.{name}" if number else name: float(tensor.flatten()[0])
        for number, tensors in enumerate(model_files.load_networks(folder))
        for name, tensor in tensors.items()
    }


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the shipped params, a backbone of two tensors, a head, `top` (better) and `mid` (worse)."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    code.write(code.FOLDER, code.running(), only=["select"])
    with artifacts.new_folder(Path("data/prepared")) as folder:
        pd.DataFrame({"row": range(150), "group": None}).to_csv(folder / "samples.csv", index=False)
        (folder / "images-00000.npy").write_bytes(b"pixels")
    with artifacts.new_folder(Path("models/backbone")) as folder:
        save_file({"stem.weight": filled(1, 3), "last.weight": filled(2, 2, 2)}, folder / "weights.safetensors")
    phase_folder("head", None, accuracy=0.7, tensors={"head.weight": filled(3, 2)})
    trained = {"backbone.last.weight": filled(5, 2, 2), "head.weight": filled(6, 2)}
    phase_folder("top", "head", accuracy=0.95, tensors=trained, depth=1)
    phase_folder("mid", "top", accuracy=0.6, tensors=trained | {"backbone.stem.weight": filled(9, 3)}, depth=2)
    return tmp_path


def test_the_better_phase_is_laid_over_the_backbone(workspace: Path) -> None:
    select.main()
    artifacts.verify(workspace / "models/final")
    assert first_values(workspace / "models/final") == {
        "backbone.stem.weight": 1,
        "backbone.last.weight": 5,
        "head.weight": 6,
    }
    model = facts.read(workspace / "models/final/model.json", ModelFacts)
    assert model.phase == "top"
    assert model.selected_from == ["head", "top", "mid"]
    assert model.lineage.data == "x"
    assert model.lineage.phase_manifest == artifacts.verify(workspace / "models/phases/top")


def test_the_report_tells_the_evidence_for_every_candidate(workspace: Path) -> None:
    select.main()
    report = artifacts.read_json(workspace / "reports/selection.json")
    assert report["chosen"] == "top"
    assert report["reason"].startswith(
        "top is kept: it has a smaller error rate plus Brier score than the head in 100 %"
    )
    assert report["reason"].endswith("an accuracy of 0.950 against 0.700, on 120 validation images.")
    compared = json.loads((workspace / "reports/validation.json").read_text())
    assert compared["chosen"] == "top"
    assert compared["validation"]["head"] == {
        "accuracy": 0.7, "log_loss": report["candidates"]["head"]["calibrated_log_loss"],
    }  # fmt: skip
    assert {path.name for path in (workspace / "reports/training").glob("*.csv")} == {
        "losses.csv", "accuracies.csv", "learning_rates.csv", "range_tests.csv",
    }  # fmt: skip
    assert (report["images"], report["folds"], report["metric"]) == (120, 1, "accuracy")
    assert report["cost"] == "error rate plus Brier score"
    assert "final" not in report
    assert [name for name, entry in report["candidates"].items() if entry["chosen"]] == ["top"]
    mid = report["candidates"]["mid"]
    assert mid["accuracy"] == pytest.approx(0.6)
    assert mid["against_best"]["reference"] == "top"
    assert mid["against_head"]["reference"] == "head"
    assert mid["against_best"]["difference"] == pytest.approx(mid["cost"] - report["candidates"]["top"]["cost"])
    assert mid["train_validation_gap"] == pytest.approx(0.4), "after the last epoch"
    assert "train_validation_gap" not in report["candidates"]["head"]


def test_signs_of_trouble_are_kept_and_printed_with_the_table(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("THAW_SCRATCH", str(workspace / "scratch"))
    for stage, seconds in (("features", 70.4), ("head", 5.1), ("unfreeze@mid", 12.0)):
        artifacts.write_json(workspace / "scratch/timings" / f"{stage}.json", {"seconds": seconds})
    curves = pd.DataFrame({"epoch": [0, 1, 2], "train_loss": [None, 0.4, 0.1], "val_loss": [0.9, 0.8, 0.7]})
    phase_folder("mid", "top", accuracy=0.6, tensors={"head.weight": filled(6, 2)}, depth=2, curves=curves)
    select.main()
    text = (workspace / "reports/selection.json").read_text(encoding="utf-8")
    assert [(finding["kind"], finding["where"]) for finding in json.loads(text)["findings"]] == [
        ("overfits", "top"),
        ("overfits", "mid"),
    ]
    assert "seconds" not in text
    out = capsys.readouterr().out
    rows = {line[2:].split()[0]: line.split() for line in out.splitlines() if line[2:].strip()}
    assert rows["head"] == ["head", "0.700", "0.612", "76", "s"]
    assert rows["top"][:4] == ["*", "top", "0.950", "0.200"]
    assert rows["top"][-2:] == ["<0.001", "0.400!"]
    assert rows["mid"][-3:] == ["0.600!", "12", "s"]
    assert "…" not in out
    assert "Warning: mid overfits: after epoch" in " ".join(out.split())
    assert "top is kept: it has a smaller" in " ".join(out.split())


FOLDS = np.arange(120) // 2 % 3


def in_three_folds() -> dict[str, NDArray[np.float32]]:
    trained = {"backbone.last.weight": filled(5, 2, 2), "head.weight": filled(6, 2)}
    phase_folder("head", None, accuracy=0.7, tensors={"head.weight": filled(3, 2)}, folds=FOLDS)
    phase_folder("top", "head", accuracy=0.95, tensors=trained, depth=1, folds=FOLDS)
    phase_folder("mid", "top", accuracy=0.6, tensors=trained, depth=2, folds=FOLDS)
    return trained


def final(params: Path, kind: str) -> dict[str, float]:
    """Return the first value of each tensor of models/final where `select.final` is of that kind."""
    text = params.read_text(encoding="utf-8")
    params.write_text(text.replace("select:\n", f"select:\n  final: {kind}\n"), encoding="utf-8")
    select.main()
    params.write_text(text, encoding="utf-8")
    return first_values(Path("models/final"))


def test_with_folds_the_network_that_was_trained_on_all_images_ships_or_those_of_the_folds(workspace: Path) -> None:
    in_three_folds()
    refit = final(workspace / "params.yaml", "refit")
    assert refit == {
        "backbone.stem.weight": 1,
        "backbone.last.weight": 5,
        "head.weight": 6,
    }
    report = artifacts.read_json(workspace / "reports/selection.json")
    assert (report["folds"], report["images"], report["final"]) == (3, 120, "refit")
    assert report["reason"].endswith("answered by a network that has not seen it (3 folds).")
    assert facts.read(workspace / "models/final/model.json", ModelFacts).members is None
    ensemble = final(workspace / "params.yaml", "ensemble")
    assert ensemble == {
        "backbone.stem.weight": 1,
        "backbone.last.weight": 15,
        "head.weight": 16,
        "members.1.backbone.last.weight": 25,
        "members.1.head.weight": 26,
        "members.2.backbone.last.weight": 35,
        "members.2.head.weight": 36,
    }
    assert facts.read(workspace / "models/final/model.json", ModelFacts).members == 3
    assert artifacts.read_json(workspace / "reports/selection.json")["final"] == "ensemble"


@pytest.mark.usefixtures("workspace")
def test_phases_that_were_validated_on_in_other_folds_are_refused() -> None:
    trained = in_three_folds()
    phase_folder("top", "head", accuracy=0.95, tensors=trained, depth=1, folds=FOLDS[::-1].copy())
    with pytest.raises(ArtifactError, match="models/phases/top was validated on other images than models/phases/head"):
        select.main()


def test_running_twice_gives_the_same_files(workspace: Path) -> None:
    select.main()
    first = (artifacts.verify(workspace / "models/final"), (workspace / "reports/selection.json").read_bytes())
    select.main()
    assert first == (artifacts.verify(workspace / "models/final"), (workspace / "reports/selection.json").read_bytes())


@pytest.mark.usefixtures("workspace")
def test_a_folder_of_a_removed_phase_must_be_deleted_first() -> None:
    phase_folder("old", "head", accuracy=1.0, tensors={"head.weight": filled(1, 2)}, depth=1)
    with pytest.raises(ArtifactError, match=r"^models/phases/old belongs to no phase .*`rm -r models/phases/old`"):
        select.main()
    assert not Path("models/final").exists()
    artifacts.remove(Path("models/phases/old"))
    select.main()


def test_what_a_head_on_an_earlier_block_is_worth_is_told_of_the_head_and_of_no_phase(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    better = {"log_loss": 0.3, "accuracy": 0.9, "difference": -0.3, "standard_error": 0.01}
    last = {"block": "layer4", "log_loss": 0.6, "accuracy": 0.7}
    layers = {"images": 600, "last": last, "earlier": {"layer2": better}}
    trained = {"head.weight": filled(6, 2)}
    phase_folder("head", None, accuracy=0.7, tensors={"head.weight": filled(3, 2)}, earlier_layers=layers)
    phase_folder("top", "head", accuracy=0.95, tensors=trained, depth=1, earlier_layers=layers)
    select.main()
    findings = artifacts.read_json(workspace / "reports/selection.json")["findings"]
    found = [finding for finding in findings if finding["kind"] == "earlier_layers_do_better"]
    assert [finding["where"] for finding in found] == ["head"]
    assert "block layer2 reaches a validation log loss of 0.3 and an accuracy of 0.900" in found[0]["evidence"]
    assert "backbone.keep: layer2" in found[0]["advice"]
    out = " ".join(capsys.readouterr().out.split())
    assert "Warning: head would do better on an earlier block: on 600 training images" in out


@pytest.mark.parametrize(("accuracy", "chosen", "last"), [(0.99, "head+top", 4), (0.5, "top", 5)])
def test_the_mean_of_a_phase_and_its_start_is_kept_only_where_validation_says_so(
    workspace: Path, capsys: pytest.CaptureFixture[str], accuracy: float, chosen: str, last: float
) -> None:
    trained = {"backbone.last.weight": filled(5, 2, 2), "head.weight": filled(6, 2)}
    phase_folder("top", "head", accuracy=0.95, tensors=trained, depth=1, average=accuracy)
    select.main()
    report = artifacts.read_json(workspace / "reports/selection.json")
    model = facts.read(workspace / "models/final/model.json", ModelFacts)
    assert report["chosen"] == model.phase == chosen
    assert list(report["candidates"]) == model.selected_from == ["head", "top", "head+top", "mid"]
    mean = report["candidates"]["head+top"]
    assert mean["against_start"]["reference"] == "top"
    assert mean["accuracy"] == pytest.approx(accuracy, abs=0.005)
    assert "train_validation_gap" not in mean
    found = first_values(workspace / "models/final")
    assert (found["backbone.last.weight"], found["backbone.stem.weight"]) == (last, 1)
    in_words = "head+top (the mean of their weights) is kept: it has a smaller"
    assert report["reason"].startswith(in_words) == (chosen == "head+top")
    assert "head+top" in capsys.readouterr().out


@pytest.mark.usefixtures("workspace")
def test_a_mean_validated_on_other_images_or_altered_is_refused() -> None:
    weights = {"head.weight": filled(6, 2)}
    phase_folder("top", "head", accuracy=0.95, tensors=weights, depth=1, average=0.9)
    mean = Path("models/phases/top/average")
    original = load_file(mean / "validation.safetensors")
    save_file(original | {"rows": original["rows"][::-1].copy()}, mean / "validation.safetensors")
    with pytest.raises(ArtifactError, match=r"top/average/validation\.safetensors is not what its manifest says"):
        select.main()
    for folder in (mean, mean.parent):  # with true manifests, other images are still seen
        with artifacts.new_folder(folder) as new:
            shutil.copytree(folder, new, dirs_exist_ok=True)
            (new / artifacts.MANIFEST).unlink()
    with pytest.raises(ArtifactError, match=r"models/phases/top/average was validated on other images than"):
        select.main()


@pytest.mark.usefixtures("workspace")
def test_phases_come_after_their_start_whatever_the_order_of_the_params() -> None:
    for starts in ({"mid": "top", "top": "head"}, {"top": "head", "mid": "top"}):
        assert [phase.name for phase in read_phases(Path("models/phases"), starts)] == ["head", "top", "mid"]


@pytest.mark.usefixtures("workspace")
def test_the_head_alone_can_be_selected() -> None:
    text = Path("params.yaml").read_text(encoding="utf-8")
    start, end = text.index("unfreeze:"), text.index("select:")
    Path("params.yaml").write_text(
        f"{text[:start]}unfreeze:\n  defaults: {{}}\n  phases: {{}}\n\n{text[end:]}", encoding="utf-8"
    )
    for name in ("top", "mid"):
        artifacts.remove(Path("models/phases") / name)
    select.main()
    assert facts.read(Path("models/final/model.json"), ModelFacts).phase == "head"
    assert "No phase was trained" in artifacts.read_json(Path("reports/selection.json"))["reason"]


@pytest.mark.usefixtures("workspace")
@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"backbone.unknown": filled(0, 1)}, "it is absent"),
        ({"backbone.last.weight": filled(0, 3)}, r"float32 \(2, 2\)"),
        ({"backbone.last.weight": np.zeros((2, 2))}, "is float64"),
    ],
)
def test_a_tensor_without_a_place_in_the_backbone_is_refused(
    tensors: dict[str, NDArray[np.float32]], words: str
) -> None:
    phase_folder("top", "head", accuracy=0.95, tensors=tensors, depth=1)
    with pytest.raises(ArtifactError, match=words):
        select.main()
    assert not Path("models/final").exists()
    assert not Path("reports/selection.json").exists()


@pytest.mark.usefixtures("workspace")
def test_phases_validated_on_other_images_or_classes_are_refused() -> None:
    weights = {"head.weight": filled(1, 2)}
    phase_folder("top", "head", accuracy=0.95, tensors=weights, depth=1, rows=np.arange(120)[::-1].copy())
    with pytest.raises(ArtifactError, match="validated on other images"):
        select.main()
    phase_folder("top", "head", accuracy=0.95, tensors=weights, depth=1, classes=("b", "a"))
    with pytest.raises(ArtifactError, match="other classes"):
        select.main()
    phase_folder("top", "mid", accuracy=0.95, tensors=weights, depth=1)
    with pytest.raises(ArtifactError, match="start 'mid'"):
        select.main()


@pytest.mark.usefixtures("workspace")
def test_an_altered_phase_is_refused() -> None:
    with Path("models/phases/mid/weights.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ArtifactError, match=r"mid/weights\.safetensors is not what its manifest says"):
        select.main()


@pytest.mark.usefixtures("workspace")
def test_groups_are_read_by_row_and_a_row_without_an_entry_is_refused() -> None:
    samples = Path("data/prepared/samples.csv")
    pd.DataFrame({"row": [2, 0, 1], "group": ["007", None, "NA"]}).to_csv(samples, index=False)
    groups = read_groups(samples, np.array([1, 2, 0]))
    assert groups.tolist() == ["NA", "007", ""]
    with pytest.raises(ArtifactError, match="does not list the validation images"):
        read_groups(samples, np.array([3]))


def test_a_table_of_samples_that_was_altered_is_refused(workspace: Path) -> None:
    (workspace / "data" / "prepared" / "images-00000.npy").unlink()  # pixels are not needed here
    select.main()
    with Path("data/prepared/samples.csv").open("a") as file:
        file.write("150,\n")
    with pytest.raises(ArtifactError, match=r"samples\.csv is not what its manifest says"):
        select.main()


def in_folds(folder: Path, folds: int) -> TrainedPhase:
    """Return a phase that was trained in folds, with the weights of each, and on all images where they are several."""
    model, rows = tiny.model_facts(phase="top", start="head"), np.arange(12)
    with artifacts.new_folder(folder) as new:
        save_file({"head.weight": filled(9, 2), "backbone.last.weight": filled(9, 2, 2)}, new / "weights.safetensors")
        for number in range(folds if folds > 1 else 0):
            tensors = {"head.weight": filled(number, 2), "backbone.last.weight": filled(10 + number, 2, 2)}
            save_file(tensors, new / f"fold-{number:02d}.safetensors")
    logits = np.eye(2, dtype=np.float32)[rows % 2]
    return TrainedPhase("top", "head", folder, "fingerprint", model, logits, rows % 2, rows, rows % folds)


@pytest.mark.parametrize(("final", "members"), [("refit", None), ("ensemble", 3)])
def test_with_folds_the_final_model_is_trained_on_all_images_or_holds_what_each_fold_trained(
    tmp_path: Path, final: str, members: int | None
) -> None:
    phase = in_folds(tmp_path / "top", 3)
    with artifacts.new_folder(tmp_path / "backbone") as folder:
        save_file({"stem.weight": filled(1, 3), "last.weight": filled(2, 2, 2)}, folder / "weights.safetensors")
    (result,) = choose([replace(phase, start=None).candidate], phase.labels, min_win_rate=0.6, draws=100, seed=0)
    write_final(
        tmp_path / "final", tmp_path / "backbone", phase, result, candidates=["head"], ensemble=final == "ensemble"
    )
    found = first_values(tmp_path / "final")
    one = {"backbone.stem.weight": 1, "backbone.last.weight": 9, "head.weight": 9}
    several = {
        "backbone.stem.weight": 1, "backbone.last.weight": 10, "head.weight": 0,
        "members.1.backbone.last.weight": 11, "members.1.head.weight": 1,
        "members.2.backbone.last.weight": 12, "members.2.head.weight": 2,
    }  # fmt: skip
    assert found == (several if members else one)
    assert facts.read(tmp_path / "final" / "model.json", ModelFacts).members == members


def test_an_ensemble_of_one_fold_or_of_more_than_memory_holds_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refit, ensemble = (SelectParams.model_validate({"final": final}) for final in ("refit", "ensemble"))
    one, three = in_folds(tmp_path / "one", 1), in_folds(tmp_path / "three", 3)
    check_final([one, one], refit)
    with pytest.raises(ParamsError, match=r"there is one fold, .*; set select.final to refit, or select.folds to 2"):
        check_final([one, one], ensemble)
    needed = 2 * 2 * sum(path.stat().st_size for path in (tmp_path / "three").glob("fold-*"))
    for free in (needed, needed - 1):
        monkeypatch.setattr(psutil, "virtual_memory", lambda free=free: SimpleNamespace(available=free))
        check_final([three, three], refit)
        if free == needed:
            check_final([three, three], ensemble)
    with pytest.raises(
        ParamsError, match=r"the 3 networks of each of 2 candidates take 0.00 GiB .*; set select.final to refit, or fe"
    ):
        check_final([three, three], ensemble)


def test_a_phase_that_was_not_trained_is_no_candidate_and_what_started_from_it_counts_from_before_it(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = workspace / "params.yaml"
    phases = "    deep:\n      start: mid\n      depth: all\n      lr: 1e-3\nselect:"
    settings.write_text(settings.read_text(encoding="utf-8").replace("select:", phases, 1), encoding="utf-8")
    before, model = workspace / "models/phases/top", facts.read(workspace / "models/phases/top/model.json", ModelFacts)
    artifacts.remove(workspace / "models/phases/mid")
    with artifacts.new_folder(workspace / "models/phases/mid") as folder:
        carry_over(folder, before, model, name="mid", reason="it did not pay")
    phase_folder("deep", "mid", accuracy=0.97, tensors={"head.weight": filled(7, 2)}, depth=2)
    select.main()
    report = artifacts.read_json(workspace / "reports/selection.json")
    assert list(report["candidates"]) == ["head", "top", "deep"]
    assert report["not_trained"] == {"mid": "it did not pay"}
    assert report["candidates"]["deep"]["start"] == "top"
    assert facts.read(workspace / "models/final/model.json", ModelFacts).selected_from == ["head", "top", "deep"]
    assert "mid was not trained: it did not pay" in capsys.readouterr().out
