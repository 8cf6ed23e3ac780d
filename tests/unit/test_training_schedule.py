"""The learning rate of each step, and how many steps an epoch has."""

import numpy as np
import pytest

from thaw.training.schedule import rate_factor, steps_per_epoch


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
