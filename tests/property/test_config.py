import math
import string
from pathlib import Path
from typing import Any

import pytest
from dvc.utils.serialize import parse_yaml
from hypothesis import example, given
from hypothesis import strategies as st

from tests.contract import house
from thaw.config.checks import between_fields
from thaw.config.reader import read_tree
from thaw.errors import ParamsError

_NUMBERLIKE = st.text(alphabet="0123456789+-._eExobXO:", min_size=1, max_size=8)
_WORDS = st.sampled_from(
    ["yes", "No", "on", "OFF", "y", "n", "true", "False", "null", "~", "NULL", ".inf", "-.INF", ".NaN"]
)
_TEXT = st.text(alphabet=string.ascii_letters + string.digits + " _-.:/#'\"[]{}&*!|>%@`,?=<~\t", max_size=10)


@given(scalar=_NUMBERLIKE | _WORDS | _TEXT)
@example(scalar="1e-3")
@example(scalar="+.5")
@example(scalar="-.5")
@example(scalar="1.e+3")
@example(scalar="+12")
@example(scalar="08")
@example(scalar="0b11")
@example(scalar="12e03")
@example(scalar="1.5e3")
@example(scalar="-.inf")
@example(scalar="+.inf")
@example(scalar="=")
def test_a_value_is_read_alike_by_dvc_and_by_us_or_refused(
    scalar: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "params.yaml"
    text = f"key: {scalar}\nlist: [0, {scalar}]\n"
    path.write_text(text, encoding="utf-8", newline="")
    try:
        ours = read_tree(path)
    except ParamsError:
        return
    theirs = parse_yaml(text, str(path))
    assert _alike(ours, theirs), f"{ours!r} but {theirs!r}"


@pytest.mark.parametrize(
    "path",
    [house.ROOT / "params.yaml", *sorted((house.ROOT / "recipes").glob("*.yaml"))],
    ids=lambda path: path.name,
)
def test_both_parsers_agree_about_every_file_of_params_in_the_repository(path: Path) -> None:
    assert _alike(read_tree(path), parse_yaml(path.read_text(encoding="utf-8"), str(path)))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(phases=_JSON | st.dictionaries(st.sampled_from("abc"), st.fixed_dictionaries({"start": _JSON, "depth": _JSON})))
def test_the_checks_between_fields_never_break_on_a_tree_of_any_shape(phases: Any) -> None:
    tree = {"unfreeze": {"phases": phases}, "prepare": phases, "backbone": {"input_px": phases}}
    assert all(isinstance(line, str) for line in between_fields(tree))


@given(starts=st.lists(st.integers(0, 5), min_size=1, max_size=6))
def test_phases_are_accepted_exactly_if_all_of_them_lead_back_to_the_head(starts: list[int]) -> None:
    names = ["head", *(f"p{index}" for index in range(1, len(starts) + 1))]
    phases = {
        name: {"start": names[start % len(names)], "depth": 1} for name, start in zip(names[1:], starts, strict=True)
    }
    reached = {"head"}
    for _ in names:
        reached |= {name for name, phase in phases.items() if phase["start"] in reached}
    assert (between_fields({"unfreeze": {"phases": phases}}) == []) == (reached == set(names))


def _alike(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return list(ours) == list(theirs) and all(_alike(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(_alike, ours, theirs))
    if isinstance(ours, float) and isinstance(theirs, float):
        return ours == theirs or (math.isnan(ours) and math.isnan(theirs))
    return type(ours) is type(theirs) and bool(ours == theirs)
