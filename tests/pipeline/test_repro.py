"""`dvc repro` from a fresh clone: what it runs, what it leaves, and that it does so again to the bit."""

import json
import math
from collections.abc import Iterator
from typing import Any

from tests.pipeline.clone import OUTS, STAGES, Clone, stages_run
from tests.pipeline.fixtures import Run
from thaw.pipeline import artifacts

_WITH_INTERVAL = ("accuracy", "balanced_accuracy", "macro_f1", "log_loss")


def test_a_fresh_repro_runs_every_stage_once_and_select_after_all_phases(finished: Run) -> None:
    assert sorted(stages_run(finished.output)) == sorted(STAGES)
    order = stages_run(finished.output).index
    assert order("code") == 0
    assert order("unfreeze@top") < order("unfreeze@mid") < order("select") < order("evaluate") < order("report")


def test_every_folder_that_a_repro_leaves_has_a_true_manifest(finished: Run) -> None:
    for out in OUTS:
        path = finished.clone.root / out
        assert path.is_file() or artifacts.verify(path)
    assert not list(finished.clone.root.glob("*/**/.*.partial"))


def test_a_second_repro_runs_nothing_and_leaves_dvc_lock_as_it_is(finished: Run) -> None:
    before = (finished.clone.root / "dvc.lock").read_bytes()
    assert finished.clone.succeed("dvc", "status", "dvc.yaml") == "Data and pipelines are up to date.\n"
    output = finished.clone.succeed("dvc", "repro")
    assert stages_run(output) == []
    assert "Data and pipelines are up to date." in output
    assert (finished.clone.root / "dvc.lock").read_bytes() == before


def test_a_repro_leaves_git_nothing_but_the_lock_to_commit(finished: Run) -> None:
    changed = finished.clone.succeed("git", "status", "--porcelain", "--untracked-files=all").splitlines()
    assert changed == ["?? dvc.lock"]


def test_row_23_a_forced_repro_in_a_clone_elsewhere_ends_in_the_same_lock_and_the_same_files(
    fresh: tuple[Run, Run],
) -> None:
    here, there = fresh
    assert stages_run(there.output) == stages_run(here.output)
    assert there.clone.hashes() == here.clone.hashes()
    assert (there.clone.root / "dvc.lock").read_bytes() == (here.clone.root / "dvc.lock").read_bytes()


def test_outs_that_were_deleted_come_back_from_dvc_checkout_bit_for_bit(finished: Run, copy: Clone) -> None:
    for out in OUTS:
        artifacts.remove(copy.root / out)
    assert copy.hashes() == {}
    copy.succeed("dvc", "checkout", "dvc.yaml")
    assert copy.hashes() == finished.clone.hashes()
    assert copy.succeed("dvc", "status", "dvc.yaml") == "Data and pipelines are up to date.\n"


def test_a_clone_without_outs_and_lock_takes_every_stage_from_the_run_cache(finished: Run, copy: Clone) -> None:
    for path in (*OUTS, "dvc.lock"):
        artifacts.remove(copy.root / path)
    output = copy.succeed("dvc", "repro")
    assert stages_run(output) == []
    assert output.count("is cached - skipping run") == len(STAGES)
    assert copy.hashes() == finished.clone.hashes()


def test_the_sample_is_laid_out_only_if_data_raw_points_at_it(finished: Run, copy: Clone) -> None:
    assert not (finished.clone.root / "data" / "sample" / "images").exists()
    copy.update({"data.raw": "data/sample/images", "data.labels": "data/sample/images"})
    _, output = copy.run("dvc", "repro", "--dry", "prepare")  # which cannot hash images that are not there yet
    assert stages_run(output) == ["data/sample/dvc.yaml:sample"]


def test_the_metrics_have_every_promised_key_and_only_finite_numbers(finished: Run) -> None:
    metrics = json.loads((finished.clone.root / "reports" / "metrics.json").read_text(encoding="utf-8"))
    numbers = dict(_numbers("", metrics))
    assert numbers["test.n"] > 0
    for name in _WITH_INTERVAL:
        key = f"test.{name}"
        assert numbers[f"{key}_low"] <= numbers[key] <= numbers[f"{key}_high"]
    assert {"majority.accuracy", "head.accuracy"} <= numbers.keys()
    assert metrics["final"]["phase"] in {"head", "top", "mid"}
    assert all(math.isfinite(value) for value in numbers.values())


def test_dvc_shows_the_metrics_and_draws_every_plot(finished: Run) -> None:
    shown = json.loads(finished.clone.succeed("dvc", "metrics", "show", "--json"))[""]["data"]
    assert list(shown) == ["reports/validation.json"], "trials are not compared by test images"
    figures = shown["reports/validation.json"]["data"]
    assert figures["chosen"] in figures["validation"]
    names = {f"validation.{name}.{figure}" for name in ("head", "top", "mid") for figure in ("accuracy", "log_loss")}
    assert dict(_numbers("", figures)).keys() == names
    plots = json.loads(finished.clone.succeed("dvc", "plots", "show", "--json"))
    assert not plots.get("errors")
    tested = {f"plots/{name}" for name in ("confusion", "roc", "precision_recall", "calibration")}
    drawn = tested | {f"training/{name}" for name in ("losses", "accuracies", "learning_rates")}
    assert {name for name in drawn if plots["data"].get(f"reports/{name}.csv")} == drawn


def test_the_summary_names_every_model_and_where_to_look_next(finished: Run) -> None:
    printed = " ".join(finished.clone.succeed("python", "-m", "thaw", "summary").split())
    for words in ("majority class", "head", "top", "mid", "chosen", "dvc plots show"):
        assert words in printed


def _numbers(prefix: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _numbers(f"{prefix}.{key}" if prefix else key, inner)
    elif not isinstance(value, str):
        yield prefix, float(value)
