"""The order of an epoch, the views of its samples, and a part that stands for all."""

import numpy as np

from thaw.augment.draws import epoch_order, epoch_views, representatives


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
