from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from thaw.config.reader import load_params
from thaw.config.schema import Params
from thaw.errors import ParamsError


def _with(text: str, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a valid file with one change made to its tree."""
    tree = yaml.safe_load(text)
    change(tree)
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


def test_the_shipped_file_is_valid(root: Path) -> None:
    params = load_params(root / "params.yaml")
    assert params.unfreeze.phases
    assert params.data.raw == "data/sample/images"


def test_params_cannot_be_changed_after_reading(root: Path) -> None:
    params = load_params(root / "params.yaml")
    with pytest.raises(ValidationError, match="frozen"):
        params.seed = 1  # type: ignore[misc]  # mypy sees the mistake that is tested


def test_a_whole_number_will_do_where_a_fraction_is_asked_for(params_text: str, tmp_path: Path) -> None:
    params = load_params(_with(params_text, tmp_path, lambda tree: tree["head"].update(dropout=0)))
    assert params.head.dropout == 0.0
    assert isinstance(params.head.dropout, float)


@pytest.mark.parametrize("depth", [1, 7, "all", "blocks.4"])
def test_a_depth_is_a_number_all_or_a_block(params_text: str, tmp_path: Path, depth: int | str) -> None:
    path = _with(params_text, tmp_path, lambda tree: tree["unfreeze"].update(phases={"top": _phase(tree, depth=depth)}))
    assert load_params(path).unfreeze.phases["top"].depth == depth


@pytest.mark.parametrize("lr", [1, 0.5, "auto"])
def test_a_rate_is_a_number_or_to_be_found(params_text: str, tmp_path: Path, lr: float | str) -> None:
    path = _with(params_text, tmp_path, lambda tree: tree["unfreeze"].update(phases={"top": _phase(tree, lr=lr)}))
    assert load_params(path).unfreeze.phases["top"].lr == lr


def test_no_phase_at_all_is_allowed(params_text: str, tmp_path: Path) -> None:
    assert (
        load_params(_with(params_text, tmp_path, lambda tree: tree["unfreeze"].update(phases={}))).unfreeze.phases == {}
    )


def test_two_phases_may_start_from_the_same_one_and_share_a_depth(params_text: str, tmp_path: Path) -> None:
    def branch(tree: dict[str, Any]) -> None:
        tree["unfreeze"]["phases"]["other"] = {**tree["unfreeze"]["phases"]["mid"]}

    assert [*load_params(_with(params_text, tmp_path, branch)).unfreeze.phases] == ["mid", "other", "top"]


def test_every_field_carries_a_docstring_and_every_number_a_bound() -> None:
    from tests.contract import params_page

    page = params_page.render()
    assert " | a number | " not in page
    assert " | a whole number | " not in page
    for section, field in Params.model_fields.items():
        assert f"## `{section}`" in page, field


def test_a_missing_file_names_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="run from the repository's root"):
        load_params(tmp_path / "params.yaml")


def _phase(tree: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**tree["unfreeze"]["phases"]["top"], **changes}
