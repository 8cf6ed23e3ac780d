"""Which files a data set is made of, with their labels: read from `data.raw`, before any image is opened.

`data.raw` is one of: a folder with a sub-folder per class; a folder with train, val (or valid, validation) and test
folders of class folders, whose split is kept; a table of images (manifest.py), with paths relative to its folder; a
folder that holds such a table as manifest.csv, metadata.csv or metadata.jsonl, or has train, val and test folders that
do. Where `data.labels` names another table, that one lists the images below the folder `data.raw`, and all of them.
"""

import dataclasses
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pandas as pd

from thaw.config.schema import DataParams
from thaw.data import manifest
from thaw.data.manifest import SPLITS
from thaw.errors import DataError
from thaw.names import few

_BEGINNING_BYTES = 4096
# What stands beside images and is none: annotations, tables, notes.
_BESIDE_IMAGES = frozenset({
    ".xml", ".txt", ".json", ".jsonl", ".csv", ".tsv", ".md", ".rst", ".html", ".yaml", ".yml", ".toml", ".cfg", ".ini",
    ".log", ".names", ".data", ".db", ".mat", ".npy", ".npz", ".py", ".ipynb", ".sh", ".pdf", ".xls", ".xlsx", ".docx",
})  # fmt: skip
_IGNORED = {"thumbs.db", "desktop.ini", "__macosx", "icon\r"}
_SAMPLE = Path("data/sample/dvc.yaml")  # the stage that lays out the sample


@dataclass(frozen=True)
class Listing:
    """The files of a data set, sorted by path."""

    root: Path
    """Folder that paths are relative to, and that nothing outside of is read."""
    table: pd.DataFrame
    """Columns path, label, split ('' where none is given), group ('' where none is given), confidence."""
    links: list[str] = field(default_factory=list)
    """Folders that are symbolic links, which are not followed."""
    from_table: bool = False
    """Whether a table says the labels, and no folders do."""
    notes: list[str] = field(default_factory=list)
    """What was decided on the way and is worth knowing, a line each."""

    @property
    def classes(self) -> list[str]:
        """The class names in order (of their code points)."""
        return sorted(set(self.table["label"]))


MANIFEST = "manifest.csv"
"""A folder that holds a file of this name is read by it: DVC then tracks the images together with the manifest."""
_TABLES = (MANIFEST, "metadata.csv", "metadata.jsonl")  # the last two are those of Hugging Face's image folders


def inputs(data: DataParams) -> list[str]:
    """Return the paths that a data set is read from, as params.yaml has them. Raises: DataError if one is missing."""
    locate(data.raw)
    if data.label_file is None:
        return [data.raw] if data.labels is None else [data.raw, data.labels]
    if not Path(data.label_file).is_file():
        raise DataError(
            f"params.yaml: data.labels is {data.label_file}, which is no file; run `thaw labels export`, which writes "
            f"the labels of {data.raw} into a CSV, or set data.labels to {data.raw}"
        )
    return [data.raw, data.label_file]


def locate(raw: str) -> Path:
    """Return `data.raw` as a path. Raises: DataError if there is nothing."""
    path = Path(raw)
    if path.is_relative_to(_SAMPLE.parent) and _SAMPLE.exists():
        needed = path / MANIFEST if path == _SAMPLE.parent else path
        if not needed.exists():
            raise DataError(
                f"params.yaml: data.raw is {raw}, but {needed} does not exist; "
                f"run `dvc repro {_SAMPLE}`, which lays out the sample"
            )
    if not path.exists():
        raise DataError(f"params.yaml: data.raw is {raw}, which does not exist; give a folder of classes or a CSV")
    return path


def read_data(data: DataParams) -> Listing:
    """Return what `data.raw` and `data.labels` list. Raises: DataError as `inputs` and `read` do."""
    inputs(data)
    return read(Path(data.raw), Path(data.label_file) if data.label_file is not None else None, data)


def read(raw: Path, labels: Path | None = None, data: DataParams | None = None) -> Listing:
    """Return what `data.raw` lists, or a table of labels for the folder; `data` says how tables are to be read.

    A data set has two classes or more; a table of labels names the files of the folder, each of them.
    Raises: DataError if that is no data set.
    """
    how = data or DataParams(raw=str(raw))
    if labels is not None:
        listing = _read_labels(raw, labels, how)
    elif (table := table_of(raw)) is not None:
        listing = read_table(table, table.parent, how)
    else:
        listing = _read_folder(raw, how)
    source = labels or raw
    for name in [*listing.table["path"], *listing.table["label"], *listing.table["group"], *listing.links]:
        _check_name(name, source)
    _check_classes(listing.classes, source)
    return listing


def table_of(raw: Path) -> Path | None:
    """Return the table of images that `data.raw` is or holds; None for folders of classes.

    A file of the name metadata may say anything of a folder: it is such a table if its beginning has `file_name`.
    """
    if not raw.is_dir():
        return raw
    present = [raw / name for name in _TABLES if (raw / name).is_file()]
    return next((path for path in present if path.name == MANIFEST or b"file_name" in _beginning(path)), None)


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_BEGINNING_BYTES)


def read_table(path: Path, root: Path, data: DataParams | None = None) -> Listing:
    """Return the rows of a table whose paths are relative to `root`. Raises: DataError if it lists no images so."""
    found = manifest.read(path, root, data or DataParams(raw=str(path)))
    return Listing(root, found.table, from_table=True, notes=found.notes)


def _read_labels(raw: Path, labels: Path, data: DataParams) -> Listing:
    """Return the rows of a table of labels, once they are seen to name the files below the folder, and all of them."""
    if raw.is_dir() and (inside := table_of(raw)) is not None:
        raise DataError(f"{inside} lists the images, and so does {labels} (data.labels); remove one of them")
    listing, links = read_table(labels, raw, data), list[str]()
    named, present = set(listing.table["path"]), files_below(raw, links)
    if missing := sorted(named - present):
        raise DataError(
            f"{labels} names {len(missing)} images that {raw} lacks ({few(missing)}); bring them (`dvc pull` or "
            "`dvc checkout`), or remove their rows"
        )
    if unnamed := sorted(present - named):
        raise DataError(
            f"{raw} holds {len(unnamed)} files that {labels} does not name ({few(unnamed)}); add a row for each "
            "(`thaw labels export` does, for class folders), or put a dot before the names of those to leave out"
        )
    return dataclasses.replace(listing, links=sorted(links))


def files_below(raw: Path, links: list[str] | None = None) -> set[str]:
    """Return the paths of all files below a folder that may be images; links to folders are added to `links`."""
    return {path for path in _files(raw, raw, links if links is not None else []) if not _is_beside(path)}


def _read_folder(raw: Path, data: DataParams) -> Listing:
    links: list[str] = []
    tops = _folders(raw, raw, links)
    given = [name for name in tops if name.lower() in SPLITS]
    if not _is_split(tops, given, raw):
        return _of_classes(raw, {name: ("", name) for name in tops}, links, [])
    tables = {top: table for top in given if (table := table_of(raw / top)) is not None}
    if tables:
        return _of_tables(raw, given, tables, data)
    classes: dict[str, tuple[str, str]] = {}
    notes = []
    for top in given:
        below = _folders(raw / top, raw, links)
        classes |= {f"{top}/{name}": (SPLITS[top.lower()], name) for name in below}
        if not below:
            notes.append(_without_labels(raw / top))
    return _of_classes(raw, classes, links, notes)


def _of_classes(raw: Path, classes: dict[str, tuple[str, str]], links: list[str], notes: list[str]) -> Listing:
    """Return the images of class folders, of which the split and the label are given."""
    rows: list[tuple[str, str, str]] = []
    beside: list[str] = []
    for folder, (split, name) in classes.items():
        found = list(_files(raw / folder, raw, links))
        images = [path for path in found if not _is_beside(path)]
        beside += [path for path in found if _is_beside(path)]
        if not images:
            what = "no images" if found else "no files"
            raise DataError(f"{raw / folder} holds {what}; add images of this class or remove the folder")
        rows += [(path, name, split) for path in images]
    if not rows:
        raise DataError(f"{raw} holds no class folders with files in them; give each class a folder of its images")
    loose = [entry.name for entry in os.scandir(raw) if entry.is_file() and not _ignored(entry.name)]
    if images := sorted(name for name in loose if not _is_beside(name)):
        notes = [*notes, f"{raw}: {len(images)} files in no class folder are not used ({few(images)})"]
    if beside:
        kinds = Counter(PurePosixPath(path).suffix.lower() for path in beside).most_common()
        shown = ", ".join(f"{count} {kind}" for kind, count in kinds)
        notes = [*notes, f"{raw}: {len(beside)} files beside the images are not used ({shown}; {min(beside)})"]
    table = pd.DataFrame(rows, columns=["path", "label", "split"], dtype=object).assign(group="", confidence=1.0)
    return Listing(raw, table.sort_values("path", ignore_index=True), sorted(links), notes=notes)


def _of_tables(raw: Path, given: Sequence[str], tables: dict[str, Path], data: DataParams) -> Listing:
    """Return the images of split folders that each have a table. Raises: DataError if one says another split."""
    parts, notes = [], []
    for top in given:
        if top not in tables:
            notes.append(_without_labels(raw / top))
            continue
        found = manifest.read(tables[top], raw / top, data)
        if found.table["split"].any():
            raise DataError(f"{tables[top]} has a column split, and so says its folder; name it in data.ignore_columns")
        parts.append(
            found.table.assign(path=[f"{top}/{path}" for path in found.table["path"]], split=SPLITS[top.lower()])
        )
        notes += found.notes
    table = pd.concat(parts).astype({"path": object, "split": object}).sort_values("path", ignore_index=True)
    return Listing(raw, table, from_table=True, notes=notes)


def _without_labels(folder: Path) -> str:
    number = sum(1 for _ in _files(folder, folder, []))
    return f"{folder} has no class folders: its {number} files are not used, since they have no labels"


def _is_beside(path: str) -> bool:
    return PurePosixPath(path).suffix.lower() in _BESIDE_IMAGES


def _is_split(tops: list[str], given: list[str], raw: Path) -> bool:
    """Return whether the folders are splits, not classes. Raises: DataError if some are and others cannot be."""
    if "train" not in {name.lower() for name in given}:
        return False
    if others := [name for name in tops if name not in given]:
        if len(given) == 1:  # a class called train
            return False
        raise DataError(
            f"{raw} has the split folders {', '.join(given)} and beside them {', '.join(others[:5])}; move these "
            "elsewhere or put a dot before their names (if all of them are classes, list the images in a CSV)"
        )
    _check_split_folders(given, raw)
    return True


def _check_split_folders(names: list[str], raw: Path) -> None:
    seen: dict[str, str] = {}
    for name in names:
        if (split := SPLITS[name.lower()]) in seen:
            raise DataError(f"{raw} has both {seen[split]} and {name}, which mean the same split; keep one of them")
        seen[split] = name


def _ignored(name: str) -> bool:
    return name.startswith(".") or name.lower() in _IGNORED


def _links_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_symlink() and entry.is_dir()
    except OSError:  # a link that leads to itself; reading the file will say so
        return False


def _folders(folder: Path, raw: Path, links: list[str]) -> list[str]:
    names = []
    for entry in os.scandir(folder):
        if _ignored(entry.name):
            continue
        if _links_to_folder(entry):
            links.append(Path(entry.path).relative_to(raw).as_posix())
        elif entry.is_dir(follow_symlinks=False):
            names.append(entry.name)
    return sorted(names)


def _files(folder: Path, raw: Path, links: list[str]) -> Iterator[str]:
    """Yield everything below a class folder that is not a folder, as paths relative to raw, with forward slashes."""
    for entry in os.scandir(folder):
        if _ignored(entry.name):
            continue
        path = Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            yield from _files(path, raw, links)
        elif _links_to_folder(entry):
            links.append(path.relative_to(raw).as_posix())
        else:
            yield path.relative_to(raw).as_posix()


def _check_name(name: str, raw: Path) -> None:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        shown = os.fsencode(name).decode("ascii", "backslashreplace")
        raise DataError(f"{raw}: the name {shown} is not valid UTF-8; rename it") from None
    if "\r" in name or "\0" in name:  # the one ends a row for readers of the CSV, the other no system call takes
        raise DataError(f"{raw}: the name {name!r} holds a carriage return or a NUL character; rename it")


def _check_classes(classes: list[str], raw: Path) -> None:
    if len(classes) < 2:
        raise DataError(f"{raw} has one class only ({classes[0]}); a classifier needs at least two")
    seen: dict[str, str] = {}
    for name in classes:
        key = unicodedata.normalize("NFC", name).strip().casefold()
        if key in seen:
            raise DataError(
                f"{raw}: the classes {seen[key]!r} and {name!r} differ in case, blanks or Unicode form only; "
                "give them one name, or clearly different ones"
            )
        seen[key] = name
