"""Rates and targets stay in their bounds, whatever the numbers."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from thaw.head.examples import soft_targets
from thaw.training.schedule import rate_factor

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
