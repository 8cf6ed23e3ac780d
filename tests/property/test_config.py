import math
import string
from pathlib import Path
from typing import Any

import pytest
from dvc.utils.serialize import dump_yaml, parse_yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.contract import repository
from thaw.config.checks import between_fields, completed, keys_without_effect
from thaw.config.reader import read_tree
from thaw.errors import ParamsError

_NUMBERLIKE = st.text(alphabet="0123456789+-._eExobXO:", min_size=1, max_size=8)
_NUMBERS = st.one_of(
    st.floats().map(repr),
    st.integers().map(str),
    st.from_regex(r"[-+]?(\.[0-9]{1,3}|[0-9]{1,3}(\.[0-9]{0,3})?)([eE][-+]?[0-9]{1,3})?", fullmatch=True),
    st.from_regex(r"0o[0-7]{1,4}|0x[0-9a-fA-F]{1,4}", fullmatch=True),
)
_WORDS = st.sampled_from(
    ["yes", "No", "on", "OFF", "y", "n", "true", "False", "null", "~", "NULL", ".inf", "-.INF", ".NaN"]
)
_TEXT = st.text(alphabet=string.ascii_letters + string.digits + " _-.:/#'\"[]{}&*!|>%@`,?=<~\t", max_size=10)


@settings(max_examples=400)
@given(scalar=_NUMBERS | _NUMBERLIKE | _WORDS | _TEXT)
@example(scalar="3e-4")
@example(scalar="1e-05")
@example(scalar="+.5e3")
@example(scalar="0o17")
@example(scalar="0x1F")
@example(scalar="012")
@example(scalar="1_000")
@example(scalar="2026-11-22")
@example(scalar="1/3")
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


@given(number=st.floats(allow_nan=False, allow_infinity=False) | st.integers())
@example(number=0.00005)
@example(number=1e22)
def test_every_number_that_dvc_writes_is_read_as_that_number(
    number: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "params.yaml"
    dump_yaml(path, {"lr": number})
    assert _alike(read_tree(path), {"lr": number})


@pytest.mark.parametrize(
    ("scalar", "number"),
    [("3e-4", 0.0003), ("1e-05", 0.00001), ("2.5E-4", 0.00025), ("1.e+3", 1000.0), ("+.5", 0.5), ("0o17", 15)],
)
def test_the_forms_of_a_number_in_yaml_1_2_are_read(scalar: str, number: float, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(f"lr: {scalar}\n", encoding="utf-8")
    assert read_tree(tmp_path / "params.yaml") == {"lr": number}


@pytest.mark.parametrize(
    "path",
    [repository.ROOT / "params.yaml", *sorted((repository.ROOT / "recipes").glob("*.yaml"))],
    ids=lambda path: path.name,
)
def test_both_parsers_agree_about_every_file_of_params_in_the_repository(path: Path) -> None:
    assert _alike(read_tree(path), parse_yaml(path.read_text(encoding="utf-8"), str(path)))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


_SHARES = st.from_regex(r"[0-9]{1,2}/[0-9]{1,2}", fullmatch=True)


_PHASE = st.fixed_dictionaries({"start": _JSON, "depth": _JSON | _SHARES})


@given(phases=_JSON | st.dictionaries(st.sampled_from("abc"), _PHASE))
def test_the_checks_between_fields_never_break_on_a_tree_of_any_shape(phases: Any) -> None:
    tree = {"unfreeze": {"defaults": phases, "phases": phases}, "prepare": phases, "backbone": {"input_px": phases}}
    full = completed(tree)
    assert all(isinstance(line, str) for line in [*between_fields(full), *keys_without_effect(full)])


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
