"""Where data of others lies in a project: the images, and models that params.yaml names by their folders.

A folder that holds images, or a model, is data as a whole. A table names images by their paths: then the folders that
hold them are, and of the folders above those, up to the table's own, only what they hold themselves.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from thaw.config.checks import value_at
from thaw.errors import DataError, ThawError

OWN = ("dvc.yaml", "data/sample/dvc.yaml")
"""Files of a project's own that a folder of a CSV may hold as well."""
_MOST = 20  # folders that are told apart before the one above them stands for all


@dataclass(frozen=True)
class Places:
    """Folders of data, as paths from the project's folder."""

    whole: list[Path]
    """All that is below them is data."""
    flat: list[Path]
    """Their own files may be data, what is below them is not."""


def of(tree: Mapping[str, object]) -> Places:
    """Return the places of data that a tree of params names; what is not there yet counts as well.

    Raises: DataError if data.raw is a table that no text can be read from, as a pipe.
    """
    raw = value_at(tree, "data", "raw")
    whole = [_normal(folder) for folder in _models(tree)]
    if not isinstance(raw, str):
        return Places(whole, [])
    path = Path(_normal(raw))
    if _is_archive(path):
        return Places(whole, [])
    if not raw.lower().endswith(".csv") and not path.is_file():
        return Places([path, *whole], [])
    folders = _folders_of(path, tree)
    return Places([*folders, *whole], _above(path.parent, folders))


def _is_archive(path: Path) -> bool:
    """Tell whether a path names one file that holds the images: DVC sees nothing in it. It may not be there yet."""
    from thaw.data import archives, sources  # and pandas, which folders of classes do without

    if path.is_file() and path.suffix.lower() != ".csv":
        return sources.kind_of(path) != "table"
    return not path.exists() and path.name.lower().endswith((*archives.SUFFIXES, ".parquet"))


def inside(path: Path) -> bool:
    """Tell whether a place lies below the project's folder, and so where DVC looks for its files."""
    return not path.is_absolute() and path.parts[:1] not in ((), ("..",))


def _models(tree: Mapping[str, object]) -> Iterator[str]:
    for section, key in (("backbone", "source"), ("head", "grow_from")):
        source = value_at(tree, section, key)
        if isinstance(source, str) and source.startswith("model:") and Path(source.removeprefix("model:")).is_dir():
            yield source.removeprefix("model:")


def _normal(path: str) -> Path:
    """Return a path from the current folder where it lies below it, without detours; another one as it is."""
    shorter = os.path.relpath(path)
    return Path(path) if shorter.startswith("..") else Path(shorter)


def _folders_of(manifest: Path, tree: Mapping[str, object]) -> list[Path]:
    """Return the topmost folders of the images that a table lists, beside those that lie in its own folder."""
    folders = {Path(path).parent for path in _paths(manifest, tree)} - {Path()}
    tops = sorted(folder for folder in folders if not folders & set(folder.parents))
    if len(tops) > _MOST:
        common = Path(os.path.commonpath(tops))
        tops = [common] if common != Path() and not _holds_own(manifest.parent / common) else tops
    return [manifest.parent / folder for folder in tops]


def _paths(manifest: Path, tree: Mapping[str, object]) -> list[str]:
    """Return the paths in a table of images; nothing where it cannot be read, which `prepare` says in its own words."""
    if manifest.exists() and not manifest.is_file():
        raise DataError(f"{manifest} is no regular file, so it would be read for ever; put a CSV in its place")
    from thaw.data import dialect, named_files  # and pandas, which folders of classes do without
    from thaw.data.places import Folder

    encoding, columns = value_at(tree, "data", "encoding"), value_at(tree, "data", "columns")
    name = columns.get("path", "path") if isinstance(columns, dict) else "path"
    try:
        cells = dialect.read(manifest, encoding if isinstance(encoding, str) else "auto").table
        return [
            path for path in named_files.resolve(cells[name].tolist(), Folder(manifest.parent), manifest)[0] if path
        ]
    except (ThawError, KeyError, LookupError):
        return []


def _above(top: Path, folders: list[Path]) -> list[Path]:
    levels = {top, *(above for folder in folders for above in folder.parents if above.is_relative_to(top))}
    return sorted(level for level in levels if level != Path())


def _holds_own(folder: Path) -> bool:
    return any(Path(name).is_relative_to(folder) for name in OWN)
