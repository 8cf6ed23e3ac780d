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


@pytest.mark.parametrize("depth", [1, 7, "all", "blocks.4", "1/3", "1/1"])
def test_a_depth_is_a_number_all_or_a_block(params_text: str, tmp_path: Path, depth: int | str) -> None:
    path = _with(params_text, tmp_path, lambda tree: tree["unfreeze"].update(phases={"top": _phase(tree, depth=depth)}))
    assert load_params(path).unfreeze.phases["top"].depth == depth


@pytest.mark.parametrize("lr", [1, 0.5, "auto"])
def test_a_rate_is_a_number_or_to_be_found(params_text: str, tmp_path: Path, lr: float | str) -> None:
    path = _with(params_text, tmp_path, lambda tree: tree["unfreeze"].update(phases={"top": _phase(tree, lr=lr)}))
    assert load_params(path).unfreeze.phases["top"].lr == lr


@pytest.mark.parametrize(
    ("first", "second", "fits"),
    [("1/3", "2/3", True), ("1/3", "2/6", True), ("2/3", "1/3", False), ("all", "2/3", False), ("1/1", "all", True),
     ("all", "1/1", True), ("1/3", 2, True), (6, "1/3", True)],
)  # fmt: skip
def test_shares_are_compared_with_shares_and_with_numbers_once_the_network_is_known(
    params_text: str, tmp_path: Path, first: int | str, second: int | str, fits: bool
) -> None:
    def deepen(tree: dict[str, Any]) -> None:
        tree["unfreeze"]["phases"]["top"]["depth"], tree["unfreeze"]["phases"]["mid"]["depth"] = first, second

    path = _with(params_text, tmp_path, deepen)
    if fits:
        assert load_params(path).unfreeze.phases["mid"].depth == second
    else:
        with pytest.raises(ParamsError, match=f"mid.depth is {second}, less than that of top, from which it starts"):
            load_params(path)


def test_a_phase_has_the_defaults_of_all_phases_unless_it_sets_its_own(params_text: str, tmp_path: Path) -> None:
    def share(tree: dict[str, Any]) -> None:
        tree["unfreeze"] = {
            "defaults": {"lr": 0.01, "views": 8},
            "phases": {"top": {"start": "head", "depth": 1}, "mid": {"start": "top", "depth": 2, "views": 0}},
        }

    phases = load_params(_with(params_text, tmp_path, share)).unfreeze.phases
    assert [(phase.lr, phase.views, phase.batch_size) for phase in phases.values()] == [(0.01, 0, 32), (0.01, 8, 32)]


def test_the_smallest_file_holds_the_empty_sections_that_dvc_wants(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(
        "seed: 0\ndata: {raw: photos}\nprepare: {}\nbackbone: {source: timm:resnet18}\naugment: {}\nfeatures: {}\n"
        "head: {}\nadvise: {}\nunfreeze: {defaults: {}, phases: {}}\nselect: {}\nevaluate: {}\nexport: {}\n"
    )
    params = load_params(path)
    assert (params.prepare.size_px, params.backbone.sha256, params.compute.device) == (256, None, "auto")


def test_the_shipped_file_has_about_thirty_lines(root: Path) -> None:
    assert (root / "params.yaml").read_text(encoding="utf-8").count("\n") <= 37


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
