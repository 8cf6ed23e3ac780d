"""`thaw doctor`: which files of a project a kill or a full disk has left torn, and with --fix their mending.

Nothing is deleted: what is torn is moved into a folder of the scratch space, `torn/`, and then what can be had again is
put in its place. A dvc.lock keeps its whole entries; git's last commit has the others.
"""

import csv
import re
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from thaw.config.checks import value_at
from thaw.config.reader import PARAMS_FILE, read_tree
from thaw.data import accepted
from thaw.errors import ArtifactError, ParamsError, RunError
from thaw.pipeline import artifacts, scratch, storage
from thaw.project import torn

_OUTS = ("data/code", "data/prepared", "data/features", "models/*", "models/phases/*", "reports/*")
_SCRATCH = ("cache/*", "checkpoints/*/*", "downloads/*")
_MADE_BY = {".dvc": "`dvc add` makes it", ".csv": "write it again from what was kept"}
_ENTRY = re.compile(r"^  (?P<stage>[^\s#][^\n]*):\n(?:   [^\n]*\n)*", re.MULTILINE)


@dataclass(frozen=True)
class Finding:
    """A file or folder that is torn."""

    path: Path
    reason: str
    remedy: str
    """What --fix does, after what is torn was moved aside."""
    restore: Callable[[Path, Path], str] | None = None
    """Given where it was and where it is now, puts something in its place, and returns what."""

    def mend(self, aside: Path) -> str:
        """Move what is torn below a folder, put it right, and return what was done. Raises: RunError."""
        target = aside / self.path.as_posix().strip("/").replace("/", "-")
        try:
            aside.mkdir(parents=True, exist_ok=True)
            shutil.move(self.path, target)
            done = self.remedy if self.restore is None else self.restore(self.path, target)
        except OSError as error:
            raise RunError(f"{self.path} cannot be mended: {error.strerror}; see to its permissions") from None
        return f"{self.path} {self.reason}: kept as {target}; {done}"


def doctor(*, fix: bool) -> Iterator[str]:
    """Look at a project in the current folder, and yield a line for each finding.

    Raises: RunError if this is no project; ArtifactError if something is torn, and is not to be mended.
    """
    if not Path("dvc.yaml").is_file():
        raise RunError(f"{Path.cwd()} has no dvc.yaml, so it is no project; run from a project's folder")
    aside, count = scratch.folder() / "torn" / time.strftime("%Y%m%d-%H%M%S"), 0
    for finding in _findings():
        count += 1
        yield finding.mend(aside) if fix else f"{finding.path} {finding.reason}; --fix: {finding.remedy}"
    if not count:
        yield "nothing is torn: dvc.lock, .dvc files, DVC's own state, tables, what the stages wrote, and the caches"
    elif not fix:
        raise ArtifactError(f"{count} torn; `thaw doctor --fix` mends that, and keeps what is torn")


def _findings() -> Iterator[Finding]:
    yield from _of_dvc_and_git()
    for pattern in _OUTS:
        yield from _folders(Path(), pattern, "`thaw repro` brings it from DVC's cache, or makes it")
    for pattern in _SCRATCH:
        yield from _folders(scratch.folder(), pattern, "what needs it makes it anew")
    for path in sorted([*scratch.folder().glob("engines/*.json"), *scratch.folder().glob("timings/*.json")]):
        try:
            artifacts.read_json(path)
        except ArtifactError:
            yield Finding(path, "is no JSON", "what needs it makes it anew")


def _of_dvc_and_git() -> Iterator[Finding]:
    for path, reason in torn.found(Path()):
        if path == torn.RWLOCK:
            yield Finding(path, reason, "DVC writes it anew")
        else:
            yield Finding(path, reason, "what is whole of it and in git's last commit takes its place", _restored)
    for path in _tables():
        if (torn_table := _of_table(path.read_bytes())) is not None:
            yield Finding(path, torn_table, "git's last commit takes its place", _restored)
    for path in storage.databases():
        if (damage := _of_database(path)) is not None:
            yield Finding(path.parent, damage, "DVC makes it anew, and hashes files again for it")


def _folders(root: Path, pattern: str, remedy: str) -> Iterator[Finding]:
    """Yield the folders with a manifest, in a state that it does not describe."""
    for path in sorted(root.glob(pattern)):
        if path.name.startswith(".") or not (path / artifacts.MANIFEST).exists():
            continue
        try:
            artifacts.verify(path)
        except ArtifactError as error:
            yield Finding(path, f"is not whole ({str(error).partition(';')[0]})", remedy)


def _restored(path: Path, aside: Path) -> str:
    """Write what can be had of a dvc.lock, a .dvc file or a table; return what that is."""
    committed = _committed(path)
    if path.suffix != ".lock":
        if committed is None:
            return f"git has no whole one; {_MADE_BY.get(path.suffix, 'write it again')}"
        artifacts.write_text(path, committed)
        return "git's last commit had a whole one, which is there now"
    text = aside.read_text(encoding="utf-8", errors="replace")
    here, there = _entries(text, cut=True), _entries(committed or "", cut=False)
    if not here and not there:
        return "no entry of it can be had; `thaw repro` runs the stages, or takes them from the run cache"
    artifacts.write_text(path, "".join(["schema: '2.0'\nstages:\n", *({**there, **here}.values())]))
    return f"{len(here)} whole entries of it and {len(there.keys() - here.keys())} of git's last commit are there now"


def _entries(text: str, *, cut: bool) -> dict[str, str]:
    """Return the valid entries of a dvc.lock, as text by their stages; of one that was `cut` the last may lack outs."""
    found = [(match["stage"], match[0]) for match in _ENTRY.finditer(text)]
    return {stage: entry for stage, entry in (found[:-1] if cut else found) if _is_whole(entry)}


def _is_whole(entry: str) -> bool:
    """Tell an entry that ends with the hash and the size of an out, as DVC writes it."""
    try:
        ((_, body),) = yaml.safe_load(entry).items()
        outs = body.get("outs", [])
        return bool(body["cmd"]) and bool(outs) and all({"path", "md5", "size"} <= out.keys() for out in outs)
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _committed(path: Path) -> str | None:
    """Return a file as git's last commit has it; None if there is none, or it is torn, too."""
    command = ["git", "show", f"HEAD:./{path.as_posix()}"]
    done = subprocess.run(command, capture_output=True, check=False)
    of = _of_table(done.stdout) if path.suffix == ".csv" else torn.of_text(done.stdout, path.name)
    if done.returncode or of is not None:
        return None
    return done.stdout.decode(errors="replace")


def _tables() -> Iterator[Path]:
    """Yield the tables that git keeps: the labels of a project, and the rejections that were accepted."""
    try:
        labels = value_at(read_tree(PARAMS_FILE), "data", "labels")
    except ParamsError:  # `thaw check` says what is wrong with it
        labels = None
    for name in (labels, accepted.FILE):
        if isinstance(name, str) and name.lower().endswith(".csv") and Path(name).is_file():
            yield Path(name)


def _of_table(content: bytes) -> str | None:
    """Return why a CSV is cut short: its last line has not the columns of its first, or there is none."""
    lines = content.splitlines()
    if not lines or b"\0" in content:
        return "is empty" if not lines else "holds zeros in place of text"
    try:
        first, last = (next(csv.reader([line.decode()], strict=True)) for line in (lines[0], lines[-1]))
    except (csv.Error, UnicodeDecodeError, StopIteration):
        return "is cut short in its last line"
    return "is cut short in its last line" if len(first) != len(last) else None


def _of_database(path: Path) -> str | None:
    """Return why a data base of SQLite is torn; None if it is whole, or in use at the moment."""
    try:
        connection = sqlite3.connect(path)
        try:
            said = connection.execute("PRAGMA quick_check").fetchone()[0]
        finally:
            connection.close()
    except sqlite3.OperationalError:
        return None
    except sqlite3.DatabaseError as error:
        return f"is torn ({error})"
    return None if said == "ok" else f"is torn ({said.splitlines()[0]})"
