import fnmatch
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import ROOT
from thaw.errors import ArtifactError
from thaw.pipeline import artifacts


def _folder(path: Path) -> Path:
    with artifacts.new_folder(path) as folder:
        (folder / "a.txt").write_text("alpha")
        (folder / "sub").mkdir()
        (folder / "sub" / "b.bin").write_bytes(bytes(range(256)))
    return path


def test_the_hash_of_a_file_is_what_sha256sum_says(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"thaw" * 1000)
    said = subprocess.run(["sha256sum", str(path)], capture_output=True, text=True, check=True).stdout.split()[0]
    assert artifacts.sha256_of(path) == said


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=6))
def test_equal_mappings_have_equal_digests_in_whatever_order(value: dict[str, int | str]) -> None:
    assert artifacts.digest(value) == artifacts.digest(dict(reversed(value.items())))


def test_a_digest_of_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        artifacts.digest({"loss": float("nan")})


def test_text_replaces_the_old_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "notes.txt"
    artifacts.write_text(path, "old")
    artifacts.write_text(path, "grüße\n")
    assert path.read_text(encoding="utf-8") == "grüße\n"
    assert [entry.name for entry in path.parent.iterdir()] == ["notes.txt"]


def test_json_round_trips_and_never_holds_nan(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    artifacts.write_json(path, {"test": {"accuracy": 0.5, "name": "ä"}})
    assert artifacts.read_json(path) == {"test": {"accuracy": 0.5, "name": "ä"}}
    with pytest.raises(ValueError, match="JSON"):
        artifacts.write_json(path, {"loss": float("inf")})
    assert artifacts.read_json(path)["test"]["accuracy"] == 0.5


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "is missing"),
        (b"{", "cannot be read as JSON"),
        (b"[1]", "holds a list"),
        (b"\xff", "cannot be read as JSON"),
        (b"[" * 100_000, r"cannot be read as JSON \(it is nested too deeply\)"),
        (b'{"a":' * 100_000, r"cannot be read as JSON \(it is nested too deeply\)"),
    ],
)
def test_a_file_that_holds_no_json_object_is_refused(tmp_path: Path, content: bytes | None, expected: str) -> None:
    path = tmp_path / "model.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError, match=expected):
        artifacts.read_json(path)


def test_a_new_folder_has_a_manifest_that_verifies(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "prepared")
    assert artifacts.verify(folder) == artifacts.sha256_of(folder / artifacts.MANIFEST)
    listed = artifacts.read_json(folder / artifacts.MANIFEST)["files"]
    assert listed["sub/b.bin"] == {"bytes": 256, "sha256": artifacts.sha256_of(folder / "sub" / "b.bin")}
    assert [*listed] == ["a.txt", "sub/b.bin"]


def test_two_folders_with_the_same_content_have_the_same_fingerprint(tmp_path: Path) -> None:
    assert artifacts.verify(_folder(tmp_path / "one")) == artifacts.verify(_folder(tmp_path / "two"))


def test_an_empty_folder_verifies(tmp_path: Path) -> None:
    with artifacts.new_folder(tmp_path / "empty"):
        pass
    assert artifacts.verify(tmp_path / "empty")


def test_a_block_that_fails_leaves_the_old_folder_as_it_was(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "prepared")
    before = artifacts.verify(folder)
    with pytest.raises(RuntimeError), artifacts.new_folder(folder) as partial:  # noqa: PT012, the block is what fails
        (partial / "half").write_text("half")
        raise RuntimeError
    assert artifacts.verify(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["prepared"]


def test_what_a_killed_run_left_behind_is_cleared_away(tmp_path: Path) -> None:
    leftover = tmp_path / ".prepared.partial"
    leftover.mkdir()
    (leftover / "old").write_text("old")
    folder = _folder(tmp_path / "prepared")
    assert not (folder / "old").exists()
    assert not leftover.exists()


def test_a_folder_is_never_seen_half_written(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from thaw.pipeline import artifacts\n"
        "with artifacts.new_folder(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'a').write_text('a')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    target = tmp_path / "out"
    done = subprocess.run([sys.executable, "-c", script, str(target)], check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == -9
    assert not target.exists()


_KILLED = """
import os, signal, sys
from pathlib import Path
from thaw.pipeline import artifacts

left, rename = int(sys.argv[2]), Path.rename

def counted(path, target):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return rename(path, target)

Path.rename = counted
artifacts.shutil.rmtree = lambda path: os.kill(os.getpid(), signal.SIGKILL)
with artifacts.new_folder(Path(sys.argv[1])) as folder:
    (folder / "a.txt").write_text("new")
"""


@pytest.mark.parametrize(
    ("renames", "beside", "kept"),
    [
        (0, [".prepared.partial", "prepared"], "old"),
        (1, [".prepared.old.partial", ".prepared.partial"], "old"),
        (2, [".prepared.old.partial", "prepared"], "new"),
    ],
    ids=["before the old is put aside", "between the two renames", "before the old is deleted"],
)
def test_a_kill_at_any_moment_of_a_replacement_leaves_one_of_the_two(
    tmp_path: Path, scratch: Path, renames: int, beside: list[str], kept: str
) -> None:
    folder = tmp_path / "prepared"
    with artifacts.new_folder(folder) as new:
        (new / "a.txt").write_text("old")
    command = [sys.executable, "-c", _KILLED, str(folder), str(renames)]
    assert subprocess.run(command, check=False, cwd=ROOT).returncode == -9
    assert sorted(path.name for path in tmp_path.iterdir() if path != scratch) == beside
    artifacts.put_back(folder)
    assert (folder / "a.txt").read_text() == kept
    assert artifacts.verify(folder)
    with artifacts.new_folder(folder) as new:
        (new / "a.txt").write_text("newer")
    assert sorted(path.name for path in tmp_path.iterdir() if path != scratch) == ["prepared"]


@pytest.mark.parametrize("damage", ["bit", "cut", "longer", "gone", "extra", "manifest", "listing", "entry"])
def test_a_folder_that_was_altered_is_refused_with_the_name_of_the_file(tmp_path: Path, damage: str) -> None:
    folder = _folder(tmp_path / "prepared")
    path, manifest = folder / "sub" / "b.bin", folder / artifacts.MANIFEST
    content = bytearray(path.read_bytes())
    content[7] ^= 1
    actions: dict[str, Callable[[], object]] = {
        "bit": lambda: path.write_bytes(content),
        "cut": lambda: path.write_bytes(content[:100]),
        "longer": lambda: path.write_bytes(content + b"x"),
        "gone": path.unlink,
        "extra": lambda: (folder / "sub" / "c").write_text("c"),
        "manifest": manifest.unlink,
        "listing": lambda: manifest.write_text('{"files": 3}'),
        "entry": lambda: manifest.write_text(json.dumps({"files": {"a.txt": 3, "sub/b.bin": {"bytes": 1}}})),
    }
    actions[damage]()
    named = {"extra": "sub/c", "manifest": "manifest.json", "listing": "manifest.json", "entry": "a.txt"}
    with pytest.raises(ArtifactError, match=named.get(damage, "sub/b.bin")):
        artifacts.verify(folder)


def test_remove_takes_folders_files_and_links_but_not_what_a_link_points_to(tmp_path: Path) -> None:
    kept = _folder(tmp_path / "kept")
    link = tmp_path / "link"
    link.symlink_to(kept)
    artifacts.remove(link)
    assert artifacts.verify(kept)
    assert not os.path.lexists(link)
    artifacts.remove(kept)
    artifacts.remove(kept)
    assert not kept.exists()


_WRITE_AT_ONCE = """
import sys, time
from pathlib import Path
from thaw.pipeline import artifacts

target, number, others = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
target.with_name(f"ready {number}").touch()
while len(list(target.parent.glob("ready *"))) < others:
    time.sleep(0.001)
failed = 0
for _ in range(int(sys.argv[4])):
    try:
        if target.suffix == ".json":
            artifacts.write_json(target, {"by": number * 100})
        else:
            with artifacts.new_folder(target) as folder:
                (folder / "by").write_text(number * 100)
    except OSError as error:
        failed += 1
        print(error, file=sys.stderr)
sys.exit(failed > 0)
"""


def _write_at_once(target: Path, times: int) -> None:
    """Let two processes write one file or folder, both at the same time."""
    command = [sys.executable, "-c", _WRITE_AT_ONCE, str(target)]
    writers = [
        subprocess.Popen([*command, number, "2", str(times)], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for number in ("1", "2")
    ]
    for writer in writers:
        _, said = writer.communicate(timeout=120)
        assert writer.returncode == 0, said


def test_two_processes_that_write_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    target = tmp_path / "key.json"
    _write_at_once(target, 200)
    assert artifacts.read_json(target)["by"] in ("1" * 100, "2" * 100)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.usefixtures("scratch")
def test_two_processes_that_write_one_folder_take_turns(tmp_path: Path) -> None:
    target = tmp_path / "engine"
    _write_at_once(target, 50)
    assert artifacts.verify(target)
    assert (target / "by").read_text() in ("1" * 100, "2" * 100)
    assert not list(tmp_path.glob(".*"))


def test_a_file_has_the_permissions_that_open_would_give_it(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        artifacts.write_text(tmp_path / "a.json", "a")
    finally:
        os.umask(before)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o640


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    artifacts.write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        artifacts.write_text(path, "\udc80")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["notes.txt"]


def test_what_a_killed_run_left_of_a_file_is_cleared_away_and_what_is_being_written_is_not(tmp_path: Path) -> None:
    path = tmp_path / "[notes].json"
    leftover, young, foreign = (tmp_path / f".{name}.partial" for name in ("[notes].json.1", "[notes].json.2", "n.3"))
    for partial in (leftover, young, foreign):
        partial.write_text("half")
    for partial in (leftover, foreign):
        os.utime(partial, (1e9, 1e9))
    artifacts.write_text(path, "whole")
    assert {entry.name for entry in tmp_path.iterdir()} == {path.name, young.name, foreign.name}


def test_names_of_files_that_are_being_written_are_ignored_by_git_and_dvc(root: Path, tmp_path: Path) -> None:
    with artifacts.new_file(tmp_path / "a.json") as partial:
        assert partial.parent == tmp_path
        for name in (".gitignore", ".dvcignore"):
            patterns = (root / name).read_text(encoding="utf-8").splitlines()
            assert any(fnmatch.fnmatch(partial.name, pattern) for pattern in patterns), name
        partial.write_text("{}")


@pytest.mark.usefixtures("scratch")
def test_a_lock_may_be_waited_for_by_its_holder_and_counts_as_held_for_everyone(tmp_path: Path) -> None:
    refused = []

    def ask() -> None:
        try:
            with artifacts.one_at_a_time(tmp_path / "view", wait=False):
                pass
        except BlockingIOError:
            refused.append(threading.current_thread().name)

    with artifacts.one_at_a_time(tmp_path / "view"), artifacts.one_at_a_time(tmp_path / "view"):
        other = threading.Thread(target=ask, name="other")
        other.start()
        other.join()
        ask()
    assert refused == ["other", threading.current_thread().name]
    ask()
    assert len(refused) == 2


def test_a_lock_leaves_no_file_behind_and_none_beside_what_it_guards(scratch: Path, tmp_path: Path) -> None:
    guarded = tmp_path / "models" / "view"
    guarded.parent.mkdir()
    with artifacts.one_at_a_time(guarded):
        assert len(list((scratch / "locks").iterdir())) == 1
        assert not list(guarded.parent.iterdir())
    assert not list((scratch / "locks").iterdir())


@pytest.mark.usefixtures("scratch")
def test_one_process_at_a_time_holds_a_lock_whose_file_comes_and_goes(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from thaw.pipeline import artifacts\n"
        "counter = Path(sys.argv[1])\n"
        "for _ in range(60):\n"
        "    with artifacts.one_at_a_time(counter):\n"
        "        counter.write_text(str(int(counter.read_text()) + 1))\n"
    )
    counter = tmp_path / "counter"
    counter.write_text("0")
    command = [sys.executable, "-c", script, str(counter)]
    writers = [subprocess.Popen(command, cwd=ROOT) for _ in range(3)]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0, 0]
    assert counter.read_text() == "180"


@pytest.mark.usefixtures("scratch")
def test_what_is_in_use_or_was_used_lately_is_not_forgotten(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "engine")
    artifacts.forget(folder, unused_s=60)
    assert artifacts.verify(folder)
    os.utime(folder, (1e9, 1e9))
    script = (
        "import sys; from pathlib import Path; from thaw.pipeline import artifacts\n"
        "artifacts.forget(Path(sys.argv[1]), unused_s=60)\n"
    )
    with artifacts.one_at_a_time(folder):
        subprocess.run([sys.executable, "-c", script, str(folder)], cwd=ROOT, check=True)
    assert artifacts.verify(folder)
    artifacts.forget(folder, unused_s=60)
    assert not folder.exists()
    artifacts.forget(folder, unused_s=60)
