"""The learning rate of each step, and how many steps an epoch has."""

import numpy as np
import pytest

from thaw.training.schedule import rate_factor, steps_per_epoch


def test_the_rate_rises_to_its_peak_in_the_warm_up_and_then_falls_along_a_cosine() -> None:
    factors = [rate_factor(step, 100, 0.2) for step in range(100)]
    np.testing.assert_allclose(factors[:20], np.arange(1, 21) / 20)
    progress = (np.arange(80) + 0.5) / 80
    np.testing.assert_allclose(factors[20:], (1 + np.cos(np.pi * progress)) / 2)


def test_one_cycle_rises_along_half_a_cosine_from_a_twenty_fifth_and_falls_as_the_other_does() -> None:
    factors = [rate_factor(step, 100, 0.3, "one-cycle") for step in range(100)]
    rise = (1 - np.cos(np.pi * np.arange(1, 31) / 30)) / 2
    np.testing.assert_allclose(factors[:30], 0.04 + 0.96 * rise)
    np.testing.assert_allclose(factors[30:], (1 + np.cos(np.pi * (np.arange(70) + 0.5) / 70)) / 2)


def test_constant_rises_in_a_line_and_stays() -> None:
    assert [rate_factor(step, 10, 0.4, "constant") for step in range(10)] == [0.25, 0.5, 0.75, *[1.0] * 7]


def test_the_only_step_of_a_schedule_is_half_way_down() -> None:
    assert rate_factor(0, 1, 0.0) == pytest.approx(0.5)
    assert rate_factor(3, 4, 0.75) == pytest.approx(0.5)


@pytest.mark.parametrize(("warmup", "num_steps"), [(0.0, 1), (1.0, 1), (0.0, 3), (1.0, 3), (0.2, 2)])
def test_even_the_shortest_schedule_trains(warmup: float, num_steps: int) -> None:
    assert max(rate_factor(step, num_steps, warmup) for step in range(num_steps)) >= 0.5


def test_an_epoch_has_whole_batches_only_and_at_least_one() -> None:
    assert [steps_per_epoch(samples, 4) for samples in (1, 3, 4, 7, 8, 9)] == [1, 1, 1, 1, 2, 2]
