"""`thaw labels export`: which rows it writes, which it leaves, and what it refuses."""

import re
from pathlib import Path

import pytest
import yaml

from thaw.cli import app, run_command
from thaw.config.reader import load_params
from thaw.config.schema import DataParams
from thaw.data import listing
from thaw.errors import DataError, RunError, ThawError
from thaw.project.labels import export

CLASSES = {"ok": 2, "crack": 2}


@pytest.fixture
def project(workspace: Path, params_text: str) -> Path:
    """A folder with two images in each of two class folders, and a params.yaml for it."""
    tree = yaml.safe_load(params_text)
    tree["data"] = {"raw": "photos", "labels": "photos"}
    (workspace / "params.yaml").write_text(f"# ours\n{yaml.safe_dump(tree, sort_keys=False)}", encoding="utf-8")
    for label, count in CLASSES.items():
        _add(workspace, *(f"{label}/{number}.png" for number in range(count)))
    return workspace


def _add(root: Path, *names: str) -> None:
    for name in names:
        (root / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "photos" / name).write_bytes(name.encode())


def _data(root: Path) -> DataParams:
    return load_params(root / "params.yaml").data


def test_class_folders_become_rows_sorted_by_path_and_params_name_the_file(project: Path) -> None:
    before = listing.read_data(_data(project))
    lines = list(export(project, None))
    assert (project / "labels.csv").read_bytes() == (
        b"path,label\ncrack/0.png,crack\ncrack/1.png,crack\nok/0.png,ok\nok/1.png,ok\n"
    )
    assert (project / "params.yaml").read_text().startswith("# ours\n")
    assert _data(project) == DataParams(raw="photos", labels="labels.csv")
    assert listing.read_data(_data(project)).table.to_dict("records") == before.table.to_dict("records")
    assert lines[0] == "labels.csv: 4 images of 2 classes; params.yaml: data.labels is labels.csv"


def test_split_folders_and_a_manifest_keep_what_they_say(project: Path) -> None:
    for number, label in enumerate(CLASSES):
        _add(project, f"train/{label}/{number}.png", f"test/{label}/{number}.png")
        for path in (project / "photos" / label).iterdir():
            path.unlink()
        (project / "photos" / label).rmdir()
    list(export(project, Path("given.csv")))
    assert (project / "given.csv").read_text().splitlines()[:2] == ["path,label,split", "test/crack/1.png,crack,test"]
    (project / "photos" / "manifest.csv").write_text("path,label,group\na,x,g\nb,y,\n", encoding="utf-8")
    text = (project / "params.yaml").read_text().replace("labels: given.csv", "labels: photos")
    (project / "params.yaml").write_text(text)
    *_, note, _ = export(project, None)
    assert note == "remove photos/manifest.csv, which says the same, and run `dvc add photos`"
    assert (project / "labels.csv").read_text() == "path,label,group\na,x,g\nb,y,\n"
    with pytest.raises(DataError, match=r"manifest\.csv lists the images, and so does .*labels\.csv"):
        listing.read_data(_data(project))


def test_new_images_get_rows_and_the_others_stay_as_they_were(project: Path) -> None:
    list(export(project, None))
    relabelled = "path,label,confidence\nok/0.png,crack,0.5\nok/1.png,ok,1\ncrack/0.png,crack,1\ncrack/1.png,crack,1\n"
    (project / "labels.csv").write_text(relabelled)
    _add(project, "crack/2.png", "ok/new.png")
    (project / "photos" / "ok" / "1.png").unlink()
    assert list(export(project, None)) == [
        "labels.csv: 2 rows added, 4 left as they were",
        "labels.csv has rows of 1 images that photos lacks (ok/1.png); `dvc pull`, or remove them",
    ]
    assert (project / "labels.csv").read_text() == f"{relabelled}crack/2.png,crack,1.0\nok/new.png,ok,1.0\n"


def test_rows_that_are_sorted_stay_so(project: Path) -> None:
    list(export(project, None))
    _add(project, "crack/00.png")
    list(export(project, None))
    paths = [line.partition(",")[0] for line in (project / "labels.csv").read_text().splitlines()[1:]]
    assert paths == ["crack/0.png", "crack/00.png", "crack/1.png", "ok/0.png", "ok/1.png"]


def test_what_cannot_be_known_or_is_in_the_way_is_said_and_nothing_is_written(project: Path) -> None:
    params = (project / "params.yaml").read_bytes()
    (project / "labels.csv").write_text("mine")
    with pytest.raises(RunError, match=r"^labels\.csv is there already; give another --output, or set data\.labels"):
        list(export(project, None))
    assert ((project / "labels.csv").read_text(), (project / "params.yaml").read_bytes()) == ("mine", params)
    (project / "labels.csv").unlink()
    list(export(project, None))
    with pytest.raises(RunError, match=r"^data\.labels is labels\.csv; leave --output out, or rename the file"):
        list(export(project, Path("other.csv")))
    before = (project / "labels.csv").read_bytes()
    _add(project, "loose.png")
    with pytest.raises(DataError, match=r"^photos has files in no class folder \(loose\.png\); write their rows into"):
        list(export(project, None))
    assert (project / "labels.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda root: (root / "photos/ok/1.png").unlink(), "labels.csv names 1 images that photos lacks (ok/1.png); "),
        (
            lambda root: _add(root, "ok/7.png"),
            "photos holds 1 files that labels.csv does not name (ok/7.png); add a row for each (`thaw labels export` ",
        ),
        (
            lambda root: (root / "labels.csv").unlink(),
            "params.yaml: data.labels is labels.csv, which is no file; run `thaw labels export`, which writes the ",
        ),
        (
            lambda root: (root / "labels.csv").write_text("path,label\n../x.png,ok\n"),
            "labels.csv: path '../x.png' leads out of photos; write paths relative to that folder",
        ),
        (
            lambda root: (root / "labels.csv").write_text("path,label\n<<<<<<< ours\nok/1.png,ok\n"),
            "labels.csv: line 2 is `<<<<<<< ours`, a conflict of git; resolve it, and run `dvc repro`",
        ),
    ],
)
def test_a_file_of_labels_and_its_folder_must_name_the_same_images(project: Path, damage: object, says: str) -> None:
    list(export(project, None))
    assert callable(damage)
    damage(project)
    with pytest.raises(ThawError, match=f"^{re.escape(says)}"):
        listing.read_data(_data(project))


def test_hidden_files_need_no_row(project: Path) -> None:
    list(export(project, None))
    _add(project, ".DS_Store", "ok/.hidden.png", "Thumbs.db")
    assert len(listing.read_data(_data(project)).table) == 4


def test_the_command_prints_what_it_did(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        run_command(lambda: app(["labels", "export"]))
    assert left.value.code == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        "next: `git add labels.csv params.yaml`; a new image needs a row, which `thaw labels export` adds"
    )
