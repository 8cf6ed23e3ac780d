"""A value set in the text of a params.yaml is there when it is read, and nothing else has changed."""

import copy
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from thaw.project.params_text import renamed, with_value

_KEYS = st.sampled_from(["a", "b", "c", "d"])
_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-1000, 1000),
    st.floats(-1e6, 1e6),
    st.text("xyz #:'\"", max_size=6),
    st.lists(st.integers(0, 9), max_size=3),
)
_TREES = st.recursive(
    st.dictionaries(_KEYS, _VALUES, min_size=1, max_size=3),
    lambda inner: st.dictionaries(_KEYS, st.one_of(_VALUES, inner), min_size=1, max_size=3),
    max_leaves=8,
)
_PATHS = st.lists(_KEYS, min_size=1, max_size=3)


def _set(tree: dict[str, Any], path: list[str], value: object) -> dict[str, Any] | None:
    """Return the tree with a value set, by the plain way; None where a value that is no section is in the way."""
    tree = copy.deepcopy(tree)
    section = tree
    for key in path[:-1]:
        inner = section.setdefault(key, {})
        if not isinstance(inner, dict):
            return None
        section = inner
    section[path[-1]] = value
    return tree


@given(tree=_TREES, path=_PATHS, value=_VALUES, flow=st.sampled_from([None, False, True]))
def test_a_value_that_is_set_is_read_back_and_all_others_stay(
    tree: dict[str, Any], path: list[str], value: object, flow: bool | None
) -> None:
    expected = _set(tree, path, value)
    if expected is None:
        return
    text = yaml.safe_dump(tree, default_flow_style=flow, sort_keys=False)
    assert yaml.safe_load(with_value(text, ".".join(path), value)) == expected


@given(tree=_TREES, flow=st.sampled_from([None, False, True]))
def test_a_key_that_is_renamed_and_renamed_back_leaves_the_text_as_it_was(
    tree: dict[str, Any], flow: bool | None
) -> None:
    text = yaml.safe_dump(tree, default_flow_style=flow, sort_keys=False)
    there, done = renamed(text, {"*.a": "*.longer"})
    back, undone = renamed(there, {"*.longer": "*.a"})
    assert back == text
    assert len(done) == len(undone)
