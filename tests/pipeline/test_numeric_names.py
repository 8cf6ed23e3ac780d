"""Classes and groups whose names read as numbers or as nothing, through every stage and `predict`."""

import contextlib
import csv
import json
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from stages import advise, backbone, evaluate, export, features, head, prepare, report, select, unfreeze
from thaw.cli import app
from thaw.config.reader import read_tree
from thaw.pipeline import artifacts, code, tables
from thaw.training import model

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ("0.10", "00000", "007", "1e5", "7")
GROUPS = ("007", "7", "NA", "None", "1.0", "")
IMAGES_A_CLASS = 12


def photo(number: int, kind: int) -> Image.Image:
    """Return an image of 40 by 40 pixels whose hue is that of its class."""
    noise = np.random.default_rng(number).integers(0, 80, (40, 40, 3))
    hue = [80 * (kind // 3**channel % 3) for channel in range(3)]
    return Image.fromarray((noise + hue).astype(np.uint8))


def write_images(raw: Path) -> None:
    rows = ["path,label,group"]
    for number in range(IMAGES_A_CLASS * len(CLASSES)):
        kind, group = number % len(CLASSES), GROUPS[number % len(GROUPS)] if number < 36 else ""
        path = raw / CLASSES[kind] / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo(number, kind).save(path)
        # A group of its own for each class, or it would tie the classes into one split.
        rows.append(f"{path.relative_to(raw)},{CLASSES[kind]},{group and group + '0' * kind}")
    (raw / "manifest.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all stages have run."""
    folder = tmp_path_factory.mktemp("names")
    tree = read_tree(ROOT / "params.yaml")
    top = tree["unfreeze"]["phases"]["top"] | {"depth": 1, "epochs": 2, "views": 2, "batch_size": 16}
    for name, values in {
        "data": {"raw": "raw", "labels": "raw"},
        "prepare": {"size_px": 32, "val_fraction": 0.2, "test_fraction": 0.2},
        "backbone": {"source": "timm:test_resnet", "sha256": None, "input_px": 32, "pretrained": False},
        "unfreeze": {"phases": {"top": top}},
        "select": {"draws": 100, "folds": 2},
        "evaluate": {"draws": 100},
        "compute": {"threads": 1, "workers": 0, "frozen_engine": "torch"},
    }.items():
        tree[name] = tree.get(name, {}) | values
    (folder / "params.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    write_images(folder / "raw")
    code.write(folder / code.FOLDER, code.running())
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setenv("THAW_SCRATCH", str(folder / ".thaw"))
        patch.setattr(sys, "argv", ["unfreeze", "top"])
        for stage in (prepare, backbone, features, head, advise, unfreeze, select, evaluate, report, export):
            stage.main()
    return folder


def test_the_model_and_the_metrics_name_the_classes_as_the_folders_do(finished: Path) -> None:
    assert model.load(finished / "models" / "final").classes == list(CLASSES)
    assert list(artifacts.read_json(finished / "reports" / "classes.json")) == list(CLASSES)


def test_labels_groups_and_predictions_are_read_back_as_they_were_written(finished: Path) -> None:
    samples = tables.read(finished / "data" / "prepared" / "samples.csv")
    assert set(samples["label"]) == set(CLASSES)
    with (finished / "raw" / "manifest.csv").open(encoding="utf-8") as file:
        wanted = {row["path"]: row["group"] for row in csv.DictReader(file)}
    assert dict(zip(samples["path"], samples["group"], strict=True)) == wanted
    predictions = tables.read(finished / "reports" / "predictions.csv")
    assert set(predictions["label"]) == set(CLASSES)
    assert set(predictions["predicted"]) <= set(CLASSES)


def test_the_plots_name_the_classes_as_the_folders_do(finished: Path) -> None:
    plots = finished / "reports" / "plots"
    assert set(tables.read(plots / "confusion.csv")["actual"]) == set(CLASSES)
    assert set(tables.read(plots / "roc.csv")["series"]) == set(CLASSES)
    assert set(tables.read(plots / "precision_recall.csv")["series"]) == set(CLASSES)


def test_the_page_and_the_card_name_every_class(finished: Path) -> None:
    page = (finished / "reports" / "index.html").read_text(encoding="utf-8")
    card = (finished / "models" / "export" / "README.md").read_text(encoding="utf-8")
    for name in CLASSES:
        assert name in page
        assert name in card
    viewer = re.search(r'id="viewer-data">(.*?)</script>', page, re.DOTALL)
    assert viewer
    assert json.loads(viewer[1])["classes"] == list(CLASSES)


def test_predict_names_the_classes_as_the_folders_do(finished: Path, tmp_path: Path) -> None:
    output = tmp_path / "answers.csv"
    images = [str(finished / "raw" / name) for name in CLASSES]
    export_folder = str(finished / "models" / "export")
    done = CliRunner().invoke(app, ["predict", *images, "--model", export_folder, "--output", str(output)])
    assert done.exit_code == 0, done.output
    with output.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == IMAGES_A_CLASS * len(CLASSES)
    assert {row["class"] for row in rows} <= set(CLASSES)
    assert np.mean([row["class"] == Path(row["path"]).parent.name for row in rows]) > 0.5


def test_every_column_of_every_table_is_text_or_numbers_as_it_was_written(finished: Path) -> None:
    paths = sorted(
        path for path in finished.rglob("*.csv") if path.name != "manifest.csv" and ".thaw" not in path.parts
    )
    assert {"samples.csv", "rejected.csv", "predictions.csv", "curves.csv", "confusion.csv", "losses.csv"} <= {
        path.name for path in paths
    }
    for path in paths:
        table, text = tables.read(path), pd.read_csv(path, dtype=str, keep_default_na=False)
        for name in set(table.columns) & tables.TEXT:
            assert table[name].tolist() == text[name].tolist(), f"{path}: {name}"
