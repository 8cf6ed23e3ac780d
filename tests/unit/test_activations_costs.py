"""Cache or compute afresh: the estimate, the choice and the sentence."""

from dataclasses import replace
from typing import Any

import pytest

from tests import tiny
from thaw.activations.costs import Work, decide, train_passes, val_passes

GIB = 2**30
WORK = Work(
    num_images=1000, num_views=4, missing_views=4, passes=10, bytes_an_image=100_000, seconds_an_image=0.01
)  # fmt: skip


def test_a_bank_that_pays_is_cached() -> None:
    decision = decide(WORK, 8 * GIB)
    assert decision.cached
    assert decision.seconds == WORK.cached_s == pytest.approx(4 * 1000 * (0.01 + 100_000 / 200e6) + 10 * 1000 * 0.0002)
    assert decision.reason == "cached (4 views of 1000 images, 0.37 GiB): about 44 s with a cache, 200 s without"


@pytest.mark.parametrize(
    "changes",
    [
        {"passes": 2},  # more views than passes: most of the bank would never be read twice
        {"seconds_an_image": 1e-5},  # a shallow cut: computing is quicker than reading
    ],
)
def test_a_bank_that_does_not_pay_is_not_cached(changes: dict[str, Any]) -> None:
    decision = decide(replace(WORK, **changes), 8 * GIB)
    assert not decision.cached
    assert decision.seconds < replace(WORK, **changes).cached_s
    assert decision.reason.startswith("not cached (4 views of 1000 images, 0.37 GiB): about ")


def test_what_is_in_the_cache_already_need_not_be_paid_again() -> None:
    shallow = replace(WORK, passes=2)
    assert not decide(shallow, 8 * GIB).cached
    assert decide(replace(shallow, missing_views=1), 8 * GIB).cached


def test_a_bank_beyond_the_space_is_computed_in_every_pass() -> None:
    assert decide(WORK, WORK.cache_bytes).cached
    decision = decide(WORK, WORK.cache_bytes - 1)
    assert not decision.cached
    assert "0.37 GiB: more than compute.cache_gib leaves, 0.37; computed in every pass, about 200 s" in decision.reason


def test_fresh_views_are_never_cached() -> None:
    decision = decide(replace(WORK, num_views=0, missing_views=0), 8 * GIB)
    assert (decision.cached, decision.reason) == (False, "fresh views in every pass, about 200 s")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({"warm_start": False}, 5), ({"warm_start": True}, 7), ({"warm_start": True, "norm": "frozen"}, 6)],
)
def test_the_passes_of_a_phase_are_its_epochs_and_those_of_the_refit(changes: dict[str, object], expected: int) -> None:
    assert train_passes(tiny.phase(epochs=5, **changes)) == expected


def test_validation_is_passed_before_training_after_each_epoch_and_for_the_answers() -> None:
    assert val_passes(tiny.phase(epochs=5, warm_start=False), 4) == 10
    assert val_passes(tiny.phase(epochs=5, warm_start=True), 1) == 7
    assert val_passes(tiny.phase(epochs=5, average=True), 4) == 14
