"""What `dvc repro` would hang on, die of, run or obey: `thaw repro` refuses it first, .dvcignore hides it from DVC."""

import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from dvc.ignore import DvcIgnorePatterns
from typer.testing import CliRunner

from tests.pipeline.clone import wait_for
from tests.pipeline.toy import write_toy
from thaw.cli import app
from thaw.config.reader import read_tree
from thaw.errors import ArtifactError, DataError, ParamsError
from thaw.project import before_dvc, ignoring
from thaw.project.params_text import with_value

IMAGES = Path("data", "images")
# Its out lies in what `prepare` depends on, so DVC takes the stage for one that comes before that.
_EVIL = "stages:\n  evil:\n    cmd: touch x.txt {canary}\n    outs: [x.txt]\n"


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: the files of a project, on which no command of DVC has run."""
    write_toy(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def set_raw(raw: str, key: str = "data.raw") -> None:
    text = with_value(Path("params.yaml").read_text(), key, raw)
    Path("params.yaml").write_text(with_value(text, "data.labels", raw) if key == "data.raw" else text)


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(os.fspath(path))


REFUSED: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "pipe": ("x.jpg", os.mkfifo, "is a pipe, whose end a reader waits for, and no file; move it out of the data"),
    "socket": ("x.jpg", bind, "is a socket, and no file; move it out of the data, or delete it"),
    "device": ("x.jpg", lambda path: path.symlink_to("/dev/zero"), "is a device, and no file; move it out of the data"),
    "broken link": ("x.jpg", lambda path: path.symlink_to("no"), "is a link to no, which does not exist; delete it"),
    "loop": (
        "x.jpg",
        lambda path: path.symlink_to("x.jpg"),
        r"is a link that cannot be followed \(Too many levels of ",
    ),
    "bytes": ("\udcff.jpg", Path.touch, "has a name that is not valid UTF-8, which DVC cannot record; rename it"),
    "dvc.yaml": ("dvc.yaml", Path.touch, "has stages that `dvc repro` would run, and only the project's own files may"),
    ".dvc file": ("cat.dvc", Path.touch, "makes DVC bring or write files, and only the project's own files may; move"),
    ".dvcignore": (".dvcignore", Path.touch, "hides files from DVC, so that a change of them would go unnoticed"),
    ".dvc folder": (
        ".dvc",
        Path.mkdir,
        "makes DVC leave out the folder that it is in, so that a change there would go",
    ),
}


@pytest.mark.parametrize(("name", "put", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_dvc_cannot_take_is_one_line_with_file_and_reason(
    toy: Path, name: str, put: Callable[[Path], object], reason: str
) -> None:
    before_dvc.check()
    (IMAGES / "cat" / ".deep").mkdir()
    put(IMAGES / "cat" / ".deep" / name)
    with pytest.raises(DataError, match=reason) as caught:
        before_dvc.check()
    assert str(caught.value).startswith(f"data/images/cat/.deep/{name}".replace("\udcff", "\\xff"))
    assert "\n" not in str(caught.value)


def test_a_sweep_looks_as_well_before_its_first_trial(toy: Path) -> None:
    os.mkfifo(IMAGES / "x.jpg")
    ran = CliRunner().invoke(app, ["sweep", "seed=0,1"])
    assert ran.exit_code == 1
    assert "is a pipe, whose end a reader waits for" in str(ran.exception or ran.output)


def test_links_that_lead_to_files_and_folders_are_left_to_prepare(toy: Path) -> None:
    (IMAGES / "cat" / "3.jpg").symlink_to("1.jpg")
    (IMAGES / "cat" / "up").symlink_to("..")
    before_dvc.check()


def test_many_findings_are_told_in_part(toy: Path) -> None:
    for number in range(20):
        (IMAGES / "dog" / f"{number:02d}.dvc").touch()
    with pytest.raises(DataError) as caught:
        before_dvc.check()
    lines = str(caught.value).splitlines()
    assert [line.partition(" ")[0] for line in lines[:5]] == [
        f"data/images/dog/{number:02d}.dvc" for number in range(5)
    ]
    assert lines[5:] == ["and there is more of the kind; run this again once these are gone"]


def test_images_that_are_not_there_yet_are_left_to_dvc_and_a_pipe_in_their_place_is_not(toy: Path) -> None:
    IMAGES.rename("data/elsewhere")
    before_dvc.check()
    os.mkfifo(IMAGES)
    with pytest.raises(DataError, match=r"^data/images is a pipe"):
        before_dvc.check()


def test_a_model_that_is_named_by_its_folder_is_data_too(toy: Path) -> None:
    Path("parents/cars").mkdir(parents=True)
    Path("parents/cars/dvc.yaml").touch()
    before_dvc.check()
    set_raw("model:parents/cars", "backbone.source")
    with pytest.raises(DataError, match=r"^parents/cars/dvc.yaml has stages that `dvc repro` would run"):
        before_dvc.check()


def test_a_pipe_in_the_place_of_the_labels_is_refused(toy: Path) -> None:
    os.mkfifo("labels.csv")
    text = with_value(Path("params.yaml").read_text(), "data.labels", "labels.csv")
    Path("params.yaml").write_text(text)
    with pytest.raises(DataError, match=r"^labels\.csv is a pipe"):
        before_dvc.check()


def test_the_folder_of_the_sample_keeps_its_own_stage_and_no_other(toy: Path) -> None:
    Path("data/sample/images/cat").mkdir(parents=True)
    Path("data/sample/dvc.yaml").write_text("stages: {}\n")
    set_raw("data/sample")
    before_dvc.check()
    ignoring.add(toy)
    ignoring.check(toy, {"data": {"raw": "data/sample"}})
    assert not ignored("data/sample/dvc.yaml")
    assert ignored("data/sample/images/dvc.yaml")
    Path("data/sample/images/cat/dvc.yaml").touch()
    with pytest.raises(DataError, match=r"^data/sample/images/cat/dvc\.yaml has stages"):
        before_dvc.check()


def test_of_a_csv_the_folders_of_its_images_are_data_and_those_above_may_track_others(toy: Path) -> None:
    Path("data/list.csv").write_text("path,label\nimages/cat/1.jpg,cat\nimages/dog/1.jpg,dog\n")
    Path("data/images.dvc").write_text("outs:\n- path: images\n")
    Path("data/sample").mkdir()
    Path("data/sample/dvc.yaml").write_text("stages: {}\n")
    set_raw("data/list.csv")
    before_dvc.check()
    for evil in ("data/dvc.yaml", "data/images/dvc.yaml", "data/images/dog/dvc.yaml", "data/images/dog/x.dvc"):
        Path(evil).touch()
        with pytest.raises(DataError, match=f"^{evil} "):
            before_dvc.check()
        Path(evil).unlink()
    Path("data/list.csv").unlink()
    os.mkfifo("data/list.csv")
    with pytest.raises(DataError, match=r"^data/list\.csv is no regular file"):
        before_dvc.check()


def test_of_an_archive_only_its_own_kind_is_looked_at(toy: Path) -> None:
    set_raw("data/pets.zip")
    before_dvc.check()  # it may not be there yet
    with zipfile.ZipFile("data/pets.zip", "w") as file:
        file.writestr("cat/dvc.yaml", _EVIL)  # within an archive DVC sees nothing
    before_dvc.check()
    assert not [line for line in ignoring.rules(read_tree(Path("params.yaml"))) if "pets" in line]
    Path("data/pets.zip").write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"^data/pets.zip is called an archive and is none"):
        before_dvc.check()
    Path("data/pets.zip").unlink()
    os.mkfifo("data/pets.zip")
    set_raw("labels.csv", "data.labels")
    with pytest.raises(DataError, match=r"^data/pets.zip is a pipe"):
        before_dvc.check()


def test_params_and_the_state_of_dvc_are_looked_at_first(toy: Path) -> None:
    Path(".dvc/tmp").mkdir()
    for path, text, line in (
        (Path(".dvc/tmp/rwlock"), '{"write": {"/a', r"^\.dvc/tmp/rwlock is cut short; `thaw doctor` says what is lost"),
        (Path("dvc.lock"), "", "^dvc.lock is empty; `thaw doctor` says what is lost, and mends it with --fix"),
    ):
        path.write_text(text)
        with pytest.raises(ArtifactError, match=line):
            before_dvc.check()
    bomb = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9) if n else '1'}]\n" for n in range(9))
    Path("params.yaml").write_text(bomb)
    started = time.process_time()
    with pytest.raises(ParamsError, match="anchors and aliases are not supported"):
        before_dvc.check()
    assert time.process_time() - started < 2
    Path("params.yaml").unlink()
    os.mkfifo("params.yaml")
    with pytest.raises(ParamsError, match=r"^params\.yaml is no regular file"):
        before_dvc.check()


def test_ten_thousand_images_are_looked_at_in_a_fraction_of_a_second(toy: Path) -> None:
    for number in range(10_000):
        os.close(os.open(IMAGES / "cat" / f"many-{number}.jpg", os.O_CREAT))
    started = time.process_time()
    before_dvc.check()
    assert time.process_time() - started < 1


def ignored(path: str) -> bool:
    """Whether DVC's own reading of the .dvcignore of the current folder hides a file."""
    found = DvcIgnorePatterns(Path(".dvcignore").read_text().splitlines(), os.fspath(Path.cwd()), "/")
    folder, _, name = path.rpartition("/")
    return bool(found.matches(os.fspath(Path.cwd() / folder), name))


@pytest.mark.parametrize("raw", ["data/images", "./pictures/", "pics/a[b]* c", "bilder/ä", "my images"])
def test_dvc_sees_no_file_of_its_own_wherever_the_images_lie(toy: Path, raw: str) -> None:
    set_raw(raw)
    tree = {"data": {"raw": raw}}
    if raw != "data/images":
        with pytest.raises(
            ParamsError, match=r"^\.dvcignore has no line /.*/\*\*/dvc\.yaml, so plain .*run `thaw setup`"
        ):
            ignoring.check(toy, tree)
    assert ignoring.add(toy)[0].startswith(".dvcignore: ")
    ignoring.check(toy, tree)
    assert ignoring.add(toy) == [".dvcignore: as it was"]
    folder = os.path.normpath(raw)
    for name in ("dvc.yaml", "x.dvc", ".dvcignore"):
        assert ignored(f"{folder}/{name}")
        assert ignored(f"{folder}/deep/er/{name}")
    assert not ignored(f"{folder}/cat/1.jpg")
    for own in ("dvc.yaml", "data/sample/dvc.yaml", f"{folder}.dvc", f"{folder}x/dvc.yaml"):
        assert not ignored(own)


def test_check_wants_the_lines_that_setup_adds(toy: Path) -> None:
    set_raw("pictures")
    assert isinstance(CliRunner().invoke(app, ["check"]).exception, ParamsError)
    ignoring.add(toy)
    assert CliRunner().invoke(app, ["check"]).exit_code == 0


def test_a_line_that_takes_something_out_again_puts_the_rules_before_it_out_of_force(toy: Path) -> None:
    with (toy / ".dvcignore").open("a") as file:
        file.write("!dvc.yaml\n")
    assert not ignored("data/images/cat/dvc.yaml")
    with pytest.raises(ParamsError, match="has no line /data/images/"):
        ignoring.check(toy, {"data": {"raw": "data/images"}})
    assert ignoring.add(toy) == [".dvcignore: 3 lines added; commit it, so that every clone has them"]
    assert ignored("data/images/cat/dvc.yaml")


@pytest.mark.parametrize("raw", ["../images", "/srv/images", "/dev/null"])
def test_outside_of_the_project_there_is_nothing_to_hide(toy: Path, raw: str) -> None:
    assert ignoring.rules({"data": {"raw": raw}}) == []


def test_setup_says_why_it_leaves_a_project_whose_params_cannot_be_read(toy: Path) -> None:
    Path("params.yaml").write_text("seed: [")
    assert re.match(r"\.dvcignore: left, since where the data lies cannot be read", ignoring.add(toy)[0])


def hash_as_dvc_defines_it(folder: Path) -> str:
    files = sorted((path.relative_to(folder).as_posix(), path) for path in folder.rglob("*.jpg"))
    entries = [{"md5": hashlib.md5(path.read_bytes()).hexdigest(), "relpath": name} for name, path in files]
    return f"{hashlib.md5(json.dumps(entries, sort_keys=True).encode()).hexdigest()}.dir"


def test_plain_dvc_runs_nothing_from_the_images_and_hashes_them_as_before(tmp_path: Path) -> None:
    clone, canary = write_toy(tmp_path / "toy"), tmp_path / "canary"
    images = clone.root / IMAGES
    (images / "cat" / "dvc.yaml").write_text(_EVIL.format(canary=canary))
    (images / "cat" / ".dvcignore").write_text("!dvc.yaml\n*.jpg\n")
    (images / ".dvcignore").write_text("!dvc.yaml\n")
    clone.succeed("dvc", "repro", "--quiet")
    assert f"md5: {hash_as_dvc_defines_it(images)}" in (clone.root / "dvc.lock").read_text()
    assert not canary.exists()
    lines = (clone.root / ".dvcignore").read_text().splitlines(keepends=True)
    (clone.root / ".dvcignore").write_text("".join(line for line in lines if "/data/" not in line))
    clone.run("dvc", "repro", "--quiet")  # and the canary would have sung
    assert canary.exists()


def test_thaw_repro_becomes_dvc_repro_once_there_is_nothing_to_refuse(tmp_path: Path) -> None:
    clone = write_toy(tmp_path / "toy")
    code, output = clone.run("thaw", "repro", "--no-such-option")
    assert (code, "unrecognized arguments: --no-such-option" in output) == (254, True), output
    (clone.root / "dvc.yaml").write_text("stages:\n  prepare:\n    cmd: touch started && sleep 60\n")
    process = clone.start("thaw", "repro", "--single-item", "prepare")
    wait_for((clone.root / "started").exists, "the stage")
    stage = psutil.Process(process.pid).children(recursive=True)
    assert psutil.Process(process.pid).cmdline()[2:] == ["dvc", "repro", "--single-item", "prepare"]
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == -signal.SIGTERM
    for left in stage:
        with contextlib.suppress(psutil.NoSuchProcess):  # one that ended with its parent
            left.kill()
    assert process.stdout is not None
    process.stdout.close()
