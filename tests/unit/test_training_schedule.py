"""The learning rate, the order of an epoch and the views of its samples."""

import numpy as np
import pytest

from thaw.training.schedule import epoch_order, epoch_views, rate_factor, representatives, steps_per_epoch


def test_the_rate_rises_to_its_peak_in_the_warm_up_and_then_falls_along_a_cosine() -> None:
    factors = [rate_factor(step, 100, 0.2) for step in range(100)]
    np.testing.assert_allclose(factors[:20], np.arange(1, 21) / 20)
    progress = (np.arange(80) + 0.5) / 80
    np.testing.assert_allclose(factors[20:], (1 + np.cos(np.pi * progress)) / 2)


@pytest.mark.parametrize(("warmup", "num_steps"), [(0.0, 1), (1.0, 1), (0.0, 3), (1.0, 3), (0.2, 2)])
def test_even_the_shortest_schedule_trains(warmup: float, num_steps: int) -> None:
    assert max(rate_factor(step, num_steps, warmup) for step in range(num_steps)) >= 0.5


def test_an_epoch_has_whole_batches_only_and_at_least_one() -> None:
    assert [steps_per_epoch(samples, 4) for samples in (1, 3, 4, 7, 8, 9)] == [1, 1, 1, 1, 2, 2]


def test_representatives_are_all_or_a_part_with_every_class_the_same_for_the_same_seed() -> None:
    labels = np.sort(np.array([0] * 300 + [1] * 2 + [2] * 98))
    assert representatives(labels, 400, seed=0, purpose="x").tolist() == list(range(400))
    few = representatives(labels, 20, seed=0, purpose="x")
    assert len(set(few.tolist())) == len(few) == 20
    assert set(labels[few]) == {0, 1, 2}
    assert (np.diff(few) > 0).all()
    assert few.tolist() == representatives(labels, 20, seed=0, purpose="x").tolist()
    assert few.tolist() != representatives(labels, 20, seed=1, purpose="x").tolist()
    assert labels[representatives(labels, 1, seed=0, purpose="x")].tolist() == [0, 1, 2], "a class is never left out"


def test_orders_differ_by_seed_phase_and_epoch() -> None:
    orders = [
        epoch_order(50, seed=seed, phase=phase, epoch=epoch).tolist()
        for seed in (0, 1)
        for phase in ("top", "mid")
        for epoch in (1, 2)
    ]
    assert len({tuple(order) for order in orders}) == 8


def test_the_order_is_the_one_that_it_has_always_been() -> None:
    # A change here would change every trained model, and break the resumption of running ones.
    assert epoch_order(8, seed=0, phase="top", epoch=1).tolist() == [2, 3, 0, 5, 1, 7, 6, 4]
    assert epoch_views(8, 4, seed=0, phase="top", epoch=1).tolist() == [1, 0, 1, 2, 0, 0, 1, 2]


def test_without_a_bank_each_epoch_has_a_view_of_its_own_that_is_not_the_plain_one() -> None:
    assert [set(epoch_views(5, 0, seed=0, phase="top", epoch=epoch).tolist()) for epoch in (1, 2, 9)] == [{1}, {2}, {9}]


def test_one_view_is_always_the_plain_one() -> None:
    assert not epoch_views(5, 1, seed=0, phase="top", epoch=3).any()
