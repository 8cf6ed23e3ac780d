"""Schedules stay in their bounds and orders visit everything, whatever the numbers."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from thaw.training.head import soft_targets
from thaw.training.schedule import epoch_order, epoch_views, rate_factor

SEEDS = st.integers(0, 2**31 - 1)
PHASES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)


@given(num_steps=st.integers(1, 500), warmup=st.floats(0, 1), data=st.data())
def test_the_rate_is_above_zero_and_never_above_its_peak(num_steps: int, warmup: float, data: st.DataObject) -> None:
    step = data.draw(st.integers(0, num_steps - 1))
    assert 0 < rate_factor(step, num_steps, warmup) <= 1


@given(num_steps=st.integers(1, 200), warmup=st.floats(0, 1))
def test_the_rate_rises_to_one_peak_and_falls_after_it(num_steps: int, warmup: float) -> None:
    factors = [rate_factor(step, num_steps, warmup) for step in range(num_steps)]
    peak = int(np.argmax(factors))
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)


@given(num_samples=st.integers(0, 300), seed=SEEDS, phase=PHASES, epoch=st.integers(1, 1000), other=SEEDS)
def test_an_order_is_a_permutation_that_depends_on_seed_phase_and_epoch_alone(
    num_samples: int, seed: int, phase: str, epoch: int, other: int
) -> None:
    order = epoch_order(num_samples, seed=seed, phase=phase, epoch=epoch)
    assert sorted(order) == list(range(num_samples))
    epoch_views(num_samples, 4, seed=other, phase=phase, epoch=epoch)
    np.random.default_rng(other).permutation(5)
    np.testing.assert_array_equal(order, epoch_order(num_samples, seed=seed, phase=phase, epoch=epoch))


@given(
    num_samples=st.integers(1, 50), num_views=st.integers(1, 64), seed=SEEDS, phase=PHASES, first=st.integers(1, 100)
)
def test_a_sample_goes_round_its_bank_and_sees_each_view_once(
    num_samples: int, num_views: int, seed: int, phase: str, first: int
) -> None:
    epochs = range(first, first + num_views)
    seen = np.stack([epoch_views(num_samples, num_views, seed=seed, phase=phase, epoch=epoch) for epoch in epochs])
    np.testing.assert_array_equal(np.sort(seen, axis=0), np.repeat(np.arange(num_views)[:, None], num_samples, axis=1))


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=20),
    confidence=st.floats(0.01, 1),
    num_classes=st.integers(5, 9),
    smoothing=st.floats(0, 0.99),
)
def test_targets_are_probabilities(labels: list[int], confidence: float, num_classes: int, smoothing: float) -> None:
    sure = np.full(len(labels), confidence)
    targets = soft_targets(np.array(labels), sure, num_classes, smoothing).numpy()
    np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-5)
    assert (targets >= 0).all()
    expected = (1 - smoothing) * confidence + smoothing / num_classes
    np.testing.assert_allclose(targets[np.arange(len(labels)), labels], expected, rtol=1e-5)
