"""A flat folder with its CSV, and a zip, through every stage; `thaw predict` answers the images without labels."""

import contextlib
import csv
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from stages import advise, backbone, evaluate, export, features, head, prepare, report, select, unfreeze
from thaw.cli import app
from thaw.config.reader import read_tree
from thaw.pipeline import code

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ("box", "disc")
NUM_TRAIN, NUM_TEST = 24, 8


def photo(number: int) -> Image.Image:
    """Return an image of 40 by 40 pixels whose hue is that of its class: number % 2."""
    noise = np.random.default_rng(number).integers(0, 100, (40, 40, 3))
    return Image.fromarray((noise + [(0, 0, 140), (140, 0, 0)][number % 2]).astype(np.uint8))


def competition(folder: Path) -> dict[str, object]:
    """Lay out train/*.png, train.csv with ids without extension, and test/*.png without labels."""
    for part, numbers in {"train": range(NUM_TRAIN), "test": range(NUM_TRAIN, NUM_TRAIN + NUM_TEST)}.items():
        (folder / part).mkdir()
        for number in numbers:
            photo(number).save(folder / part / f"{number}.png")
    rows = "".join(f"{number},{CLASSES[number % 2]}\n" for number in range(NUM_TRAIN))
    (folder / "train.csv").write_text(f"id,breed\n{rows}", encoding="utf-8")
    return {"raw": "train", "labels": "train.csv", "columns": {"path": "id", "label": "breed"}}


def zipped(folder: Path) -> dict[str, object]:
    """Lay out the same images in class folders of a zip, below one folder."""
    competition(folder)
    with zipfile.ZipFile(folder / "set.zip", "w") as file:
        for number in range(NUM_TRAIN):
            file.write(folder / "train" / f"{number}.png", f"set/{CLASSES[number % 2]}/{number}.png")
    return {"raw": "set.zip", "labels": "set.zip"}


@pytest.mark.parametrize("layout", [competition, zipped])
def test_a_layout_is_trained_on_and_its_unlabelled_test_is_answered(
    tmp_path: Path, layout: Callable[[Path], dict[str, object]]
) -> None:
    tree = read_tree(ROOT / "params.yaml")
    for name, values in {
        "data": layout(tmp_path),
        "prepare": {"size_px": 32, "val_fraction": 0.2, "test_fraction": 0.2},
        "backbone": {"source": "timm:test_resnet", "sha256": None, "input_px": 32, "pretrained": False},
        "unfreeze": {"phases": {"top": tree["unfreeze"]["phases"]["top"] | {"depth": 1, "epochs": 1, "views": 1}}},
        "select": {"draws": 100, "folds": 1},
        "evaluate": {"draws": 100},
        "compute": {"threads": 1, "workers": 0, "frozen_engine": "torch"},
    }.items():
        tree[name] = tree.get(name, {}) | values
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    code.write(tmp_path / code.FOLDER, code.running())
    with contextlib.chdir(tmp_path), pytest.MonkeyPatch.context() as patch:
        patch.setenv("THAW_SCRATCH", str(tmp_path / ".thaw"))
        patch.setattr(sys, "argv", ["unfreeze", "top"])
        for stage in (prepare, backbone, features, head, advise, unfreeze, select, evaluate, report, export):
            stage.main()
    output = tmp_path / "answers.csv"
    model = str(tmp_path / "models" / "export")
    done = CliRunner().invoke(app, ["predict", str(tmp_path / "test"), "--model", model, "--output", str(output)])
    assert done.exit_code == 0, done.output
    with output.open(encoding="utf-8") as file:
        answers = {int(Path(row["path"]).stem): row["class"] for row in csv.DictReader(file)}
    assert sorted(answers) == list(range(NUM_TRAIN, NUM_TRAIN + NUM_TEST))
    assert np.mean([answers[number] == CLASSES[number % 2] for number in answers]) > 0.7
