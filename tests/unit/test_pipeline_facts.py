"""The fact files: what is written is read back, and what a file should not hold is refused in one line."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny
from thaw.errors import ArtifactError
from thaw.pipeline import artifacts, facts
from thaw.pipeline.data_facts import Listed, Move, Preprocessing
from thaw.pipeline.model_facts import AugmentFacts, BackboneFacts, FeaturesFacts, Lineage
from thaw.pipeline.report_facts import Accuracy, ClassFigures

SETTINGS = {"size_px": 40, "fit": "crop", "max_megapixels": 100.0, "background": 255}


def tree(path: Path) -> object:
    return json.loads(path.read_text(encoding="utf-8"))


def test_an_optional_key_that_does_not_apply_is_absent_and_a_required_none_is_null(tmp_path: Path) -> None:
    stored = tiny.backbone_facts(tiny.backbone())
    facts.write(tmp_path / "model.json", stored)
    found = artifacts.read_json(tmp_path / "model.json")
    assert list(found) == ["source", "backbone", "blocks", "features"]
    assert found["backbone"]["parent"] is None
    assert facts.read(tmp_path / "model.json", BackboneFacts).model_dump() == stored.model_dump()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size_px": "40"}, 'size_px is "40": input should be a valid integer'),
        ({"fit": "stretch"}, "fit is \"stretch\": input should be 'crop', 'pad' or 'squash'"),
        ({"value_range": [[0, "top"]]}, 'value_range.0.1 is "top": input should be a valid number'),
        ({"side_px": 3}, "side_px is no key that this version of Thaw knows"),
        ({"background": {"grey": "x" * 90}}, 'background is {"grey": "' + "x" * 50 + "…: input should be"),
    ],
)
def test_a_file_that_does_not_validate_is_one_line_that_names_file_key_and_remedy(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = tmp_path / "settings.json"
    artifacts.write_json(path, SETTINGS | change)
    with pytest.raises(ArtifactError) as caught:
        facts.read(path, Preprocessing)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert str(caught.value).endswith("; run `dvc repro`, which writes it anew")
    assert "\n" not in str(caught.value)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    artifacts.write_json(tmp_path / "settings.json", {"size_px": 40})
    with pytest.raises(ArtifactError, match=r"settings.json: fit is missing; run `dvc repro`"):
        facts.read(tmp_path / "settings.json", Preprocessing)


def test_a_range_of_values_is_pairs_again_after_the_file(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    artifacts.write_json(path, SETTINGS | {"value_range": [[0.0, 4095.0]], "dtype": "uint16"})
    found = facts.read(path, Preprocessing)
    assert (found.value_range, found.pixel_type) == (((0.0, 4095.0),), "uint16")
    facts.write(path, found)
    assert tree(path) == SETTINGS | {"value_range": [[0.0, 4095.0]], "dtype": "uint16"}


def test_facts_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        setattr(Preprocessing.model_validate(SETTINGS), "size_px", 41)  # noqa: B010, mypy knows it already


def test_flips_of_a_model_made_before_the_release_are_read(tmp_path: Path) -> None:
    artifacts.write_json(tmp_path / "augment.json", {"flip": "both", "accuracy": {}, "average": True})
    assert facts.read(tmp_path / "augment.json", AugmentFacts).tta
    facts.write(tmp_path / "augment.json", AugmentFacts(flip="both", tta=True))
    assert tree(tmp_path / "augment.json") == {"flip": "both", "accuracy": {}, "tta": True}


def test_where_no_earlier_layer_was_tried_the_file_has_an_empty_object(tmp_path: Path) -> None:
    network = tiny.backbone()
    stored = FeaturesFacts(
        classes=["a", "b"],
        backbone=network.spec,
        blocks=network.blocks,
        preprocessing=Preprocessing.model_validate(SETTINGS),
        lineage=Lineage(data="d", backbone="b"),
        augment=AugmentFacts(flip="none", tta=False),
    )
    facts.write(tmp_path / "features.json", stored)
    assert artifacts.read_json(tmp_path / "features.json")["earlier_layers"] == {}
    assert facts.read(tmp_path / "features.json", FeaturesFacts).earlier_layers is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_fact_is_written_that_json_has_no_word_for(tmp_path: Path, value: float) -> None:
    network = tiny.backbone()
    spec = network.spec.model_copy(update={"mean": (value,) * 3})
    for stored in (
        Accuracy(accuracy=value, accuracy_low=0.0, accuracy_high=1.0),
        ClassFigures({"a": {"recall": value}}),
        tiny.changed(tiny.backbone_facts(network), backbone=spec),
    ):
        with pytest.raises(ValueError, match="not JSON compliant"):
            facts.write(tmp_path / "facts.json", stored)
    assert not list(tmp_path.iterdir())


def test_a_move_is_written_from_and_to(tmp_path: Path) -> None:
    moves = Listed[Move](count=1, first=[Move(unit="plant", images=3, source="val", target="train")])
    facts.write(tmp_path / "moves.json", moves)
    first = {"unit": "plant", "images": 3, "from": "val", "to": "train"}
    assert tree(tmp_path / "moves.json") == {"count": 1, "first": [first]}
    assert facts.read(tmp_path / "moves.json", Listed[Move]) == moves


@settings(deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=5),
        st.dictionaries(
            st.text(max_size=5), st.integers(0, 10**9) | st.floats(allow_nan=False, allow_infinity=False), max_size=3
        ),
        max_size=3,
    )
)
def test_figures_and_the_names_of_classes_come_back_to_the_last_digit(
    tmp_path_factory: pytest.TempPathFactory, figures: dict[str, dict[str, int | float]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "classes.json"
    facts.write(path, ClassFigures(figures))
    found = facts.read(path, ClassFigures).root
    assert repr(found) == repr(figures)  # 1 is not 1.0
