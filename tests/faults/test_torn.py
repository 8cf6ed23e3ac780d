"""What a kill or a full disk leaves torn: `thaw doctor` names it, and --fix mends it, with nothing lost."""

import subprocess
from pathlib import Path

import pytest
import yaml
from dvc.schema import COMPILED_LOCKFILE_SCHEMA
from typer.testing import CliRunner

from tests.pipeline.clone import Clone
from tests.pipeline.toy import write_toy
from thaw.cli import app
from thaw.errors import ArtifactError, RunError
from thaw.pipeline import artifacts
from thaw.project import torn
from thaw.project.doctor import doctor

_GIT = ("git", "-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false")
_WHOLE = "nothing is torn: dvc.lock, .dvc files, DVC's own state, tables, what the stages wrote, and the caches"


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clone:
    """The current folder: a project, in which commands of DVC and the doctor share what DVC keeps elsewhere."""
    clone = write_toy(tmp_path / "toy")
    monkeypatch.chdir(clone.root)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(clone.root / ".dvc" / "tmp" / "site"))
    return clone


def entry(stage: str, size: int) -> str:
    out = f"    - path: {stage}\n      md5: {'a' * 30}{size:02d}\n      size: {size}\n"
    return f"  {stage}:\n    cmd: run {stage}\n    outs:\n{out}"


def lock(**sizes: int) -> str:
    return "".join(["schema: '2.0'\nstages:\n", *(entry(stage, size) for stage, size in sizes.items())])


def commit(root: Path) -> None:
    for words in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "all"]):
        subprocess.run([*_GIT, *words], cwd=root, check=True)


def kept(root: Path) -> dict[str, bytes]:
    paths = [path for path in (root / ".thaw" / "torn").rglob("*") if path.is_file()]
    return {path.relative_to(root / ".thaw" / "torn").as_posix().partition("/")[2]: path.read_bytes() for path in paths}


def test_a_whole_project_has_nothing_to_mend(toy: Clone) -> None:
    Path("dvc.lock").write_text(lock(prepare=1))
    assert list(doctor(fix=False)) == list(doctor(fix=True)) == [_WHOLE]
    assert CliRunner().invoke(app, ["doctor", "--fix"]).output == f"{_WHOLE}\n"
    assert not Path(".thaw").exists()


def test_where_there_is_no_project_the_doctor_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match=r"has no dvc\.yaml, so it is no project"):
        list(doctor(fix=False))


def test_dvc_works_again_after_its_lock_its_rwlock_and_its_data_bases_were_torn(toy: Clone) -> None:
    toy.succeed("dvc", "repro", "--quiet")
    databases = sorted(Path(".dvc/tmp/site").rglob("cache.db"))
    assert len(databases) == 2
    Path("dvc.lock").write_bytes(b"")
    Path(".dvc/tmp/rwlock").write_text('{"write": {"/a')
    for database in databases:
        database.write_bytes(bytes(range(256)) * 20)
    with pytest.raises(ArtifactError, match=r"^4 torn; `thaw doctor --fix` mends that, and keeps what is torn"):
        list(doctor(fix=False))
    done = list(doctor(fix=True))
    assert done[0].startswith("dvc.lock is empty: kept as ")
    assert done[0].endswith("no entry of it can be had; `thaw repro` runs the stages, or takes them from the run cache")
    assert done[1].startswith(".dvc/tmp/rwlock is cut short: kept as ")
    assert [line.partition(" ")[0] for line in done[2:]] == [str(path.parent.absolute()) for path in databases]
    assert list(doctor(fix=False)) == [_WHOLE]
    assert "is cached - skipping run, checking out outputs" in toy.succeed("dvc", "repro")
    assert (kept(toy.root)["dvc.lock"], kept(toy.root)[".dvc-tmp-rwlock"]) == (b"", b'{"write": {"/a')


def test_a_lock_is_torn_where_dvc_itself_refuses_it() -> None:
    whole = lock(prepare=1, head=2) + "    params:\n      params.yaml:\n        seed: 0\n"
    refused = 0
    for length in range(len(whole) + 1):
        text = whole[:length]
        try:
            COMPILED_LOCKFILE_SCHEMA(yaml.safe_load(text))
            accepted = True
        except Exception:  # noqa: BLE001 - those of YAML, and of the library that DVC checks with
            accepted = False
        # A value that is cut in the middle may be another valid one: DVC takes it, and so does everyone.
        assert (torn.of_text(text.encode(), "dvc.lock") is None) == accepted, text
        refused += not accepted
    assert refused > 30


@pytest.mark.parametrize("entries", [0, 1, 3])
def test_of_a_torn_lock_whole_entries_stay_and_the_last_commit_gives_the_others(toy: Clone, entries: int) -> None:
    Path("dvc.lock").write_text(lock(prepare=1, backbone=2, head=3, export=4))
    commit(toy.root)
    newer = {"prepare": 10, "backbone": 20, "head": 30, "export": 40}
    kept_sizes = dict(list(newer.items())[:entries])
    cut = lock(**kept_sizes) + "  last:\n    cmd: run last\n    outs:\n    - pa"
    Path("dvc.lock").write_text(cut)
    (done,) = doctor(fix=True)
    assert done.endswith(f"; {entries} whole entries of it and {4 - entries} of git's last commit are there now")
    assert Path("dvc.lock").read_text() == lock(**{"prepare": 1, "backbone": 2, "head": 3, "export": 4, **kept_sizes})
    assert kept(toy.root) == {"dvc.lock": cut.encode()}


def test_a_torn_dvc_file_and_a_torn_table_come_from_the_last_commit(toy: Clone) -> None:
    text = Path("params.yaml").read_text().replace("labels: data/images", "labels: labels.csv")
    Path("params.yaml").write_text(text)
    whole = {"labels.csv": "path,label\na.jpg,cat\nb.jpg,dog\n", "data/images.dvc": "outs:\n- path: images\n"}
    for name, content in whole.items():
        Path(name).write_text(content)
    commit(toy.root)
    Path("labels.csv").write_text("path,label\na.jpg,cat\nb.j")
    Path("data/images.dvc").write_text("outs")
    assert [line.partition(": kept")[0] for line in doctor(fix=True)] == [
        "data/images.dvc is cut short: it names no out",
        "labels.csv is cut short in its last line",
    ]
    assert {name: Path(name).read_text() for name in whole} == whole
    assert kept(toy.root) == {"data-images.dvc": b"outs", "labels.csv": b"path,label\na.jpg,cat\nb.j"}


def test_torn_folders_and_caches_are_moved_aside(toy: Clone) -> None:
    folders = [
        Path("data/prepared"),
        Path(".thaw/cache/key"),
        Path(".thaw/checkpoints/key/part-00"),
        Path("models/final"),
    ]
    for folder in folders:
        with artifacts.new_folder(folder) as new:
            (new / "samples.csv").write_text("id,path\n1,a.jpg\n")
    for folder in folders[:3]:
        (folder / "samples.csv").write_text("id,pa")
    Path(".thaw/engines").mkdir()
    Path(".thaw/engines/key.json").write_text("{")
    done = list(doctor(fix=True))
    assert len(done) == 4
    assert done[0].startswith("data/prepared is not whole (data/prepared/samples.csv is not what its manifest says")
    assert artifacts.verify(Path("models/final"))
    assert not any(path.exists() for path in (*folders[:3], Path(".thaw/engines/key.json")))
    assert sum(content == b"id,pa" for content in kept(toy.root).values()) == 3
    assert list(doctor(fix=False)) == [_WHOLE]
