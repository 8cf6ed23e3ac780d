"""The stage `select` on small folders of the real format."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from stages import select
from tests import tiny
from thaw.errors import ArtifactError
from thaw.evaluation.selection import read_groups, read_phases
from thaw.pipeline import artifacts, code, facts
from thaw.pipeline.facts import ModelFacts

ROOT = Path(__file__).parents[2]
LABELS = np.arange(120, dtype=np.int64) % 2


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
    **changes: Any,
) -> None:
    """Write a phase's folder; `average` is the accuracy of its mean with its start, whose tensors are all 4."""
    lineage = {"data": "x", "backbone": "y"}
    model = tiny.model_facts(
        phase=name, start=start, depth_blocks=depth, classes=list(classes), lineage=lineage, **changes
    )
    shown = np.arange(120) if rows is None else rows
    with artifacts.new_folder(Path("models/phases") / name) as folder:
        fill(folder, model, tensors, accuracy, shown)
        if average is not None:
            with artifacts.new_folder(folder / "average") as inside:
                means = {tensor: np.full_like(value, 4) for tensor, value in tensors.items()}
                fill(inside, tiny.changed(model, phase=f"{start}+{name}", start=name), means, average, shown)
        if start:
            usual = {"epoch": [0, 1, 2], "train_loss": [None, 0.4, 0.1], "val_loss": [0.6, 0.3, 0.5]}
            (pd.DataFrame(usual) if curves is None else curves).to_csv(folder / "curves.csv", index=False)


def fill(
    folder: Path,
    model: ModelFacts,
    tensors: dict[str, NDArray[np.float32]],
    accuracy: float,
    rows: NDArray[np.int64],
) -> None:
    wrong = np.arange(len(LABELS)) >= accuracy * len(LABELS)
    logits = np.eye(2, dtype=np.float32)[np.where(wrong, 1 - LABELS, LABELS)] * 3
    answers: dict[str, NDArray[Any]] = {"logits": logits, "labels": LABELS, "rows": rows}
    save_file(tensors, folder / "weights.safetensors")
    save_file(answers, folder / "validation.safetensors")
    facts.write(folder / "model.json", model)


def filled(value: float, *shape: int) -> NDArray[np.float32]:
    return np.full(shape, value, dtype=np.float32)


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
    found = load_file(workspace / "models/final/weights.safetensors")
    assert {name: float(tensor.flat[0]) for name, tensor in found.items()} == {
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
    assert report["verdict"].startswith("Unfreezing helped: top lowers")
    assert [name for name, entry in report["candidates"].items() if entry["chosen"]] == ["top"]
    mid = report["candidates"]["mid"]
    assert mid["accuracy"] == pytest.approx(0.6)
    assert mid["against_best"]["reference"] == "top"
    assert mid["against_head"]["reference"] == "head"
    assert mid["best_epoch"] == 1
    assert mid["train_validation_gap"] == pytest.approx(-0.1)
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
    assert rows["head"] == ["head", "0.700", "0.611", "76", "s"]
    assert rows["top"][:4] == ["*", "top", "0.950", "0.199"]
    assert rows["top"][-2:] == ["<0.001", "-0.100!"]
    assert rows["mid"][-3:] == ["0.600!", "12", "s"]
    assert "…" not in out
    assert "Warning: mid overfits: at epoch 2, which was kept, the validation loss is 0.7 and" in " ".join(out.split())
    assert "Unfreezing helped: top lowers" in " ".join(out.split())


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
    assert not {"best_epoch", "train_validation_gap"} & set(mean)
    found = load_file(workspace / "models/final/weights.safetensors")
    assert float(found["backbone.last.weight"][0, 0]) == last
    assert float(found["backbone.stem.weight"][0]) == 1
    in_words = "Unfreezing helped: head+top (the mean of their weights) lowers the calibrated"
    assert report["verdict"].startswith(in_words) == (chosen == "head+top")
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
    assert "No phase was trained" in artifacts.read_json(Path("reports/selection.json"))["verdict"]


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
