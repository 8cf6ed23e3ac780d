"""Balancing ends where no move of one unit is for the better, and moves no more than that takes."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from thaw.data.balance import TRAINING, Kind, Part, by_place, divide

FOLDS = [Part(number / 4, (number + 1) / 4, 1 / 4) for number in range(4)]
TEST = [Part(0, 0.25, 0.25)]

kind = st.dictionaries(st.sampled_from("abc"), st.integers(1, 3), min_size=1).map(lambda d: tuple(sorted(d.items())))
units = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), kind), min_size=1, max_size=25)


def allowed(expected: float) -> float:
    return max(0.25 * expected, min(1.0, expected / 2))


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=2, max_size=60, unique=True))
def test_of_single_images_the_first_on_the_line_are_tested_as_many_as_are_allowed(places: list[float]) -> None:
    expected = len(places) / 4
    inside = sum(place < 0.25 for place in places)
    counts = [number for number in range(1, len(places)) if abs(number - expected) <= allowed(expected)]
    number = min(counts or [1], key=lambda count: abs(count - inside))
    found = divide(places, [(("a", 1),)] * len(places), TEST, keep=2)
    assert [found[places.index(place)] for place in sorted(places)] == [0] * number + [TRAINING] * (
        len(places) - number
    )


@given(units)
def test_no_move_of_one_unit_between_folds_makes_the_counts_better(units: list[tuple[float, Kind]]) -> None:
    places, kinds = [place for place, _ in units], [kind for _, kind in units]
    found = divide(places, kinds, FOLDS, keep=1)
    number = Counter(label for kind in kinds for label, _ in kind)
    free = [all(number[label] > 1 for label, _ in kind) for kind in kinds]
    assert [where == TRAINING for where in found] == [not ours for ours in free]
    reached = cost(found, kinds, free)
    assert reached <= cost(by_place(places, FOLDS), kinds, free)
    for unit, ours in enumerate(free):
        for target in range(4) if ours else ():
            tried = [*found[:unit], target, *found[unit + 1 :]]
            assert cost(tried, kinds, free) >= (reached[0], reached[1] - 1e-6)


def cost(found: list[int], kinds: list[Kind], free: list[bool]) -> tuple[int, float]:
    """How many classes a training part lacks, and the images beyond what is allowed."""
    labels = {label for kind, ours in zip(kinds, free, strict=True) for label, _ in kind if ours}
    lacking = sum(
        all(where == number for where, kind in zip(found, kinds, strict=True) if label in dict(kind))
        for label in labels
        for number in range(4)
    )
    images = [
        (where, [*kind, ("all", sum(n for _, n in kind))])
        for where, kind, ours in zip(found, kinds, free, strict=True)
        if ours
    ]
    beyond = 0.0
    for label in [*labels, "all"]:
        counts = Counter(dict.fromkeys(range(4), 0))
        for where, kind in images:
            counts[where] += dict(kind).get(label, 0)
        even = counts.total() / 4
        beyond += sum(max(abs(counts[where] - even) - allowed(even), 0) for where in range(4))
    return lacking, beyond
