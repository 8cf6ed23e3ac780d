"""`thaw new`: what it lays out, and that nothing is left where it cannot."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.photos import write_photos
from thaw.cli import app, run_command
from thaw.config.reader import load_params
from thaw.errors import BackboneError, DataError, ParamsError, RunError, ThawError
from thaw.pipeline.artifacts import sha256_of
from thaw.pipeline.record import ProjectRecord, refuse_newer
from thaw.project import files
from thaw.project.layout import Wish, new_project
from thaw.version import VERSION


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, in which git and DVC find no settings of the machine's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path.parent / "site"))
    return tmp_path


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def _left(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


def test_a_project_has_all_that_dvc_and_a_team_need(place: Path) -> None:
    photos = write_photos(place / "photos")
    made = new_project(Wish(Path("demo"), images=photos))
    root = place / "demo"
    assert made.root == root
    for name in (
        "dvc.yaml", "params.yaml", "stages/__init__.py", "stages/prepare.py", "data/images.dvc", "data/.gitignore",
        "models/.gitignore", "tests/test_project.py", "README.md", "requirements.txt", ".gitignore", ".dvcignore",
        ".dvc/config", ".dvc/plots/series.json", ".git", ".gitattributes", ".thaw-project.json",
        ".github/workflows/pull-request.yml", ".gitlab-ci.yml", "Dockerfile", ".dockerignore",
    ):  # fmt: skip
        assert (root / name).exists(), name
    assert "/images" in (root / "data" / ".gitignore").read_text().split()
    params = load_params(root / "params.yaml")
    assert (params.data.raw, params.data.labels, params.prepare.value_range) == ("data/images", "data/images", None)
    assert "-- thaw" not in (root / "dvc.yaml").read_text()
    assert not (root / "stages" / "sample.py").exists()
    assert "thaw.project.merging lock" in _git(root, "config", "--local", "merge.thaw-lock.driver")
    assert f"[train]=={VERSION}" in (root / "requirements.txt").read_text()
    assert _left(place) == ["demo", "photos"]


def test_the_copies_are_tracked_by_dvc_and_the_originals_stay_as_they_were(place: Path) -> None:
    photos = write_photos(place / "photos")
    before = {path: (path.stat().st_mode, path.stat().st_nlink, path.read_bytes()) for path in photos.rglob("*.*g")}
    new_project(Wish(Path("demo"), images=photos))
    assert {path: (path.stat().st_mode, path.stat().st_nlink, path.read_bytes()) for path in before} == before
    for path, (_, _, content) in before.items():
        assert (place / "demo" / "data" / "images" / path.relative_to(photos)).read_bytes() == content
    (out,) = yaml.safe_load((place / "demo" / "data" / "images.dvc").read_text())["outs"]
    assert (out["path"], out["nfiles"]) == ("images", len(before))


def test_the_record_has_the_hash_of_every_file_as_it_lies_there(place: Path) -> None:
    new_project(Wish(Path("demo")))
    record = ProjectRecord.read(place / "demo", installed=VERSION)
    assert record.thaw == VERSION
    assert set(record.files) == set(files.project_files())
    for name, sha256 in record.files.items():
        assert sha256_of(place / "demo" / name) == sha256


def test_without_images_their_folder_waits_empty(place: Path) -> None:
    made = new_project(Wish(Path("demo")))
    assert made.seen is None
    assert list((place / "demo" / "data" / "images").iterdir()) == []


def test_what_the_images_and_the_wish_ask_for_is_in_params_yaml(place: Path) -> None:
    photos = write_photos(place / "photos")
    new_project(Wish(Path("demo"), images=photos, backbone="timm:test_resnet", params={"seed": 5}))
    params = load_params(place / "demo" / "params.yaml")
    assert (params.seed, params.backbone.source, params.backbone.sha256) == (5, "timm:test_resnet", None)
    assert params.prepare.size_px == 160, "the network sees 160 px, and the photos have fewer than its 184"
    shipped = files.params_text().splitlines()
    changed = [line for line in (place / "demo" / "params.yaml").read_text().splitlines() if line not in shipped]
    assert {line.strip().split(":")[0] for line in changed} <= {
        "seed",
        "source",
        "raw",
        "labels",
        "size_px",
        "sha256",
        "prepare",
    }


def test_a_manifest_is_copied_beside_the_images_that_it_lists(place: Path) -> None:
    photos = write_photos(place / "photos")
    listed = sorted(path.relative_to(place).as_posix() for path in photos.rglob("*.*g"))[:4]
    frame = pd.DataFrame({"path": listed, "label": ["x", "y", "x", "y"], "group": ["1", "1", "2", "2"]})
    frame.to_csv(place / "list.csv", index=False)
    made = new_project(Wish(Path("demo"), manifest=Path("list.csv")))
    folder = place / "demo" / "data" / "images"
    assert (folder / "manifest.csv").read_bytes() == (place / "list.csv").read_bytes()
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*g")) == listed
    assert made.seen is not None
    assert made.seen.classes == {"x": 2, "y": 2}


def test_a_file_that_cannot_be_read_is_left_out_and_named(place: Path) -> None:
    photos = write_photos(place / "photos")
    (photos / "dark" / "gone.png").symlink_to("nowhere.png")
    made = new_project(Wish(Path("demo"), images=photos))
    assert made.unreadable == ["dark/gone.png: No such file or directory"]
    assert not (place / "demo" / "data" / "images" / "dark" / "gone.png").exists()


def test_an_empty_folder_becomes_the_project(place: Path) -> None:
    (place / "demo").mkdir()
    new_project(Wish(Path("demo")))
    assert (place / "demo" / "dvc.yaml").exists()


def test_a_subdirectory_of_a_larger_repository_gets_dvc_and_no_git(place: Path) -> None:
    _git(place, "init", "--quiet")
    photos = write_photos(place / "photos")
    new_project(Wish(Path("demo"), images=photos, subdir=True))
    assert not (place / "demo" / ".git").exists()
    assert _git(place, "diff", "--cached", "--name-only") == ""
    assert _git(place, "check-attr", "merge", "demo/dvc.lock") == "demo/dvc.lock: merge: thaw-lock\n"
    assert "thaw.project.merging lock" in _git(place, "config", "--local", "merge.thaw-lock.driver")
    status = subprocess.run(
        [sys.executable, "-m", "dvc", "status", "data/images.dvc"], cwd=place / "demo", check=True, capture_output=True
    )
    assert b"up to date" in status.stdout


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"images": "photos"}, RunError, "lies in the git repository"),
        ({"images": "photos", "backbone": "timm:test_resnt"}, BackboneError, "nearest are test_resnet"),
        ({"images": "flat"}, DataError, "holds no class folders with files in them; give each class a folder"),
        ({"images": "nowhere"}, DataError, "--images is nowhere, which is no folder"),
        ({"manifest": "nowhere.csv"}, DataError, "--manifest is nowhere.csv, which is no file"),
        ({"images": "photos", "manifest": "x.csv"}, DataError, "are both given"),
        ({"subdir": True}, RunError, "lies in no git repository; leave it out"),
        ({"target": "a/b/demo"}, RunError, "is not there; make it first"),
        ({"target": "full"}, RunError, "is not empty (notes.txt); give the name of a new folder"),
        ({"target": "full/notes.txt"}, RunError, "is there and is no folder"),
        ({"target": "."}, RunError, "is not empty (flat, full, photos)"),
        ({"params": {"prepare.size_px": 1}}, ParamsError, "prepare.size_px is 1; it must be at least 16"),
    ],
)
def test_what_cannot_become_a_project_is_one_line_and_leaves_nothing(
    place: Path, arguments: dict[str, object], error: type[ThawError], says: str
) -> None:
    write_photos(place / "photos")
    (place / "flat").mkdir()
    shutil.copy(next((place / "photos" / "dark").iterdir()), place / "flat")
    (place / "full").mkdir()
    (place / "full" / "notes.txt").write_text("mine")
    if "lies in the" in says:
        _git(place, "init", "--quiet")
    before = _left(place)
    paths = {key: Path(str(arguments[key])) for key in ("target", "images", "manifest") if key in arguments}
    wish = {"target": Path("demo")} | arguments | paths
    with pytest.raises(error) as raised:
        new_project(Wish(**wish))  # type: ignore[arg-type]  # a table of arguments
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)
    assert _left(place) == before


def test_the_current_folder_is_not_replaced_under_the_shell(place: Path) -> None:
    with pytest.raises(RunError, match="is the current folder, which cannot be replaced; go up, and give its name"):
        new_project(Wish(Path()))
    assert _left(place) == []


def test_without_git_the_line_says_what_to_install(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(place))
    with pytest.raises(RunError, match=r"git is not on PATH, and DVC needs it .* install git"):
        new_project(Wish(Path("demo")))
    assert _left(place) == []


def test_without_permission_to_write_the_line_says_where(place: Path) -> None:
    if os.geteuid():
        parent = place / "locked"
        parent.mkdir(mode=0o500)
    else:
        parent = Path("/sys")  # where not even root may
    with pytest.raises(
        RunError, match=rf"^{parent}/demo was not made: .*({parent}/.demo.partial-\d+).*nothing is left"
    ):
        new_project(Wish(parent / "demo"))
    assert not (parent / "demo").exists()


def _start(place: Path) -> "subprocess.Popen[str]":
    """Start `thaw new` on images in a process of its own, and return it once it is at work."""
    write_photos(place / "photos")
    process = subprocess.Popen(
        [sys.executable, "-m", "thaw", "new", "demo", "--images", "photos"],
        cwd=place,
        env=os.environ | {"PYTHONPATH": str(Path(files.TEMPLATE).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not list(place.glob(".demo.partial-*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return process


def test_an_interrupted_run_leaves_one_line_and_no_folder(place: Path) -> None:
    process = _start(place)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "interrupted; nothing is left of demo\n"
    assert _left(place) == ["photos"]


def test_what_a_killed_run_leaves_is_no_project_and_the_next_run_removes_it(place: Path) -> None:
    process = _start(place)
    process.kill()
    process.communicate(timeout=60)
    assert not (place / "demo").exists()
    assert list(place.glob(".demo.partial-*"))
    new_project(Wish(Path("demo"), images=place / "photos"))
    assert (place / "demo" / "dvc.yaml").exists()
    assert not list(place.glob(".demo.partial-*"))


def test_what_another_run_is_still_writing_is_left_alone(place: Path) -> None:
    other = place / f".demo.partial-{os.getppid()}"
    other.mkdir()
    new_project(Wish(Path("demo")))
    assert other.exists()


def test_a_project_of_a_newer_thaw_is_refused_by_the_stages(place: Path) -> None:
    new_project(Wish(Path("demo")))
    path = place / "demo" / ".thaw-project.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"thaw": "99.0.0", "new_key": 1}))
    with pytest.raises(RunError, match=r"is a project of Thaw 99.0.0, and .* is installed; run `pip install"):
        ProjectRecord.read(place / "demo", installed=VERSION)
    refuse_newer(place)  # what is no project is none of a newer Thaw


def test_the_command_prints_what_was_seen_and_what_comes_next(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(files.TEMPLATE).parents[1]))
    write_photos(place / "photos", images_a_class=8)
    arguments = ["new", "demo", "--images", "photos", "--backbone", "timm:test_resnet"]
    with pytest.raises(SystemExit) as left:
        run_command(lambda: app(arguments))
    printed = capsys.readouterr()
    assert left.value.code == 0, printed.err
    assert printed.out.startswith("photos: 16 images in 2 classes (bright 8, dark 8)\n")
    assert "top: from head" in printed.out, "the plan"
    assert "prepare.size_px 160, backbone.source timm:test_resnet" in printed.out
    after = printed.out[printed.out.index("next:") :].splitlines()
    assert after[1] == "  cd demo"
    assert after[-1].startswith("  thaw repro")
