"""The model card says what was measured, in a form that the hub reads."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from tests import tiny
from thaw.evaluation.intervals import class_intervals
from thaw.evaluation.metrics import class_metrics
from thaw.export import card
from thaw.pipeline.report_facts import Choice, ClassFigures, Metrics

FACTS = tiny.exported_facts(
    classes=["a|b", "ok"], preprocessing=tiny.preprocessing().model_dump() | {"channels": 3}, views=2
)


def figures(predictions: pd.DataFrame) -> ClassFigures:
    """Return classes.json for these answers."""
    names = sorted(set(predictions["label"]) | set(predictions["predicted"]))
    index = {name: number for number, name in enumerate(names)}
    labels, answers = (predictions[column].map(index).to_numpy(np.int64) for column in ("label", "predicted"))
    found = class_metrics(labels, np.eye(len(names))[answers])
    ends = class_intervals(labels, np.eye(len(names))[answers], groups=None)
    named = [
        {f"{key}_low": low for key, (low, _) in own.items()} | {f"{key}_high": high for key, (_, high) in own.items()}
        for own in ends
    ]
    return ClassFigures({name: own | both for name, own, both in zip(names, found, named, strict=True)})


def evidence(source: str = "photos", **audit: Any) -> card.Evidence:
    labels = ["a|b"] * 4 + ["ok"] * 6
    predictions = pd.DataFrame({"label": labels, "predicted": ["a|b", "ok", "ok", "ok", *["ok"] * 5, "a|b"]})
    usual = {
        "images": 30, "rejected": 2,
        "classes": {"a|b": {"train": 8, "val": 0, "test": 4}, "ok": {"train": 10, "val": 2, "test": 6}},
    }  # fmt: skip
    metrics = Metrics(
        test={"n": 10, "accuracy": 0.6, "accuracy_low": 0.3, "accuracy_high": 0.9, "ece": 0.125},
        majority=tiny.accuracy(0.6),
        head=tiny.accuracy(0.5),
        phases={},
        final=Choice(phase="head", temperature=1.0),
        verdict=tiny.verdict(
            "The head alone was kept; top is not shown to differ from it by 10 test images: so it is."
        ),
    )
    selection = tiny.changed(tiny.selection(head={"chosen": True}), reason="Unfreezing did not help.")
    return card.Evidence(source, tiny.audit(**usual | audit), metrics, figures(predictions), selection, predictions)


def test_the_front_matter_is_yaml_with_the_licence_the_task_and_the_metrics() -> None:
    text = card.render(FACTS, evidence())
    front = yaml.safe_load(text.split("---\n")[1])
    assert (front["license"], front["pipeline_tag"]) == ("other", "image-classification")
    (result,) = front["model-index"][0]["results"]
    assert result["dataset"]["name"] == "photos"
    assert {entry["type"]: entry["value"] for entry in result["metrics"]} == {"accuracy": 0.6, "ece": 0.125}


def test_an_ensemble_is_named_with_what_its_answer_costs() -> None:
    assert "mean of" not in card.render(FACTS, evidence())
    text = card.render(tiny.changed(FACTS, members=5, cost=2.34), evidence())
    assert "An answer is the mean of 5 networks" in text
    assert "an answer takes 2.3 times the multiplications of one network" in text


def test_counts_figures_with_intervals_and_weak_classes_are_those_of_the_evidence() -> None:
    text = card.render(FACTS, evidence())
    for words in (
        "30 images, 2 files rejected",
        "| `a\\|b` | 8 | 0 | 4 |",
        "| Accuracy | 0.600 | 0.300 to 0.900 |",
        "| Expected calibration error, 15 bins | 0.125 | not to be had from 10 images |",
        "| `a\\|b` | 4 | 0.250 (0.006 to 0.806) | 0.500 (0.013 to 0.987) | `ok` |",
        "Weakest class: `a|b`, of which 25.0 % of 4 are found (95 % interval 0.6 to 80.6 %).",
        "top is not shown to differ from it by 10 test images: so it is.\n\nTells 2 classes apart",
        "What the choice was made on, no proof: Unfreezing did not help.",
        "an accuracy of 0.600 (0.550 to 0.640)",
        "averaged over 2 mirror images",
        "find it out before you pass this model on",
        f"| data | `{'d' * 64}` |",
    ):
        assert words in text, words
    assert "parent" not in text
    assert "look almost alike" not in text
    assert "look almost alike" in card.render(
        FACTS, evidence(near_duplicates={"count": 3, "first": [], "groups_across_splits": 1})
    )


def test_with_folds_the_images_beside_test_are_called_development() -> None:
    text = card.render(FACTS, evidence(folds=5))
    assert "| class | development (5 folds) | test |" in text
    assert "| `a\\|b` | 8 | 4 |" in text


def test_recall_and_precision_are_those_of_scikit_learn() -> None:
    from sklearn.metrics import precision_recall_fscore_support

    predictions = evidence().predictions
    precision, recall, _, support = precision_recall_fscore_support(predictions["label"], predictions["predicted"])
    table = card.per_class(figures(predictions), predictions).sort_values("class")
    assert table["precision"].tolist() == pytest.approx(precision)
    assert table["recall"].tolist() == pytest.approx(recall)
    assert table["images"].tolist() == support.tolist()


@pytest.mark.parametrize(
    ("source", "stated", "expected"),
    [
        ("photos", None, "other"),
        ("photos", "mit", "mit"),
        (card.SAMPLE, None, "cc-by-nc-sa-4.0"),
        (card.SAMPLE, "x", "x"),
    ],
)
def test_the_licence_is_the_one_stated_or_the_sample_s(source: str, stated: str | None, expected: str) -> None:
    assert card.license_of(source, stated) == expected


def test_images_of_any_channels_are_named() -> None:
    for channels, words in ((1, "To sort grey images"), (3, "To sort colour images"), (4, "To sort 4-channel images")):
        settings = tiny.preprocessing().model_dump() | {"channels": channels}
        assert words in card.render(tiny.changed(FACTS, preprocessing=settings), evidence())


def test_a_card_of_a_thousand_classes_stays_readable() -> None:
    names = [f"class {number}" for number in range(1000)]
    predictions = pd.DataFrame({"label": names, "predicted": names})
    many = evidence(classes={name: {"train": 1, "val": 0, "test": 0} for name in names})
    changed = {"predictions": predictions, "classes": figures(predictions)}
    text = card.render(tiny.changed(FACTS, classes=names), card.Evidence(**(vars(many) | changed)))
    assert "The other 980 classes are left out here." in text
    assert len(text.splitlines()) < 160


@pytest.mark.parametrize("plane", ["max", 0, None])
def test_the_plane_of_a_file_that_is_answered_for_is_said_if_it_is_not_the_first(plane: str | int | None) -> None:
    settings = tiny.preprocessing(plane=plane).model_dump() | {"channels": 3}
    text = card.render(tiny.exported_facts(classes=["a|b", "ok"], preprocessing=settings), evidence())
    assert (f"`prepare.plane: {plane}`" in text) == (plane is not None)
    assert ("prepare.plane" in text) == (plane is not None)
