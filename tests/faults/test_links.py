"""Symbolic links among the images, through the real stage: into DVC's cache and as allowed, and no further."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.preparing import change, prepare, refused, rejected, samples
from thaw.pipeline import dvc_cache
from thaw.project import before_dvc


def configure(pets: Path, file: str, text: str) -> None:
    (pets / ".dvc").mkdir(exist_ok=True)
    (pets / ".dvc" / file).write_text(text, encoding="utf-8")


def into_cache(pets: Path, cache: Path) -> None:
    """Put links into a cache in the place of all images, as DVC lays them out."""
    for path in sorted((pets / "raw").rglob("*.png")):
        name = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        target = cache / "files" / "md5" / name[:2] / name[2:]
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
        path.symlink_to(target)


@pytest.mark.parametrize(
    ("file", "text", "place"),
    [
        ("config", "", ".dvc/cache"),
        ("config", "[core]\n    remote = x\n['remote \"x\"']\n    url = /y\n[cache]\n    dir = ../kept\n", "kept"),
        ("config.local", "[cache]\n    type = symlink\n    dir = {away}\n", "{away}"),
        ("config.local", '[cache]\n    dir = "{away}"\n', "{away}"),
    ],
    ids=["usual", "beside", "absolute", "in quotes"],
)
@pytest.mark.parametrize("workers", [0, 2])
def test_links_into_the_cache_of_dvc_are_followed(
    pets: Path, tmp_path_factory: pytest.TempPathFactory, file: str, text: str, place: str, workers: int
) -> None:
    away = tmp_path_factory.mktemp("away")
    configure(pets, "config", "[cache]\n    dir = nowhere\n" if file == "config.local" else "")
    configure(pets, file, text.format(away=away))
    into_cache(pets, pets / place.format(away=away))
    change(pets, "compute", workers=workers)
    assert prepare(pets)[0] == 0
    assert rejected(pets) == {}
    assert len(samples(pets)) == 40


def test_what_lies_in_the_cache_and_is_no_object_is_not_followed(pets: Path) -> None:
    configure(pets, "config", "[cache]\n    dir = /\n")
    (pets / "raw" / "cat" / "passwd.png").symlink_to("/etc/passwd")
    assert prepare(pets)[0] == 0
    assert rejected(pets) == {
        "cat/passwd.png": "symbolic link to outside of the data folder; name the folder that it leads to in "
        "data.allow_links, or bring the file"
    }


def test_links_into_a_folder_that_is_allowed_are_followed_and_others_are_not(
    pets: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    away, elsewhere = tmp_path_factory.mktemp("away"), tmp_path_factory.mktemp("elsewhere")
    for number, path in enumerate(sorted((pets / "raw").rglob("*.png"))):
        target = (elsewhere if number == 0 else away) / f"{number}.png"
        path.rename(target)
        path.symlink_to(target)
    line = refused(pets)
    assert line.startswith("none of the 40 files in raw can be used (cat/00.png: symbolic link to outside of the data")
    assert "name the folder that it leads to in data.allow_links" in line
    change(pets, "data", allow_links=[str(away)])
    assert prepare(pets)[0] == 0
    assert list(rejected(pets)) == ["cat/00.png"]
    change(pets, "data", allow_links=[str(away), "nowhere"])
    assert refused_again(pets) == (
        "params.yaml: data.allow_links names nowhere, which is no folder; correct it, or remove it"
    )


def refused_again(pets: Path) -> str:
    code, line = prepare(pets)
    assert code == 1
    return line


def test_a_data_folder_that_is_a_link_itself_is_read(pets: Path) -> None:
    (pets / "raw").rename(pets / "kept")
    (pets / "raw").symlink_to("kept")
    assert prepare(pets)[0] == 0
    assert len(samples(pets)) == 40


def test_an_object_that_the_cache_lacks_is_to_be_pulled(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(pets, "config", "")
    into_cache(pets, pets / ".dvc" / "cache")
    Path(os.path.realpath(pets / "raw" / "cat" / "00.png")).unlink()
    assert prepare(pets)[0] == 0
    assert rejected(pets) == {"cat/00.png": "symbolic link to an object that DVC's cache lacks; bring it: `dvc pull`"}
    monkeypatch.chdir(pets)
    (line,) = before_dvc._below(Path("raw"))
    assert line == "raw/cat/00.png is a link to an object that DVC's cache lacks; bring it: `dvc pull`"


def test_a_project_within_a_repository_has_the_cache_of_that(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (pets / ".dvc").mkdir()
    (pets / "inner").mkdir()
    monkeypatch.chdir(pets / "inner")
    assert dvc_cache.folder() == Path(os.path.realpath(pets / ".dvc" / "cache"))


def test_dvc_itself_lays_out_links_that_are_followed(pets: Path) -> None:
    def dvc(*arguments: str) -> None:
        subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=pets, check=True, capture_output=True)

    dvc("init", "--no-scm", "--quiet")
    dvc("config", "--local", "cache.dir", str(pets / "kept"))
    dvc("config", "cache.type", "symlink")
    dvc("add", "raw", "--quiet")
    assert (pets / "raw" / "cat" / "00.png").is_symlink()
    assert prepare(pets)[0] == 0
    assert rejected(pets) == {}
    assert len(samples(pets)) == 40
