"""A merge of any locks is what a second implementation says of their entries, in the bytes that DVC writes."""

from typing import Any

from dvc.utils.serialize import dumps_yaml
from hypothesis import given
from hypothesis import strategies as st

from thaw.project.merging import merge_locks

_NAMES = st.sampled_from(["prepare", "unfreeze@top", "1", "yes", "Küche", "a: b", "#", "stages", "schema", "long" * 40])
_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=100)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)
_ENTRIES = st.fixed_dictionaries({"cmd": st.text(max_size=20), "params": _VALUES})


@st.composite
def _three_sides(draw: st.DrawFn) -> tuple[dict[str, Any], ...]:
    """Base, ours and theirs, which share few versions of each stage."""
    sides: tuple[dict[str, Any], ...] = ({}, {}, {})
    for name in draw(st.lists(_NAMES, unique=True, max_size=5)):
        versions = draw(st.lists(_ENTRIES, min_size=1, max_size=3))
        for side in draw(st.permutations(sides)):
            if (version := draw(st.sampled_from([None, *versions]))) is not None:
                side[name] = version
    return sides


def _lock(stages: dict[str, Any]) -> str:
    return str(dumps_yaml({"schema": "2.0", "stages": stages}))


def _expected(base: dict[str, Any], ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, str | None]:
    """The text of each stage of a merge; None for one that is removed or dropped."""
    found = {}
    for name in [*ours, *(name for name in theirs if name not in ours)]:
        before, *after = (_lock({name: side[name]}) if name in side else None for side in (base, ours, theirs))
        changes = {version for version in after if version != before}
        found[name] = None if len(changes) > 1 else changes.pop() if changes else before
    return found


@given(sides=_three_sides())
def test_a_merge_has_of_each_stage_the_one_change_that_there_is(sides: tuple[dict[str, Any], ...]) -> None:
    base, ours, theirs = sides
    kept = {name: theirs.get(name, ours.get(name)) for name in ours | theirs}
    for name, text in _expected(base, ours, theirs).items():
        if text is None:
            del kept[name]
        elif name in ours and _lock({name: ours[name]}) == text:
            kept[name] = ours[name]
    assert merge_locks(*map(_lock, sides)).text == _lock(kept)


@given(sides=_three_sides())
def test_a_merge_gives_the_same_stages_from_either_side(sides: tuple[dict[str, Any], ...]) -> None:
    base, ours, theirs = map(_lock, sides)
    one, other = merge_locks(base, ours, theirs), merge_locks(base, theirs, ours)
    assert sorted(one.text.splitlines()) == sorted(other.text.splitlines())
    assert (one.note is None) == (other.note is None)


@given(sides=_three_sides())
def test_a_side_that_nobody_else_has_changed_is_the_result(sides: tuple[dict[str, Any], ...]) -> None:
    base, ours, _ = map(_lock, sides)
    assert merge_locks(base, ours, base).text == merge_locks(ours, ours, ours).text == ours
    assert sorted(merge_locks(base, base, ours).text.splitlines()) == sorted(ours.splitlines())
