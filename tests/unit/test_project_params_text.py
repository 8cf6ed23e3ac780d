"""params.yaml edited as text: nothing but the key in question changes."""

import pytest
import yaml

from thaw.errors import ParamsError
from thaw.project.params_text import renamed, value_at, with_value, without

_TEXT = """\
# head of the file
seed: 0  # a number

prepare: {}

augment:
  flip: auto  # found out
  average: true  # over flips

unfreeze:
  defaults:
    epochs: 4
  phases:
    top:
      start: head
      refit: false  # why
    mid: {start: top, refit: true}  # flow
"""


def test_a_value_is_replaced_and_its_comment_stays() -> None:
    text = with_value(_TEXT, "seed", 7)
    assert text == _TEXT.replace("seed: 0  #", "seed: 7  #")
    assert with_value(_TEXT, "augment.flip", "none") == _TEXT.replace("flip: auto", "flip: none")


def test_a_new_key_is_the_last_of_its_section() -> None:
    text = with_value(_TEXT, "augment.rotate_deg", 5.0)
    assert text == _TEXT.replace("# over flips\n", "# over flips\n  rotate_deg: 5.0\n")


def test_a_key_of_an_empty_or_a_missing_section_is_added() -> None:
    assert with_value(_TEXT, "prepare.size_px", 64) == _TEXT.replace("prepare: {}", "prepare: {size_px: 64}")
    text = with_value(_TEXT, "compute.threads", 1)
    assert text.startswith(_TEXT.rstrip())
    assert value_at(text, "compute") == {"threads": 1}


def test_a_mapping_is_laid_over_a_section_and_lists_are_written_in_one_line() -> None:
    text = with_value(_TEXT, "unfreeze.phases.top", {"epochs": 1, "depth": 2})
    assert value_at(text, "unfreeze.phases.top") == {"start": "head", "refit": False, "epochs": 1, "depth": 2}
    assert value_at(text, "unfreeze.phases.mid") == {"start": "top", "refit": True}
    assert "value_range: [0, 4095]" in with_value(_TEXT, "prepare.value_range", [0, 4095])


def test_a_key_in_flow_style_is_added_beside_the_others() -> None:
    assert "mid: {start: top, refit: true, epochs: 2}  # flow" in with_value(_TEXT, "unfreeze.phases.mid.epochs", 2)


def test_a_block_list_is_replaced_as_a_whole() -> None:
    text = "taps:\n  - a\n  - b\nseed: 0\n"
    assert yaml.safe_load(with_value(text, "taps", ["c"])) == {"taps": ["c"], "seed": 0}


def test_a_path_through_a_value_is_refused() -> None:
    with pytest.raises(ParamsError, match=r"^params.yaml: seed.deep cannot be set"):
        with_value(_TEXT, "seed.deep", 1)


def test_keys_are_renamed_in_every_phase_and_nothing_else_changes() -> None:
    names = {"augment.average": "augment.tta", "unfreeze.phases.*.refit": "unfreeze.phases.*.warm_start"}
    text, done = renamed(_TEXT, names)
    assert text == _TEXT.replace("average:", "tta:").replace("refit:", "warm_start:")
    assert done == [
        "augment.average -> augment.tta",
        "unfreeze.phases.top.refit -> unfreeze.phases.top.warm_start",
        "unfreeze.phases.mid.refit -> unfreeze.phases.mid.warm_start",
    ]
    assert renamed(text, names) == (text, [])


def test_a_key_is_not_renamed_to_one_that_is_there_already() -> None:
    text = "augment:\n  average: true\n  tta: false\n"
    assert renamed(text, {"augment.average": "augment.tta"}) == (text, [])


def test_keys_are_removed_in_every_phase_and_nothing_else_changes() -> None:
    text, done = without(_TEXT, ["unfreeze.phases.*.refit", "augment.average", "augment.none"])
    assert text == _TEXT.replace("      refit: false  # why\n", "").replace(", refit: true", "").replace(
        "  average: true  # over flips\n", ""
    )
    assert done == ["unfreeze.phases.top.refit", "unfreeze.phases.mid.refit", "augment.average"]
    assert without(text, ["unfreeze.phases.*.refit"]) == (text, [])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a:\n  old: 1\nb: 2\n", "a: {}\nb: 2\n"),
        ("a: {old: 1}\nb: 2\n", "a: {}\nb: 2\n"),
        ("a: {old: 1, new: 2}\n", "a: {new: 2}\n"),
        ("a: {\n  new: 2,\n  old: 1}\n", "a: {\n  new: 2}\n"),
        ("a:\n  new: 2\n  old:\n    - 1\n    - 2\n", "a:\n  new: 2\n"),
        ("a:\n  new: 2\n  old: 1", "a:\n  new: 2\n"),
    ],
)
def test_a_key_is_removed_however_its_section_is_laid_out(before: str, after: str) -> None:
    assert without(before, ["a.old"]) == (after, ["a.old"])
