"""The plan times what a run will do, in an engine of its own weights."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from tests import tiny
from tests.conftest import ROOT
from thaw.advice.advise import without_trials
from thaw.config.reader import load_params
from thaw.config.schema import Params
from thaw.pipeline import artifacts, facts, tables
from thaw.pipeline.advice_facts import Step
from thaw.training.advised import ADVICE
from thaw.training.plan import plan_tables


@pytest.fixture
def params(scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Return settings of one phase of a tiny network, in a folder with prepared images."""
    assert scratch.is_dir() or not scratch.exists()
    with artifacts.new_folder(tmp_path / "data" / "prepared") as partial:
        tables.write(partial / "samples.csv", tiny.samples(24))
        facts.write(partial / "audit.json", tiny.audit())
    monkeypatch.chdir(tmp_path)
    shipped = load_params(ROOT / "params.yaml")
    backbone = shipped.backbone.model_copy(update={"source": "timm:test_resnet", "sha256": None, "input_px": 32})
    unfreeze = shipped.unfreeze.model_copy(update={"phases": {"top": tiny.phase()}})
    return shipped.model_copy(update={"backbone": backbone, "unfreeze": unfreeze, "compute": tiny.AUTO})


def test_a_second_plan_with_other_threads_takes_the_exported_prefix_of_the_first(params: Params, scratch: Path) -> None:
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.rand(1)  # the state of the random numbers is no part of a plan
            compute = tiny.BY_NAME.model_copy(update={"threads": threads})
            plan_tables(params.model_copy(update={"compute": compute}))
    finally:
        torch.set_num_threads(before)
    assert len(list((scratch / "engines").rglob("prefix.onnx"))) == 1


def test_folds_are_counted_in_what_a_phase_trains(params: Params, tmp_path: Path) -> None:
    titles = {}
    for folds in (1, 3):
        fold = np.where(np.arange(24) % 4 == 3, 0, -1) if folds == 1 else np.arange(24) % folds
        split = np.where(fold == 0, "val", "train") if folds == 1 else "train"
        with artifacts.new_folder(tmp_path / "data" / "prepared") as partial:
            tables.write(partial / "samples.csv", tiny.samples(24).assign(split=split, fold=fold))
            facts.write(partial / "audit.json", tiny.audit())
        titles[folds] = str(plan_tables(params)[0].title)
    assert "epochs of 18 images, batches" in titles[1]
    assert "epochs of 24 images, in 3 folds and then on all, batches" in titles[3]


@pytest.mark.parametrize(
    ("asked", "splits", "words"),
    [
        ("auto", [""] * 40, "30 images, in 5 folds and then on all"),
        (1, [""] * 40, "26 images, batches"),
        (3, [""] * 40, "30 images, in 3 folds and then on all"),
        ("auto", ["train"] * 20 + ["val"] * 12 + ["test"] * 8, "20 images, batches"),
        (4, ["train"] * 20 + ["val"] * 12 + ["test"] * 8, "32 images, in 4 folds and then on all"),
    ],
)
def test_before_prepare_the_plan_counts_what_it_will_give(
    params: Params, tmp_path: Path, asked: int | str, splits: list[str], words: str
) -> None:
    artifacts.remove(tmp_path / "data" / "prepared")
    table = pd.DataFrame({"path": [f"{row}.png" for row in range(40)], "label": ["a", "b"] * 20, "split": splits})
    table = table.loc[:, (table != "").any()]  # an empty column is refused
    (tmp_path / "mine").mkdir()
    table.to_csv(tmp_path / "mine" / "manifest.csv", index=False)
    for name in table["path"]:
        Image.new("L", (8, 8)).save(tmp_path / "mine" / name)
    changes = {
        "data": params.data.model_copy(update=dict.fromkeys(("raw", "labels"), str(tmp_path / "mine"))),
        "prepare": params.prepare.model_copy(update={"test_fraction": 0.25, "val_fraction": 0.1}),
        "select": params.select.model_copy(update={"folds": asked}),
    }
    assert words in str(plan_tables(params.model_copy(update=changes))[0].title)


def test_depths_that_are_left_to_the_advice_are_planned_by_it_or_for_the_whole_network(params: Params) -> None:
    auto = tiny.phase(depth="auto", lr="auto")
    phases = {"top": auto, "mid": auto.model_copy(update={"start": "top"}), "own": tiny.phase(start="mid", depth=5)}
    asked = params.model_copy(update={"unfreeze": params.unfreeze.model_copy(update={"phases": phases | {}})})
    only = asked.model_copy(update={"unfreeze": asked.unfreeze.model_copy(update={"phases": {"top": auto}})})
    titles = [str(table.title) for table in plan_tables(only)]
    assert "6 of 6 blocks" in titles[0]
    assert titles[1] == "top: depth auto is settled by the stage `advise`; the whole network is planned here"
    steps = [Step(depth_blocks=3, lr=1e-3)]
    given = without_trials("not_asked", tiny.start(tiny.backbone()).model)
    with artifacts.new_folder(ADVICE) as folder:
        facts.write(folder / "advice.json", given.model_copy(update={"steps": steps}))
    top, own, note = (str(table.title) for table in plan_tables(asked))
    assert "top: from head, 3 of 6 blocks" in top
    assert "own: from top, 5 of 6 blocks" in own
    assert note.startswith("mid: not trained, since no step of the advice is deeper than the 3 blocks")
