"""Orders visit everything, whatever the numbers."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from thaw.augment.draws import epoch_order, epoch_views

SEEDS = st.integers(0, 2**31 - 1)
PHASES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)


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
