"""What the benches make of their measurements: ratios, medians, paired differences, growth."""

import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from bench import folds, head, noop, overhead, phase, scale, trials, views, volume
from thaw.config.reader import load_params, read_tree
from thaw.config.schema import Params


def test_the_loop_of_the_head_bench_is_scaled_to_all_its_epochs() -> None:
    found = [{"thaw": thaw, "loop_epoch": epoch} for thaw, epoch in ((40.0, 80.0), (50.0, 70.0), (90.0, 90.0))]
    facts = head.summary(found, 30)
    assert facts["seconds"] == {"thaw": 50.0, "loop": 2400.0}
    assert facts["ratio"] == 48.0
    assert (facts["epochs"], facts["epochs_measured"]) == (30, 3)


def test_the_parts_of_a_phase_are_medians_also_where_a_round_lacks_one() -> None:
    found = [
        {"thaw": {"total": 10.0, "train": 8.0, "other": 2.0}, "default": 5.0, "packed": 3.0},
        {"thaw": {"total": 20.0, "train": 9.0, "write": 1.0, "other": 10.0}, "default": 7.0, "packed": 2.0},
        {"thaw": {"total": 30.0, "train": 25.0, "write": 2.0, "other": 3.0}, "default": 6.0, "packed": 4.0},
    ]
    facts = phase.summary(found, 8)
    assert facts["seconds"] == {"thaw": 20.0, "default": 48.0, "packed": 24.0}
    assert facts["ratio"] == {"default": 2.4, "packed": 1.2}
    assert facts["parts"] == {"other": 3.0, "train": 9.0, "write": 1.0}


def test_folds_are_held_against_one_seed_by_seed() -> None:
    def side(seconds: float, features: float) -> dict[str, Any]:
        return {
            "seconds": seconds, "stages": {"features": features, "top": seconds / 2}, "commit": "abc",
            "metrics": {"test": {"n": 80}},
        }  # fmt: skip

    found = [{"one": side(100.0, 20.0), "five": side(five, 30.0)} for five in (200.0, 240.0, 230.0)]
    facts = folds.summary(found)
    assert (facts["ratio"], facts["each"]) == (2.3, [2.0, 2.4, 2.3])
    assert facts["stages"] == {"features": {"one": 20.0, "five": 30.0}, "top": {"one": 50.0, "five": 115.0}}
    assert facts["commits"] == ["abc"]


def test_the_bank_is_held_against_fresh_views_seed_by_seed() -> None:
    def side(accuracy: float, log_loss: float) -> dict[str, Any]:
        return {"accuracy": accuracy, "log_loss": log_loss, "seconds": 9.0, "commit": "abc"}

    runs = [
        {0: side(0.90, 0.30), 4: side(0.91, 0.28)},
        {0: side(0.80, 0.40), 4: side(0.80, 0.41)},
        {0: side(0.85, 0.35), 4: side(0.83, 0.38)},
    ]
    facts = views.summary(runs)
    json.dumps(facts)
    accuracy = facts["banks"]["4"]["accuracy"]
    assert accuracy["each"] == [0.01, 0.0, -0.02]
    assert accuracy["mean_difference"] == round(-0.01 / 3, 4)
    assert accuracy["standard_error"] == round(statistics.stdev([0.01, 0.0, -0.02]) / 3**0.5, 4)
    assert facts["mean"]["fresh"]["accuracy"] == 0.85
    assert views.paired([0.5]) == {"mean_difference": 0.5, "standard_error": None, "each": [0.5]}


@pytest.mark.parametrize("num_images", [None, 80])
def test_the_params_of_the_views_bench_are_valid_and_have_more_epochs_than_views(
    root: Path, num_images: int | None
) -> None:
    tree = views.settings(read_tree(root / "params.yaml"), 3, 8, num_images)
    params = Params.model_validate(tree)
    assert set(params.unfreeze.phases) == {"top"}
    assert params.unfreeze.phases["top"].epochs == 8 > params.unfreeze.phases["top"].views
    assert params.augment.crop_scale < 1, "mirror images alone are finite"
    assert params.augment.flip == load_params(root / "params.yaml").augment.flip


def test_the_params_of_the_scale_bench_are_valid_and_small(root: Path) -> None:
    params = Params.model_validate(scale.settings(read_tree(root / "params.yaml")))
    assert params.prepare.size_px == params.backbone.input_px == 96
    assert set(params.unfreeze.phases) == {"top"}
    assert params.unfreeze.phases["top"].epochs == 1


def _stages(seconds: float, peak: float) -> dict[str, dict[str, float]]:
    names = ("prepare", "backbone", "features", "head", "unfreeze@top")
    return {name: {"seconds": seconds, "peak_mib": peak} for name in names}


def test_cost_that_is_in_proportion_to_the_images_is_flat() -> None:
    facts = scale.summary({1000: _stages(2.0, 500.0), 5000: _stages(10.0, 600.0)})
    assert facts["seconds_a_thousand"]["5000"] == {
        "prepare": 2.0, "features": 2.0, "head": 2.0, "unfreeze@top": 2.0, "all": 8.0,
    }  # fmt: skip
    assert set(facts["slowdown"].values()) == {1.0}
    assert facts["marginal"]["1000 to 5000"]["features"] == 2.0
    assert facts["growth"] == 1.2


def test_a_cost_paid_once_shows_in_the_slowdown_and_not_in_the_marginal_cost() -> None:
    facts = scale.summary({1000: _stages(4.0 + 1, 500.0), 3000: _stages(4.0 + 3, 500.0)})
    assert facts["slowdown"]["head"] == pytest.approx(7 / 15, abs=1e-3)
    assert facts["marginal"]["1000 to 3000"]["head"] == 1.0


def test_one_size_alone_is_summed_up_too() -> None:
    facts = scale.summary({1000: _stages(2.0, 500.0)})
    assert facts["marginal"] == {}
    assert facts["growth"] == 1.0


def test_the_time_of_nothing_is_a_ratio_of_medians() -> None:
    found = [{"thaw": 1.5, "five_stages": 1.0}, {"thaw": 9.0, "five_stages": 0.5}, {"thaw": 1.2, "five_stages": 1.2}]
    facts = noop.summary(found)
    assert facts["seconds"] == {"thaw": 1.5, "five_stages": 1.0}
    assert facts["ratio"] == 1.5
    assert facts["rounds"] == 3


def test_a_trial_that_stops_early_is_a_share_of_a_whole_one() -> None:
    found = [{"select": select, "whole": whole} for select, whole in ((90.0, 200.0), (110.0, 180.0), (100.0, 210.0))]
    assert trials.summary(found) == {"seconds": {"select": 100.0, "whole": 200.0}, "ratio": 0.5, "rounds": 3}


def test_the_volume_bench_tells_what_more_images_cost_and_which_shards_stay() -> None:
    run = {"first_mib": 400.0, "again_mib": 500.0, "again_s": 3.0, "shards": 2, "stayed": 1, "commit": "a"}
    facts = volume.summary({1000: {"first_s": 20.0, **run}, 4000: {"first_s": 120.0, **run}})
    assert facts["slowdown"] == 1.5
    assert facts["sizes"]["4000"] == {
        "seconds_a_thousand": 30.0, "again": 0.025, "peak_mib": 500, "shards": 2, "shards_that_stayed": 1,
    }  # fmt: skip


def test_the_overhead_bench_adds_up_parts_and_takes_medians_by_stage() -> None:
    timings: list[dict[str, Any]] = [{"parts": {"import": 2.0, "other": 1.0}}, {"parts": {"import": 3.0, "train": 4.0}}]
    assert overhead.by_part(timings) == {"import": 5.0, "other": 1.0, "train": 4.0}
    measured = [
        {
            "seconds": 60.0 + late,
            "processor_s": 50.0,
            "beside": 9.0,
            "stages": {"head": 6.0 + late},
            "parts": {"read": 1.0},
        }
        for late in (0.0, 4.0, 1.0)
    ]
    assert overhead.summary(measured) == {
        "seconds": 61.0, "processor_s": 50.0, "beside": 9.0, "stages": {"head": 7.0}, "parts": {"read": 1.0},
        "rounds": 3, "each_round": [60.0, 64.0, 61.0],
    }  # fmt: skip
