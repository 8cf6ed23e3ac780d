"""What .dvcignore keeps DVC from running or obeying in the data of others, wherever params.yaml says that it lies.

`dvc repro` runs the stages of every dvc.yaml below the project's folder, brings what .dvc files there say, and reads
every .dvcignore. Three lines for each folder of data hide those from it, and from the hash of the folder.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from thaw.config.reader import PARAMS_FILE, read_tree
from thaw.errors import ParamsError, RunError
from thaw.project import data_places

FILE = ".dvcignore"
_NAMES = ("dvc.yaml", "*.dvc", ".dvcignore")
_UNSAFE = re.compile(r"[^\w./@+,=%~-]")
_TITLE = (
    "\n# What is never DVC's to run or to obey, for where params.yaml says that data lies: `thaw setup` adds these.\n"
)


def rules(tree: Mapping[str, object]) -> list[str]:
    """Return the lines that a tree of params asks for; none for data outside of the project, where DVC does not look.

    What a pattern could take for something else becomes `?`, which stands for any character.
    """
    folders = [path for path in data_places.of(tree).whole if data_places.inside(path)]
    patterns = [f"/{_UNSAFE.sub('?', folder.as_posix())}/{_below(folder)}" for folder in folders]
    return [f"{pattern}{name}" for pattern in patterns for name in _NAMES]


def _below(folder: Path) -> str:
    """Return what stands for every folder below one; where a dvc.yaml of ours lies, its own files are left."""
    return "*/**/" if any(folder == Path(own).parent for own in data_places.OWN) else "**/"


def check(root: Path, tree: Mapping[str, object]) -> None:
    """Raises: ParamsError if the .dvcignore of a project lacks a line for the data that params.yaml names."""
    if not (root / ".dvc").is_dir():
        return
    if missing := _missing(root, tree):
        folder = missing[0].partition("/**/")[0].removeprefix("/").removesuffix("/*")
        raise ParamsError(
            f"{FILE} has no line {missing[0]}, so plain `dvc repro` would obey such a file in {folder}; run "
            "`thaw setup`, which adds what is missing"
        )


def add(root: Path) -> list[str]:
    """Append the lines that the .dvcignore of a project lacks; return what was done, a line if there are params."""
    if not (root / PARAMS_FILE).is_file():
        return []
    try:
        missing = _missing(root, read_tree(root / PARAMS_FILE))
    except ParamsError as error:
        return [f"{FILE}: left, since where the data lies cannot be read ({error})"]
    if not missing:
        return [f"{FILE}: as it was"]
    path = root / FILE
    try:
        present = path.read_text(encoding="utf-8") if path.exists() else ""
        path.write_text(
            "".join([present.rstrip("\n"), "\n", _TITLE, *(f"{line}\n" for line in missing)]), encoding="utf-8"
        )
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror}; mend that, and run `thaw setup` again") from None
    return [f"{FILE}: {len(missing)} lines added; commit it, so that every clone has them"]


def _missing(root: Path, tree: Mapping[str, object]) -> list[str]:
    """Return the lines that are not in force: not there, or before a line that takes something out again."""
    path = root / FILE
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    last = max((number for number, line in enumerate(lines) if line.startswith("!")), default=-1)
    return [line for line in rules(tree) if line not in lines[last + 1 :]]
