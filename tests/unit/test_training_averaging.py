"""The mean of a phase and its start: what it holds, what it answers, and all that chooses, tests and shows it."""

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from stages import advise, evaluate, features, head, select, unfreeze
from tests import tiny
from thaw.config.reader import read_tree
from thaw.config.schema import PhaseParams
from thaw.data.packed import PackedImages
from thaw.evaluation import summary
from thaw.networks import model_files
from thaw.pipeline import artifacts, code, facts
from thaw.pipeline.candidates import folder_of
from thaw.pipeline.model_facts import ModelFacts
from thaw.pipeline.report_facts import Metrics
from thaw.report import sources, text
from thaw.training import checkpoint, model
from thaw.training.averaging import mean_of
from thaw.training.parts import Start
from thaw.training.phase import Trained, run_phase

pytestmark = pytest.mark.usefixtures("scratch")
ROOT = Path(__file__).parents[2]


def train(params: PhaseParams, name: str = "top", start: Start | None = None) -> Trained:
    network = tiny.backbone()
    return run_phase(
        name, params, images=tiny.packed(36), backbone=network, start=start or tiny.start(network),
        augment=tiny.augment(), seed=0, compute=tiny.TORCH, on_epoch=lambda _: None,
    )  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def written(trained: Trained, folder: Path) -> dict[str, bytes]:
    with artifacts.new_folder(folder) as new:
        trained.write(new)
    artifacts.verify(folder)
    return contents(folder)


def test_the_mean_of_two_sets_of_tensors_is_exact_and_what_is_equal_stays_bit_for_bit() -> None:
    start = {"a": torch.tensor([1.0, 0.1, -3.0]), "same": torch.rand(50), "count": torch.tensor(3)}
    trained = {"a": torch.tensor([2.0, 0.1, 5.0]), "same": start["same"].clone(), "count": torch.tensor(9)}
    mean = mean_of(start, trained)
    assert torch.equal(mean["a"], torch.tensor([1.5, 0.1, 1.0]))
    assert torch.equal(mean["same"], start["same"])
    assert mean["count"] == 9
    assert mean["count"].dtype == torch.int64


def as_stored(name: str, value: Tensor) -> Tensor:
    """Return a tensor as a phase keeps it: matrices of the backbone as float16 holds them."""
    return value.half().float() if name.startswith("backbone.") and value.ndim > 1 else value


def by_hand(params: PhaseParams, before: Mapping[str, Tensor]) -> tuple[Trained, dict[str, Tensor]]:
    """Return a phase, and the mean of its tensors and of `before`, which lies over the pretrained ones."""
    trained = train(
        params, "mid", Start(before, tiny.changed(tiny.start(tiny.backbone()).model, depth_blocks=1, cut=4))
    )
    pretrained = {f"backbone.{name}": value for name, value in tiny.backbone().module.state_dict().items()}
    whole = {**pretrained, **before}
    expected = {
        name: as_stored(name, (whole[name] + value) / 2) if value.is_floating_point() else value
        for name, value in trained.outcome.tensors.items()
    }
    return trained, expected


@pytest.mark.parametrize("changes", [{"norm": "train"}, {"norm": "frozen"}, {"ema": 0.5}])
def test_a_tensor_that_only_the_deeper_phase_trained_is_averaged_with_the_pretrained_one(
    changes: dict[str, object], tmp_path: Path
) -> None:
    top = train(tiny.phase(depth=1, epochs=1, lr=0.01)).outcome.tensors
    trained, expected = by_hand(tiny.phase(start="top", depth=3, average=True, **changes), top)
    assert trained.average is not None
    assert trained.average.tensors.keys() == trained.outcome.tensors.keys() == expected.keys()
    assert set(expected) - set(top), "it must train more than its start did"
    for name, value in expected.items():
        assert torch.equal(trained.average.tensors[name], value), name
    moved = [name for name, value in expected.items() if not torch.equal(value, trained.outcome.tensors[name])]
    assert moved
    written(trained, tmp_path / "mid")
    mean = facts.read(tmp_path / "mid/average/model.json", ModelFacts)
    assert (mean.phase, mean.start, mean.depth_blocks) == ("top+mid", "mid", 3)
    stored = model_files.load(tmp_path / "mid/average/weights.safetensors")
    assert stored.keys() == expected.keys()
    assert all(torch.equal(stored[name], value) for name, value in expected.items())


def test_the_phase_itself_is_the_same_bit_for_bit_with_and_without_its_mean(tmp_path: Path, scratch: Path) -> None:
    off = written(train(tiny.phase(depth=2)), tmp_path / "off")
    assert set(off) == {"weights.safetensors", "validation.safetensors", "model.json", "curves.csv", "manifest.json"}
    artifacts.remove(scratch / "checkpoints")
    on = written(train(tiny.phase(depth=2, average=True)), tmp_path / "on")
    assert {name: data for name, data in on.items() if name in off and name != "manifest.json"} == {
        name: data for name, data in off.items() if name != "manifest.json"
    }
    assert {name for name in on if name not in off} == {f"average/{name}" for name in off if name != "curves.csv"}, (
        "and a mean has no curves"
    )


def test_a_resumed_phase_has_the_mean_of_an_uninterrupted_one(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = tiny.phase(depth=2, average=True)
    whole = written(train(params), tmp_path / "whole")
    artifacts.remove(scratch / "checkpoints")
    save = checkpoint.save

    def save_and_stop(*args: Any) -> None:
        save(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            train(params)
    assert written(train(params), tmp_path / "resumed") == whole


def rewritten(folder: Path) -> None:
    """Give a folder that was changed a true manifest again."""
    with artifacts.new_folder(folder) as new:
        shutil.copytree(folder, new, dirs_exist_ok=True)
        (new / artifacts.MANIFEST).unlink()


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Prepared images, a backbone and params.yaml of one phase that offers its mean."""
    monkeypatch.chdir(tmp_path)
    split = ["test" if row >= 36 else name for row, name in enumerate(tiny.samples(54)["split"])]
    prepared = Path("data/prepared")
    tiny.prepared(prepared, tiny.packed(54, split=split))
    facts.write(prepared / "settings.json", tiny.preprocessing())
    facts.write(prepared / "audit.json", tiny.audit())
    pd.DataFrame(columns=["path", "reason"]).to_csv(prepared / "rejected.csv", index=False)
    rewritten(prepared)
    network = tiny.backbone()
    with artifacts.new_folder(Path("models/backbone")) as folder:
        save_file(checkpoint.trained_tensors(network.module), folder / "weights.safetensors")
        facts.write(folder / "model.json", tiny.backbone_facts(network))
    tree = read_tree(ROOT / "params.yaml")
    tree["compute"] = {"threads": 1, "workers": 0, "frozen_engine": "torch"}
    tree["augment"] |= {"flip": "horizontal", "tta": True}
    tree["features"]["views"], tree["select"]["draws"], tree["evaluate"]["draws"] = 1, 100, 100
    tree["unfreeze"]["phases"] = {
        "top": tiny.phase(average=True, lr=0.0002, norm="frozen").model_dump(exclude_defaults=True)
    }
    Path("params.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    code.write(code.FOLDER, code.running())
    return tmp_path


def test_a_mean_goes_through_every_stage_and_is_tested_and_shown(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features.main()
    head.main()
    advise.main()
    monkeypatch.setattr(sys, "argv", ["unfreeze", "top"])
    unfreeze.main()
    phases = Path("models/phases")
    tried = facts.read(phases / "head/model.json", ModelFacts).earlier_layers
    assert tried is not None
    assert list(tried.earlier) == tiny.backbone().blocks[:-1]
    top, mean = (folder_of(phases, name) for name in ("top", "head+top"))
    answers = load_file(mean / "validation.safetensors")
    images = PackedImages.open(Path("data/prepared"))
    loaded = model.load_phase(mean, Path("models/backbone"))
    chances = loaded.probabilities(images.read(images.rows("val")))
    np.testing.assert_allclose(chances, torch.softmax(answers["logits"].double(), dim=1), atol=2e-3)
    for chosen, right in (("head+top", mean), ("top", top)):  # let one be right, and the others wrong
        for folder in (phases / "head", mean, top):
            logits = (4 if folder == right else -4) * torch.eye(3)[answers["labels"]]
            save_file(answers | {"logits": logits}, folder / "validation.safetensors")
            rewritten(folder)
        select.main()
        evaluate.main()
        metrics = facts.read(workspace / "reports/metrics.json", Metrics)
        assert metrics.final.phase == chosen
        assert set(metrics.phases) == {"top", "head+top"}
        assert metrics.phases[chosen].accuracy == metrics.test["accuracy"]
        final, kept = (load_file(folder / "weights.safetensors") for folder in (Path("models/final"), right))
        assert all(torch.equal(final[name], value) for name, value in kept.items())
        found = sources.read(Path("data/prepared"), Path("models/final"), phases, Path("reports"))
        assert list(found.phases) == ["head", "top", "head+top"]
        assert found.validation is not None
        assert [row.depth for row in text.phase_rows(found)] == [0, 2, 2]
        assert set(pd.read_csv("reports/training/learning_rates.csv")["phase"]) == {"top"}
        rows = summary.summary_rows(metrics, found.selection)
        assert [row[0] for row in rows[1:]] == ["head", "top", "head+top"]
        assert [row[0] for row in rows if row[3]] == [chosen]
