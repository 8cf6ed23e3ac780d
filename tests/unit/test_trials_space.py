"""What a sweep may search: ranges and options of keys of params.yaml, refused before anything runs."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from dvc.utils.hydra import apply_overrides

from tests.conftest import ROOT
from thaw.config.reader import read_tree
from thaw.errors import ParamsError
from thaw.trials.space import Options, Range, Space, contains, overrides, parse, with_values

PARAMS = ROOT / "params.yaml"
RATE = "unfreeze.phases.mid.lr"


def test_words_and_a_file_name_the_same_space(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(
        f"{RATE}: 1e-5..1e-3:log\nunfreeze.defaults.epochs: '2..6'\nhead.hidden: [[], [512]]\n", encoding="utf-8"
    )
    words = [f"{RATE}=1e-5..1e-3:log", "unfreeze.defaults.epochs=2..6", "head.hidden=[],[512]"]
    assert parse([str(file)], PARAMS) == parse(words, PARAMS)
    assert parse(words, PARAMS) == {
        RATE: Range(1e-5, 1e-3, log=True),
        "unfreeze.defaults.epochs": Range(2, 6),
        "head.hidden": Options([[], [512]]),
    }


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([f"{RATE}=0..1"], f"params.yaml: {RATE} is 0; it must be above 0"),
        (["unfreeze.phases.mid.lrr=1,2"], "unfreeze.phases.mid.lrr is not a known key; did you mean lr?"),
        (["unfreeze.phases.low.lr=1e-4,1e-3"], "unfreeze.phases.low lacks start, depth"),
        (["seed=1,2"], "seed cannot be searched; name keys of backbone, augment, features, head, unfreeze"),
        (["head.hidden=[]"], "head.hidden has one value, [[]]; name a range LOW..HIGH, or several"),
        (["head.hidden=[,]"], "head.hidden=, cannot be read"),
        ([f"{RATE}=1e-3..1e-4:log"], "the low end must be below the high one, and above 0 for :log"),
        ([f"{RATE}=1e-4..1e-3:ln"], "is no range; write LOW..HIGH or LOW..HIGH:log"),
        ([f"{RATE}=1e-4,1e-3", f"{RATE}=1e-2,1e-1"], "the search names a key twice"),
        (["missing.yaml"], "missing.yaml is missing"),
    ],
)
def test_a_space_that_cannot_be_searched_is_one_line(words: list[str], line: str) -> None:
    with pytest.raises(ParamsError) as caught:
        parse(words, PARAMS)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_dvc_reads_the_values_that_it_is_given(tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "unfreeze.phases.mid.depth": "3/4", RATE: 1.234e-5, "unfreeze.phases.mid.average": True,
        "head.hidden": [512, 8], "head.kind": None, "backbone.source": "timm:a.b-c_d", "unfreeze.phases.mid.epochs": 3,
    }  # fmt: skip
    shutil.copy(PARAMS, tmp_path)
    apply_overrides(str(tmp_path / "params.yaml"), overrides(values))
    assert read_tree(tmp_path / "params.yaml") == with_values(read_tree(PARAMS), values)


def test_params_lie_in_a_space_or_do_not() -> None:
    space: Space = {RATE: Range(1e-4, 1e-3, log=True), "head.hidden": Options([[], [8]])}
    tree = with_values(read_tree(PARAMS), {RATE: 2e-4, "head.hidden": [8]})
    assert contains(space, tree) == {RATE: 2e-4, "head.hidden": [8]}
    assert contains(space, with_values(tree, {RATE: 2e-3})) is None
    assert contains(space, with_values(tree, {"head.hidden": [9]})) is None
