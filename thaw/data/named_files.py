"""The files that a table of images names, as people write paths: with backslashes, without an extension, absolute."""

import posixpath
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath

from thaw.data.places import Place
from thaw.errors import DataError


@dataclass
class _Changes:
    """What was written otherwise than the files are called: the first example of each kind, and how many."""

    first: dict[str, str] = field(default_factory=dict)
    count: dict[str, int] = field(default_factory=dict)

    def add(self, kind: str, text: str, path: str) -> str:
        self.first.setdefault(kind, f"{text} is {path}")
        self.count[kind] = self.count.get(kind, 0) + 1
        return path


def resolve(texts: Sequence[str], folder: Place, source: Path) -> tuple[list[str], list[str]]:
    """Return the path of each file in a folder, with forward slashes, and a line on each kind of change.

    Backslashes, absolute paths that lead into the folder and names without an extension are understood where the file
    is there; a name that fits no file stays, and is rejected when it is read.
    Raises: DataError if a path leads out of it, if an extension can be completed in two ways, or if no file at all
    is found for one cause.
    """
    changes = _Changes()
    found = [_normal(text, folder, source, changes) for text in texts]
    missing = [number for number, path in enumerate(found) if path and not folder.has(path)]
    if missing and folder.files:
        stems = _by(folder, lambda path: path.rpartition(".")[0] or path)
        for number in missing:
            fitting = stems.get(found[number], [])
            if len(fitting) > 1:
                raise DataError(f"{source}: {texts[number]!r} may be {' or '.join(fitting[:3])}; write the extension")
            if fitting:
                found[number] = changes.add("without an extension", texts[number], fitting[0])
        still = [number for number in missing if not folder.has(found[number])]
        if len(still) == len([text for text in texts if text]):
            _name_the_cause([texts[number] for number in still], folder, source)
    lines = [f"{source}: {changes.count[kind]} paths {kind} ({example})" for kind, example in changes.first.items()]
    return found, lines


def _by(folder: Place, key: Callable[[str], str]) -> dict[str, list[str]]:
    """Return the files by what a function makes of their paths."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in folder.files:
        found[key(path)].append(path)
    return found


def _normal(text: str, folder: Place, source: Path, changes: _Changes) -> str:
    """Return a path relative to the folder. Raises: DataError if it leads out of it."""
    if not text:
        return ""
    path = posixpath.normpath(text)
    if folder.has(path) and not path.startswith(("/", "../")) and path != "..":
        return path
    windows = PureWindowsPath(text)
    if "\\" in text and not windows.drive and not text.startswith("\\"):
        return changes.add(
            "with backslashes", text, _inside(posixpath.normpath(windows.as_posix()), text, folder, source)
        )
    if path.startswith("/"):
        for root in (folder.root.absolute(), folder.root.resolve()):
            if PurePosixPath(path).is_relative_to(root):
                return changes.add(
                    "from the root of the system", text, PurePosixPath(path).relative_to(root).as_posix()
                )
    if windows.drive or text.startswith("\\"):
        path = windows.as_posix()
    return _inside(path, text, folder, source)


def _inside(path: str, text: str, folder: Place, source: Path) -> str:
    absolute = path.startswith("/") or bool(PureWindowsPath(path).drive)
    if not absolute and not path.startswith("../") and path != "..":
        return path
    parts = PurePosixPath(path).parts
    tails = ("/".join(parts[start:]) for start in range(1, len(parts))) if absolute else iter(())
    here = next((tail for tail in tails if ".." not in tail and folder.has(tail)), None)
    hint = f" ({here} is there)" if here else ""
    raise DataError(f"{source}: path {text!r} leads out of {folder.root}{hint}; write paths relative to that folder")


def _name_the_cause(texts: Sequence[str], folder: Place, source: Path) -> None:
    """Raises: DataError if none of the paths is there, but all are once blanks, case or folders are as in the names."""
    causes: dict[str, tuple[Callable[[str], str], dict[str, list[str]]]] = {
        "begin or end with blanks": (str.strip, _by(folder, str)),
        "have other capitals than the files": (str.casefold, _by(folder, str.casefold)),
        "lack the folder that the files are in": (str, _by(folder, posixpath.basename)),
    }
    for cause, (change, files) in causes.items():
        changed = [files.get(change(text), []) for text in texts]
        if all(changed):
            raise DataError(
                f"{source}: all {len(texts)} paths {cause} ({texts[0]!r} is {changed[0][0]!r}); mend them in the table"
            )
