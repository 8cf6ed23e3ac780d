"""The tables behind `dvc plots`, and the summary."""

import base64
import io
import json
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from rich.console import Console
from sklearn import metrics as oracle

from tests import tiny
from thaw.errors import ArtifactError, DataError
from thaw.evaluation.metrics import classification_metrics
from thaw.evaluation.plots import (
    MAX_POINTS,
    precision_recall_points,
    roc_points,
    write_test_plots,
    write_training_plots,
)
from thaw.evaluation.summary import selection_table, summary_rows, summary_table
from thaw.evaluation.worst_images import worst_first, write_worst
from thaw.pipeline.report_facts import Choice, Metrics

ROOT = Path(__file__).parents[2]
_SVG = "{http://www.w3.org/2000/svg}"
CURVES = {
    "top": pd.DataFrame(
        {
            "epoch": [0, 1, 2],
            "train_loss": [None, 0.5, 0.4],
            "val_loss": [0.7, 0.6, 0.5],
            "val_accuracy": [0.6, 0.7, 0.8],
            "lr:head": [None, 1e-3, 5e-4],
            "lr:blocks.6": [None, 1e-4, 5e-5],
        }
    )
}


TESTS = {
    "top": pd.DataFrame({"rate": [1e-4, 1e-3], "change": [0.0, -0.1], "smoothed": [-0.05, -0.05], "chosen": [1, 0]}),
    "mid": pd.DataFrame({"rate": [2e-4], "change": None, "smoothed": None, "chosen": 1}),
}


def test_the_roc_is_that_of_scikit_learn_ties_included() -> None:
    random = np.random.default_rng(0)
    scores, positive = random.integers(0, 12, size=80) / 12, random.random(80) < 0.4
    found = roc_points(scores, positive)
    false_positive_rate, true_positive_rate, _ = oracle.roc_curve(positive, scores, drop_intermediate=False)
    np.testing.assert_allclose(found["false_positive_rate"], false_positive_rate)
    np.testing.assert_allclose(found["true_positive_rate"], true_positive_rate)


def test_precision_and_recall_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(1)
    scores, positive = random.integers(0, 12, size=80) / 12, random.random(80) < 0.4
    found = precision_recall_points(scores, positive)
    precision, recall, _ = oracle.precision_recall_curve(positive, scores)
    np.testing.assert_allclose(found["precision"], precision[::-1])
    np.testing.assert_allclose(found["recall"], recall[::-1])


def test_every_table_holds_the_columns_that_dvc_yaml_draws(tmp_path: Path) -> None:
    labels = np.array([0, 1, 2, 1, 0])
    chances = np.full((5, 3), 0.2) + np.eye(3)[[0, 1, 1, 1, 2]] * 0.4
    for folder in ("plots", "training"):
        (tmp_path / folder).mkdir()
    write_test_plots(tmp_path / "plots", labels, chances, ["a", "b", "c, d"])
    write_training_plots(tmp_path / "training", CURVES, TESTS)
    drawn: dict[str, dict[str, str]] = {}
    for entry in yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["plots"]:
        drawn |= entry if isinstance(entry, dict) else {}
    assert {path.removeprefix("reports/") for path in drawn} == {
        path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.csv")
    }
    for path, settings in drawn.items():
        table = pd.read_csv(tmp_path / path.removeprefix("reports/"))
        assert len(table)
        assert {settings["x"], settings["y"]} <= set(table.columns)
        needed = {"counts": set(), "rates": {"phase", "block"}, "range": {"phase", "smoothed", "chosen"}}
        assert needed.get(settings["template"], {"series"}) <= set(table.columns)
        assert (ROOT / f".dvc/plots/{settings['template']}.json").exists()
    confusion = pd.read_csv(tmp_path / "plots" / "confusion.csv")
    assert confusion["actual"].tolist() == ["a", "b", "c, d", "b", "a"]
    assert confusion["predicted"].tolist() == ["a", "b", "b", "b", "c, d"]


def test_learning_rates_are_listed_block_by_block(tmp_path: Path) -> None:
    write_training_plots(tmp_path, CURVES, {})
    rates = pd.read_csv(tmp_path / "learning_rates.csv")
    assert rates["epoch"].tolist() == [1, 2, 1, 2]
    assert rates.to_dict("records")[3] == {
        "epoch": 2,
        "phase": "top",
        "block": "blocks.6",
        "learning_rate": 5e-5,
    }
    losses = pd.read_csv(tmp_path / "losses.csv")
    assert losses.groupby("series").size().to_dict() == {"top, training": 2, "top, validation": 3}


def test_the_range_tests_of_all_phases_are_in_one_table_and_a_given_rate_is_one_row(tmp_path: Path) -> None:
    write_training_plots(tmp_path, {}, TESTS)
    table = pd.read_csv(tmp_path / "range_tests.csv")
    assert table["phase"].tolist() == ["top", "top", "mid"]
    assert table[table["chosen"] == 1]["rate"].tolist() == [1e-4, 2e-4]
    assert table["smoothed"].isna().tolist() == [False, False, True]


def test_two_classes_give_one_curve_and_none_gives_only_a_header(tmp_path: Path) -> None:
    write_test_plots(tmp_path, np.array([0, 1]), np.array([[0.6, 0.4], [0.3, 0.7]]), ["a", "b"])
    write_training_plots(tmp_path, {}, {})
    assert set(pd.read_csv(tmp_path / "roc.csv")["series"]) == {"b"}
    assert (tmp_path / "losses.csv").read_text(encoding="utf-8") == "epoch,series,phase,loss\n"
    write_test_plots(tmp_path, np.array([1, 1]), np.array([[0.6, 0.4], [0.3, 0.7]]), ["a", "b"])
    assert (tmp_path / "roc.csv").read_text(encoding="utf-8") == "series,false_positive_rate,true_positive_rate\n"


def test_long_curves_are_thinned_and_keep_their_ends(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    score = random.random(5000)
    labels = (random.random(5000) < score).astype(np.int64)
    write_test_plots(tmp_path, labels, np.column_stack([1 - score, score]), ["a", "b"])
    roc = pd.read_csv(tmp_path / "roc.csv")
    assert len(roc) == MAX_POINTS
    assert roc.iloc[0].tolist()[1:] == [0, 0]
    assert roc.iloc[-1].tolist()[1:] == [1, 1]
    area = float(np.trapezoid(roc["true_positive_rate"], roc["false_positive_rate"]))
    expected = classification_metrics(labels, np.column_stack([1 - score, score]))["roc_auc"]
    assert area == pytest.approx(expected, abs=1e-3)


def test_the_wrong_number_of_class_names_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="3 class names for 2"):
        write_test_plots(tmp_path, np.array([0]), np.array([[0.6, 0.4]]), ["a", "b", "c"])


@pytest.mark.parametrize("name", ["counts", "epochs", "range", "rates", "reliability", "series"])
def test_a_template_is_json_with_every_anchor_that_dvc_fills(name: str) -> None:
    text = (ROOT / f".dvc/plots/{name}.json").read_text(encoding="utf-8")
    template = json.loads(text)
    assert template["data"] == {"values": "<DVC_METRIC_DATA>"}
    assert template["title"]["text"] == "<DVC_METRIC_TITLE>"
    for anchor in ("X", "Y", "X_LABEL", "Y_LABEL"):
        assert f'"<DVC_METRIC_{anchor}>"' in text


def test_the_worst_images_come_least_likely_label_first_with_their_names(tmp_path: Path) -> None:
    images = tiny.packed(12, classes=3)
    rows, labels = np.arange(5), images.labels(np.arange(5))
    chances = np.full((5, 3), 0.25) + 0.25 * np.eye(3)[[0, 2, 2, 1, 0]]
    assert worst_first(chances, labels, ["b", "a", "c", "e", "d"]).tolist() == [1, 4, 3, 0, 2]
    write_worst(tmp_path / "worst.svg", images, rows, labels, chances)
    sheet, cells = _sheet(tmp_path / "worst.svg")
    assert (sheet.get("width"), sheet.get("height")) == (str(4 * 200 + 8), str(2 * 252 + 8))
    assert [(cell.get("x"), cell.get("y")) for cell in cells] == [
        *((str(x), "8") for x in (8, 208, 408, 608)),
        ("8", "260"),
    ]
    with Image.open(io.BytesIO(_picture(cells[0]))) as first:
        square = Image.fromarray(images.read(np.array([1]))[0]).resize((192, 192), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(np.asarray(first), np.asarray(square))
    name = Path(str(images.samples["path"].iloc[1])).name
    assert _lines(cells[0]) == [name, f"is {images.classes[1]} (0.250)", f"said {images.classes[2]} (0.500)"]
    written = (tmp_path / "worst.svg").read_bytes()
    write_worst(tmp_path / "worst.svg", images, rows, labels, chances)
    assert (tmp_path / "worst.svg").read_bytes() == written


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Größe Жук 日本.png", "Größe Жук 日本.png"),
        ("日本語" * 80, "日本語日本語…日本語日本語"),
        ("a" * 300 + ".jpeg", "aaaaaaaaaaaa…aaaaaaa.jpeg"),
        ("<b>&\x07\x1b[31m.png", "<b>&\ufffd\ufffd[31m.png"),
    ],
)
def test_a_name_in_any_script_stands_under_its_image(tmp_path: Path, channels: int, name: str, shown: str) -> None:
    images = tiny.packed(3, classes=3, channels=channels, path=[name, "b", "c"])
    write_worst(tmp_path / "worst.svg", images, np.array([0]), np.array([0]), np.array([[0.2, 0.5, 0.3]]))
    sheet, cells = _sheet(tmp_path / "worst.svg")
    assert (sheet.get("width"), sheet.get("height"), len(cells)) == ("208", "260", 1)
    assert _lines(cells[0])[0] == shown
    assert (cells[0].get("width"), cells[0].get("overflow")) == ("192", None), "what is wider than the image is cut off"


def _sheet(path: Path) -> tuple[ET.Element, list[ET.Element]]:
    """Return the root of the worst images' SVG and its cells, an image with its lines each."""
    root = ET.fromstring(path.read_bytes())
    assert root.tag == f"{_SVG}svg"
    return root, root.findall(f"{_SVG}svg")


def _lines(cell: ET.Element) -> list[str | None]:
    return [line.text for line in cell.findall(f"{_SVG}text")]


def _picture(cell: ET.Element) -> bytes:
    (picture,) = cell.findall(f"{_SVG}image")
    return base64.b64decode(picture.attrib["href"].removeprefix("data:image/png;base64,"))


METRICS = Metrics(
    test={"n": 656, "accuracy": 0.871, "accuracy_low": 0.845, "accuracy_high": 0.896},
    majority=tiny.accuracy(0.68),
    head=tiny.accuracy(0.84),
    phases={"top": tiny.accuracy(0.871)},
    final=Choice(phase="top", temperature=1.0),
    verdict=tiny.verdict(),
)
SELECTION = tiny.selection(head={"accuracy": 0.83}, top={"accuracy": 0.88, "chosen": True})


def test_the_summary_holds_majority_head_and_phases_and_marks_the_winner() -> None:
    assert summary_rows(METRICS, SELECTION) == [
        ("majority class", "", "0.680 (0.630 to 0.720)", ""),
        ("head", "0.830", "0.840 (0.790 to 0.880)", ""),
        ("top", "0.880", "0.871 (0.821 to 0.911)", "chosen"),
    ]


def test_the_summary_leads_with_the_verdict_of_the_test_images_and_ends_with_where_to_look_next() -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(summary_table(METRICS, SELECTION))
    text = " ".join(console.export_text().split())
    assert text.startswith(tiny.verdict().sentence)
    assert "0.871 (0.821 to 0.911)" in text
    assert "What the choice was made on, no proof: top is kept." in text
    assert "dvc plots show" in text


def test_each_phase_is_shown_against_the_one_that_it_starts_from() -> None:
    duel = {"reference": "top", "difference": -0.02, "low": -0.05, "high": 0.01, "win_rate": 0.9, "mcnemar_p": 0.21}
    found = {"accuracy": 0.9, "calibrated_log_loss": 0.2, "against_start": duel}
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(selection_table(tiny.selection(mid=found), {}))
    [row] = [line.split() for line in console.export_text().splitlines() if "mid" in line]
    assert row == ["mid", "0.900", "0.200", "-0.020", "-0.050", "to", "0.010", "0.210"]


def test_a_summary_without_its_numbers_says_what_to_run() -> None:
    with pytest.raises(ArtifactError, match=r"metrics.json: phases.top is missing; run `dvc repro`"):
        summary_rows(METRICS.model_copy(update={"phases": {}}), SELECTION)
