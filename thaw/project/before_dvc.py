"""What DVC would hang on, die of, run or obey among the data of others: found before `dvc repro` is called.

DVC 3.67.1 opens whatever lies in a dep, so a pipe or a device holds it for ever, and a broken link, a loop or a name
that is not UTF-8 ends it with an errno. It runs the stages of every dvc.yaml below the project's folder, and brings or
writes what a .dvc file says; a .dvcignore, and a folder with .dvc in it, hide files from its hashes.
"""

import os
import stat
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from thaw.config.checks import value_at
from thaw.config.reader import PARAMS_FILE, load_params, read_tree
from thaw.data.links import Followed
from thaw.errors import DataError, ParamsError
from thaw.pipeline import dvc_cache
from thaw.project import data_places, torn
from thaw.project.data_places import OWN

_MOST = 5  # findings that are told one by one
_KINDS = (
    (stat.S_ISFIFO, "a pipe, whose end a reader waits for"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_MOVE = "move it out of the data"


def check() -> None:
    """Look at params.yaml, at the state of DVC, and at the data that params.yaml names, in the current folder.

    Raises: ParamsError, ArtifactError or DataError with a line for each finding: the file, the reason, the way out.
    """
    if PARAMS_FILE.exists() and not PARAMS_FILE.is_file():
        raise ParamsError(f"{PARAMS_FILE} is no regular file; restore it with `git checkout -- {PARAMS_FILE}`")
    load_params()
    torn.check(Path())
    tree = read_tree(PARAMS_FILE)
    places, named = data_places.of(tree), {str(value_at(tree, "data", key)) for key in ("raw", "labels")}
    files = [Path(name) for name in sorted(named) if not Path(name).is_dir() and Path(name) not in places.whole]
    findings = (line for path in [*places.whole, *files] for line in _below(path))
    lines = list(islice((line for source in (findings, _in_levels(places.flat)) for line in source), _MOST + 1))
    if len(lines) > _MOST:
        lines[_MOST:] = ["and there is more of the kind; run this again once these are gone"]
    if lines:
        raise DataError("\n".join(lines))


def _in_levels(folders: list[Path]) -> Iterator[str]:
    """Yield what is wrong with the files of folders above images. Their own .dvc files may track other data."""
    for folder in folders:
        for entry in _entries(folder):
            name = Path(entry.path).as_posix()
            if entry.name in ("dvc.yaml", ".dvcignore") and name not in OWN:
                yield _for_dvc(entry.name, name)


def _below(top: Path) -> Iterator[str]:
    """Yield a line for each entry below a folder, or a file itself, that must not be there."""
    if not os.path.lexists(top):
        return  # a stage, or `dvc repro --pull`, brings it
    if (reason := _refused_kind(top)) is not None:
        yield f"{_shown(top)} {reason}"
        return
    pending = [top] if top.is_dir() else []
    while pending:
        for entry in _entries(pending.pop()):
            reason = _reason(entry)
            if reason is not None:
                yield reason
            elif entry.is_dir(follow_symlinks=False):
                pending.append(Path(entry.path))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return the entries of a folder by name. Raises: DataError if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"{_shown(folder)} cannot be read: {error.strerror}; see to its permissions") from None


def _reason(entry: os.DirEntry[str]) -> str | None:
    try:
        entry.name.encode()
    except UnicodeEncodeError:
        return f"{_shown(entry.path)} has a name that is not valid UTF-8, which DVC cannot record; rename it"
    if entry.name in ("dvc.yaml", ".dvcignore") or entry.name.endswith(".dvc"):
        if Path(entry.path).as_posix() in OWN:  # data.raw is data/sample
            return None
        return _for_dvc(entry.name, _shown(entry.path))
    if entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False):
        return None
    reason = _refused_kind(Path(entry.path))
    return None if reason is None else f"{_shown(entry.path)} {reason}"


def _for_dvc(name: str, shown: str) -> str:
    what = {
        "dvc.yaml": "has stages that `dvc repro` would run",
        ".dvcignore": "hides files from DVC, so that a change of them would go unnoticed",
        ".dvc": "makes DVC leave out the folder that it is in, so that a change there would go unnoticed",
    }.get(name, "makes DVC bring or write files")
    return f"{shown} {what}, and only the project's own files may; {_MOVE}, or delete it"


def _refused_kind(path: Path) -> str | None:
    """Return what is wrong with the kind of a path, a link's target included; None for a file and a folder."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if Followed(dvc_cache.folder()).is_object(Path(os.path.realpath(path))):
            return "is a link to an object that DVC's cache lacks; bring it: `dvc pull`"
        return f"is a link to {_shown(path.readlink())}, which does not exist; delete it, or put the file in its place"
    except OSError as error:  # a loop, or a target that may not be looked at
        return f"is a link that cannot be followed ({error.strerror}); delete it, or put the file in its place"
    what = next((words for is_kind, words in _KINDS if is_kind(mode)), None)
    return None if what is None else f"is {what}, and no file; {_MOVE}, or delete it"


def _shown(path: str | Path) -> str:
    """Return a path as text that any terminal takes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
