"""What a change of params.yaml makes DVC run again, and what it leaves alone."""

import json
from pathlib import Path

import pandas as pd

from tests.pipeline.clone import STAGES, Clone, make_clone, stages_run
from tests.pipeline.fixtures import Run
from thaw.config.reader import load_params
from thaw.pipeline import artifacts


def test_a_change_of_the_head_reruns_the_head_and_what_follows(finished: Run, variants: dict[str, Run]) -> None:
    run = variants["other_head"]
    # `backbone` reads head.pool, takes two seconds, and leaves what it had left: `features` does not run.
    assert sorted(stages_run(run.output)[:2]) == ["backbone", "head"]
    assert stages_run(run.output)[2:] == ["advise", "unfreeze@top", "unfreeze@mid", "select", "evaluate"]
    model = artifacts.read_json(run.clone.root / "models" / "phases" / "mid" / "model.json")
    assert model["head"]["hidden"] == [8]
    assert run.clone.lock()["backbone"]["outs"] == finished.clone.lock()["backbone"]["outs"]
    same = [name for name in STAGES[:4] if run.clone.lock()[name] == finished.clone.lock()[name]]
    assert same == ["code", "prepare", "features"]


def test_the_rate_of_one_phase_reruns_that_phase_and_a_new_phase_adds_a_stage(variants: dict[str, Run]) -> None:
    to_select, rest = variants["other_phases"].output.split("-- select is done --\n")
    *phases, last = stages_run(to_select)
    assert sorted(phases) == ["unfreeze@mid", "unfreeze@side"]
    assert last == "select", "it must wait for a phase that stands after it in the graph's file, too"
    assert stages_run(rest) == ["evaluate"]
    report = artifacts.read_json(variants["other_phases"].clone.root / "reports" / "selection.json")
    assert set(report["candidates"]) == {"head", "top", "mid", "side"}


def test_a_change_in_the_defaults_of_phases_reruns_every_phase(copy: Clone) -> None:
    copy.update({"unfreeze.defaults": {"weight_decay": 0.02}})
    assert set(json.loads(copy.succeed("dvc", "status", "--json"))) >= {"unfreeze@top", "unfreeze@mid"}
    assert "prepare" not in stages_run(copy.succeed("dvc", "repro", "--dry"))


def test_a_rate_that_dvc_writes_with_an_exponent_is_read_by_the_stages(tmp_path: Path) -> None:
    clone = make_clone(tmp_path / "thaw")
    clone.succeed("dvc", "exp", "run", "prepare", "-S", "unfreeze.phases.mid.lr=0.00005")
    assert "lr: 5e-05" in (clone.root / "params.yaml").read_text(encoding="utf-8")
    assert load_params(clone.root / "params.yaml").unfreeze.phases["mid"].lr == 0.00005
    assert (clone.root / "data" / "prepared" / "samples.csv").exists()


def test_row_12_a_manifest_gives_confidences_and_groups_that_no_split_or_fold_tears(
    variants: dict[str, Run],
) -> None:
    run = variants["manifest"]
    assert stages_run(run.output) == ["prepare", "features", "head"]
    samples = pd.read_csv(run.clone.root / "data" / "prepared" / "samples.csv")
    assert len(samples) == 80
    assert samples["group"].nunique() == 40
    assert (samples.groupby("group")[["split", "fold"]].nunique() == 1).all(axis=None)
    assert set(samples["confidence"].round(2)) == {0.67, 1.0}
    assert artifacts.verify(run.clone.root / "models" / "phases" / "head")


def test_phases_that_follow_the_advice_are_trained_as_deep_as_it_says_or_not_at_all(copy: Clone) -> None:
    auto = {"depth": "auto", "lr": "auto"}
    copy.update({"advise.images": 40, "unfreeze.phases.top": auto, "unfreeze.phases.mid": auto})
    output = copy.succeed("dvc", "repro", "report")
    assert stages_run(output)[0] == "advise"
    advice = artifacts.read_json(copy.root / "models" / "advice" / "advice.json")
    report = artifacts.read_json(copy.root / "reports" / "selection.json")
    steps, trained = [step["depth_blocks"] for step in advice["steps"][:2]], []
    for name in ("top", "mid"):
        model = artifacts.read_json(copy.root / "models" / "phases" / name / "model.json")
        if "not_trained" not in model:
            trained.append(model["depth_blocks"])
    assert trained == steps
    assert set(report["candidates"]) == {"head", *["top", "mid"][: len(steps)]}
    assert set(report["not_trained"]) == {"top", "mid"} - set(report["candidates"])
    page = (copy.root / "reports" / "index.html").read_text(encoding="utf-8")
    assert "What was advised before training?" in page
    assert all(f"{name}</bdi></b> was not trained" in page for name in report["not_trained"])
    shown = copy.succeed("thaw", "advise")
    assert advice["sentence"].split(":")[0] in shown
    assert stages_run(copy.succeed("dvc", "repro", "report")) == []
