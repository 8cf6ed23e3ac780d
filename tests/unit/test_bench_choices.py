"""The benches of what one may start from: the same cells in every split, and what is made of the runs' figures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bench import _cells, _sets, advise, chain, grow, small
from bench import scratch as from_scratch
from tests import tiny
from thaw.config.reader import read_tree
from thaw.config.schema import Params
from thaw.data import listing
from thaw.data.packed import COLUMNS
from thaw.pipeline import artifacts
from thaw.training import model, phase_folder

_GRID = [("1/3", 3e-4), ("1/3", 1e-3), ("2/3", 3e-4), ("2/3", 1e-3), ("all", 3e-4), ("all", 1e-3)]


def table() -> pd.DataFrame:
    return _cells.cells(0, val_fraction=0.1, test_fraction=0.25)


def test_the_cells_are_split_alike_within_each_type_and_probability() -> None:
    cells = table()
    assert len(cells) == 2624
    for _, some in cells.groupby(["type", "probability"]):
        counts = some["split"].value_counts()
        assert abs(counts["test"] - 0.25 * len(some)) <= 0.5
        assert abs(counts["val"] - 0.1 * len(some)) <= 0.5
    pd.testing.assert_frame_equal(cells, table())
    other = _cells.cells(1, val_fraction=0.1, test_fraction=0.25)
    assert (other["split"] != cells["split"]).mean() > 0.2


def test_fewer_training_images_leave_all_others_and_are_part_of_more() -> None:
    cells = table()
    small, large = (_cells.part_of(cells, part, 0) for part in (0.1, 0.3))
    for some, part in ((small, 0.1), (large, 0.3)):
        assert set(cells[cells["split"] != "train"]["file"]) == set(some[some["split"] != "train"]["file"])
        for label in ("defective", "functional"):
            count = ((some["split"] == "train") & (some["label"] == label)).sum()
            assert count == round(part * ((cells["split"] == "train") & (cells["label"] == label)).sum())
    assert set(small["file"]) < set(large["file"])
    assert len(_cells.part_of(cells, 1.0, 0)) == len(cells)


def test_the_unsure_cells_become_a_class_and_keep_their_split() -> None:
    cells = table()
    three = grow.three_classes(cells)
    assert three["label"].value_counts().to_dict() == {"functional": 1508, "defective": 715, "uncertain": 401}
    assert set(three[three["label"] == "uncertain"]["probability"].round(2)) == {0.33, 0.67}
    pd.testing.assert_series_equal(three["split"], cells["split"])


def test_cells_are_laid_out_as_a_data_set_with_its_split(tmp_path: Path) -> None:
    some = table().groupby(["label", "split"]).head(2)
    _cells.lay_out(some, tmp_path / "cells")
    found = listing.read(tmp_path / "cells")
    assert sorted(found.table["path"]) == sorted(Path(file).name for file in some["file"])
    assert found.table["split"].value_counts().to_dict() == {"train": 4, "val": 4, "test": 4}
    assert found.classes == ["defective", "functional"]


def test_the_params_of_every_run_are_valid_and_differ_in_what_is_compared(root: Path) -> None:
    tree = _cells.with_phase(read_tree(root / "params.yaml"))
    runs = {
        "chain": chain.settings(tree, "poly", 1.0, parent=True),
        "few": chain.settings(tree, "poly", 0.2, parent=True),
        "imagenet": chain.settings(tree, "poly", 1.0, parent=False),
        "grown": grow.settings(tree, three=True, grown=True),
        "anew": grow.settings(tree, three=True, grown=False),
        "scratch": from_scratch.settings(tree, 0.1, 20, pretrained=False),
        "fine_tuned": from_scratch.settings(tree, 0.1, 20, pretrained=True),
    }
    params = {name: Params.model_validate(run) for name, run in runs.items()}
    assert all(list(run.unfreeze.phases) == ["top"] for run in params.values())
    assert params["chain"].backbone.source == "model:parent" != params["imagenet"].backbone.source
    assert params["chain"].data != params["few"].data
    assert params["grown"].head.grow_from == params["grown"].backbone.source
    assert not params["grown"].unfreeze.phases["top"].warm_start
    assert params["anew"].head.grow_from is None
    long, short = (params[name].unfreeze.phases["top"] for name in ("scratch", "fine_tuned"))
    assert (long.depth, long.epochs) == ("all", 63)
    assert (short.depth, short.epochs) == ("1/3", 4)
    assert params["scratch"].prepare == params["fine_tuned"].prepare
    assert not params["scratch"].backbone.pretrained


def run_of(accuracy: float, **more: object) -> dict[str, Any]:
    test: dict[str, Any] = {
        "n": 100,
        "accuracy": accuracy,
        "accuracy_low": accuracy - 0.1,
        "accuracy_high": accuracy + 0.05,
    }
    metrics: dict[str, Any] = {
        "head": {"accuracy": accuracy - 0.1},
        "test": {**test, "log_loss": 0.3, "balanced_accuracy": 0.5},
    }
    metrics |= {"majority": {"accuracy": 0.6}, "final": {"phase": "top"}}
    return {"metrics": metrics, "seconds": 9.0, "commit": "abc", **more}


def test_the_chain_is_held_against_imagenet_seed_by_seed() -> None:
    facts = chain.summary(
        [
            {"parent": run_of(0.9), "chain": run_of(0.86), "imagenet": run_of(0.84)},
            {"parent": run_of(0.8), "chain": run_of(0.82), "imagenet": run_of(0.84)},
        ]
    )
    json.dumps(facts)
    assert facts["parent_phase"] == ["top", "top"]
    assert facts["chain_less_imagenet"]["accuracy"]["each"] == [0.02, -0.02]
    assert facts["mean"]["imagenet"]["accuracy"] == 0.84
    assert facts["mean"]["chain"]["head_accuracy"] == pytest.approx(0.74)


def test_the_recall_of_a_class_is_the_share_of_its_images_that_get_its_name() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    answers = np.eye(3)[[0, 0, 2, 1, 0, 2]]
    found = grow.recalls(labels, answers, ["defective", "functional", "uncertain"])
    assert found == {"defective": 0.6667, "functional": 0.5, "uncertain": 1.0, "old_classes": 0.5833}


def test_recalls_before_and_after_are_of_the_same_names() -> None:
    old: dict[str, float] = {"defective": 0.9, "old_classes": 0.9}
    new: dict[str, float] = {"defective": 0.7, "uncertain": 0.4, "old_classes": 0.7}
    runs = [
        {
            "before": run_of(0.9, recalls={"head": old, "final": old}),
            "grown": run_of(0.8, recalls={"head": new, "final": new}, grown_from={"new": ["uncertain"]}, num_test={}),
            "anew": run_of(0.8, recalls={"head": new, "final": new}),
        }
    ]
    facts = grow.summary(runs)
    json.dumps(facts)
    assert facts["recall"]["before"] == old
    assert facts["recall"]["grown"] == facts["each"]["grown_head"][0] == new


def test_recalls_of_a_finished_run_are_those_of_its_models(tmp_path: Path, scratch: Path) -> None:
    images = tiny.prepared(tmp_path / "data" / "prepared", tiny.packed(24))
    network = tiny.backbone()
    begin = tiny.start(network)
    stored = tiny.changed(begin.model, lineage={"data": images.fingerprint, "backbone": ""})
    tensors = {**begin.tensors} | {f"backbone.{name}": value for name, value in network.module.state_dict().items()}
    val = images.rows("val")
    with artifacts.new_folder(tmp_path / "models" / "final") as folder:
        phase_folder.write(
            folder, tensors=tensors, model=stored, curves=[],
            answers=phase_folder.Answers(
                np.zeros((len(val), 3), np.float32), images.labels(val), val, np.zeros(len(val), np.int64)
            ),
        )  # fmt: skip
    found = grow.recall_of(tmp_path / "models" / "final", images, val, tiny.TORCH)
    labels, answers = images.labels(val), model.load(tmp_path / "models" / "final").probabilities(images.read(val))
    assert found == grow.recalls(labels, answers, tiny.CLASSES)


def test_the_plot_shows_both_sides_and_what_guessing_gives(tmp_path: Path) -> None:
    more = {"num_train": 160, "epochs": 4}
    found = {
        0.1: {"fine_tuned": run_of(0.8, **more), "scratch": run_of(0.65, **more)},
        1.0: {"fine_tuned": run_of(0.9, **more | {"num_train": 1700}), "scratch": run_of(0.8, **more)},
    }
    facts = from_scratch.summary(found)
    json.dumps(facts)
    assert [entry["num_train"] for entry in facts["parts"]] == [160, 1700]
    assert facts["parts"][0]["scratch"]["accuracy"] == 0.65
    from_scratch.draw(facts, tmp_path / "images" / "plot.svg")
    text = (tmp_path / "images" / "plot.svg").read_text(encoding="utf-8")
    for words in ("from scratch", "fine-tuned from ImageNet", "always the commonest class", "1700", "100 images"):
        assert f"<!-- {words}" in text or words in text


def test_a_draw_of_the_small_bench_has_the_columns_of_samples_and_its_test_images_in_every_draw(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(_: str, folder: Path) -> None:
        for number, pixels in enumerate(tiny.pixels(40, classes=2)):
            (folder / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / "ab"[number % 2] / f"{number:02d}.png")

    monkeypatch.setattr(_sets, "write", write)
    monkeypatch.setattr(small, "NUM_TEST", 9)
    small.whole_set.cache_clear()
    first, second = (small.drawn("digits", 20, draw) for draw in range(2))
    assert tuple(first.samples.columns) == COLUMNS
    tested = [set(images.samples.query("split == 'test'")["path"]) for images in (first, second)]
    assert tested[0] == tested[1]
    assert len(tested[0]) == 9
    assert (scratch / "bench" / "sets" / "digits").is_dir()
    split = advise.one_split(first).samples
    assert set(split.query("split == 'val'")["fold"]) == {0}
    assert set(split.query("split != 'val'")["fold"]) == {-1}
    small.whole_set.cache_clear()


def test_the_advise_bench_counts_regret_against_the_best_of_the_grid_and_the_head() -> None:
    draw = {
        "set": "digits", "size": 60, "head": 0.7, "advised": 0.8, "seconds": {"trials": 5.0, "grid": 20.0},
        "grid": {f"{depth} {lr:g}": 0.6 + 0.05 * place for place, (depth, lr) in enumerate(_GRID)},
        "gains": {"3 0.0003": 0.1, "3 0.001": 0.2, "6 0.0003": 0.3},
    }  # fmt: skip
    found = advise.row(draw)
    assert found["best"] == pytest.approx(0.85)
    assert found["regret"] == pytest.approx(0.05)
    assert (found["share of time"], found["rank"]) == (0.25, pytest.approx(1.0))
    assert (found["a third"], found["everything"]) == (0.6, pytest.approx(0.8))
