"""Where `thaw setup` has DVC keep its tables, which are read by pickle; with the real DVC."""

import os
import pickle
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from thaw.errors import RunError
from thaw.project import site_cache


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of DVC without git, of a user who has no cache yet, and whose machine sets nothing."""
    monkeypatch.delenv(site_cache.VARIABLE, raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for name in ("HOME", "DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    root = tmp_path / "project"
    (root / ".dvc").mkdir(parents=True)
    (root / ".dvc" / "config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    (root / "a.txt").write_text("a\n")
    return root


def _dvc(root: Path, *arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], cwd=root, check=True, capture_output=True, text=True
    ).stdout.strip()


class _Runs:
    """Makes a file when it is read by pickle."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_no_other_user_reaches_the_tables_after_setup_and_they_would_run_code(project: Path, tmp_path: Path) -> None:
    place = tmp_path / "home" / ".cache" / "thaw" / "dvc"
    assert site_cache.keep_private(project) == [f"core.site_cache_dir: set to {place}, which no other user can enter"]
    _dvc(project, "add", "--quiet", "a.txt")
    (table,) = place.glob("repo/*/links/cache.db")
    assert place.stat().st_mode & 0o777 == 0o700
    # DVC opens the folder below to everybody, and runs what is in the table: the folder around it is all that protects.
    assert (place / "repo").stat().st_mode & 0o777 == 0o777
    with sqlite3.connect(table) as connection:
        connection.execute(
            "INSERT INTO Cache(key, raw, store_time, access_time, mode, value) VALUES ('a.txt.dvc', 1, 0, 0, 4, ?)",
            (pickle.dumps(_Runs(tmp_path / "ran")),),
        )
    connection.close()
    _dvc(project, "checkout", "--quiet")
    assert (tmp_path / "ran").is_dir(), "DVC reads no pickle any more: say so in vulnerabilities.toml and in the guide"


def test_run_again_it_changes_nothing_but_a_folder_that_others_can_enter(project: Path) -> None:
    before = os.umask(0)  # a user to whom no file is private
    try:
        site_cache.keep_private(project)
    finally:
        os.umask(before)
    settings, place = (project / ".dvc" / "config.local").read_text(), site_cache.private_folder()
    assert {folder.stat().st_mode & 0o777 for folder in (place, *list(place.parents)[:2])} == {0o700}
    place.chmod(0o777)
    assert site_cache.keep_private(project) == [f"core.site_cache_dir: as it was ({place})"]
    assert (project / ".dvc" / "config.local").read_text() == settings
    assert place.stat().st_mode & 0o777 == 0o700


def test_a_place_of_the_users_own_is_left(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _dvc(project, "config", "core.site_cache_dir", "/srv/tables")
    assert site_cache.keep_private(project)[0].startswith("core.site_cache_dir: /srv/tables is your own, and left")
    monkeypatch.setenv(site_cache.VARIABLE, "/srv/others")
    assert site_cache.keep_private(project)[0].startswith("core.site_cache_dir: as DVC_SITE_CACHE_DIR says")
    assert not site_cache.private_folder().exists()
    assert not (project / ".dvc" / "config.local").exists()


def test_a_folder_that_cannot_be_made_is_one_line(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(project / "a.txt"))
    with pytest.raises(RunError, match=r"cannot be made a folder of yours alone: .*; mend that, or name another"):
        site_cache.keep_private(project)


def test_a_folder_without_dvc_needs_no_tables(tmp_path: Path) -> None:
    assert site_cache.keep_private(tmp_path) == []
