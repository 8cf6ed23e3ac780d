"""Which files a data set is made of, with their labels: read from `data.raw`, before any image is opened.

`data.raw` is one of: a folder with a sub-folder per class; a folder with train, val (or valid, validation) and test
folders of class folders, whose split is kept; a CSV manifest with the columns path and label, and optionally split,
group and confidence, with paths relative to the CSV's folder; a folder that holds such a manifest as manifest.csv.
Where `data.labels` names another CSV, that one lists the images below the folder `data.raw`, and all of them.
"""

import dataclasses
import difflib
import os
import posixpath
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from thaw.config.schema import DataParams
from thaw.errors import DataError

SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
COLUMNS = ("path", "label", "split", "group", "confidence")
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

    @property
    def classes(self) -> list[str]:
        """The class names in order (of their code points)."""
        return sorted(set(self.table["label"]))


MANIFEST = "manifest.csv"
"""A folder that holds a file of this name is read by it: DVC then tracks the images together with the manifest."""


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
    return read(Path(data.raw), Path(data.label_file) if data.label_file is not None else None)


def read(raw: Path, labels: Path | None = None) -> Listing:
    """Return what `data.raw` lists, or a CSV of labels for the folder. Raises: DataError if that is no data set.

    A data set has two classes or more; a CSV of labels names the files of the folder, each of them.
    """
    manifest = raw / MANIFEST if raw.is_dir() else raw
    if labels is not None:
        listing = _read_labels(raw, labels)
    else:
        listing = read_csv(manifest, manifest.parent) if manifest.is_file() else _read_folder(raw)
    source = labels or raw
    for name in [*listing.table["path"], *listing.table["label"], *listing.table["group"], *listing.links]:
        _check_name(name, source)
    _check_classes(listing.classes, source)
    return listing


def _read_labels(raw: Path, labels: Path) -> Listing:
    """Return the rows of a CSV of labels, once they are seen to name the files below the folder, and all of them."""
    if (raw / MANIFEST).is_file():
        raise DataError(f"{raw / MANIFEST} lists the images, and so does {labels} (data.labels); remove one of them")
    listing, links = read_csv(labels, raw), list[str]()
    named, present = set(listing.table["path"]), files_below(raw, links)
    if missing := sorted(named - present):
        raise DataError(
            f"{labels} names {len(missing)} images that {raw} lacks ({_few(missing)}); bring them (`dvc pull` or "
            "`dvc checkout`), or remove their rows"
        )
    if unnamed := sorted(present - named):
        raise DataError(
            f"{raw} holds {len(unnamed)} files that {labels} does not name ({_few(unnamed)}); add a row for each "
            "(`thaw labels export` does, for class folders), or put a dot before the names of those to leave out"
        )
    return dataclasses.replace(listing, links=sorted(links))


def files_below(raw: Path, links: list[str] | None = None) -> set[str]:
    """Return the paths of all files below a folder, but hidden ones; links to folders are added to `links`."""
    return set(_files(raw, raw, links if links is not None else []))


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _read_folder(raw: Path) -> Listing:
    links: list[str] = []
    tops = _folders(raw, raw, links)
    given = [name for name in tops if name.lower() in SPLITS]
    rows: list[tuple[str, str, str]] = []
    if _is_split(tops, given, raw):
        for top in given:
            for name in _folders(raw / top, raw, links):
                rows += [(path, name, SPLITS[top.lower()]) for path in _class_files(raw / top / name, raw, links)]
    else:
        for name in tops:
            rows += [(path, name, "") for path in _class_files(raw / name, raw, links)]
    if not rows:
        raise DataError(f"{raw} holds no class folders with files in them; give each class a folder of its images")
    table = pd.DataFrame(rows, columns=["path", "label", "split"], dtype=object).assign(group="", confidence=1.0)
    return Listing(raw, table.sort_values("path", ignore_index=True), sorted(links))


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


def _class_files(folder: Path, raw: Path, links: list[str]) -> list[str]:
    found = list(_files(folder, raw, links))
    if not found:
        raise DataError(f"{folder} holds no files; add images of this class or remove the folder")
    return found


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


def read_csv(raw: Path, root: Path) -> Listing:
    """Return the rows of a CSV, whose paths are relative to `root`. Raises: DataError if it lists no images so."""
    try:
        table = pd.read_csv(raw, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (ValueError, OSError) as error:  # pandas' parser errors and UnicodeDecodeError are ValueErrors
        raise DataError(f"{raw} is neither a folder nor a CSV in UTF-8 ({' '.join(str(error).split())})") from None
    _check_conflicts(raw)
    _check_columns(list(table.columns), raw)
    if table.empty:
        raise DataError(f"{raw} lists no images; it needs a row for each")
    table["path"] = [_clean_path(path, raw, root) for path in table["path"]]
    for column in ("path", "label", "split"):
        if column in table and (empty := int((table[column].str.strip() == "").sum())):
            raise DataError(f"{raw}: {column} is empty in {empty} rows; fill it in, or leave out an optional column")
    if (twice := table["path"][table["path"].duplicated()]).size:
        raise DataError(f"{raw} lists {twice.iloc[0]!r} more than once; keep one row for each image")
    table["split"] = [_split(text, raw) for text in table["split"]] if "split" in table else ""
    table["group"] = table.get("group", "")
    table["confidence"] = [_confidence(text, raw) for text in table["confidence"]] if "confidence" in table else 1.0
    return Listing(root, table[list(COLUMNS)].sort_values("path", ignore_index=True))


def _check_conflicts(raw: Path) -> None:
    """Refuse what a merge of git has left: its markers would be read as images."""
    with raw.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.startswith(("<<<<<<< ", ">>>>>>> ")):
                raise DataError(
                    f"{raw}: line {number} is `{line.strip()}`, a conflict of git; resolve it, and run `dvc repro`"
                )


def _check_columns(names: list[str], raw: Path) -> None:
    for name in names:
        close = difflib.get_close_matches(name.strip().lower(), COLUMNS, n=1, cutoff=0.7)
        if name not in COLUMNS and close and close[0] not in names:
            raise DataError(f"{raw}: column {name!r} looks like {close[0]!r}; rename it, or it would have no effect")
    if missing := {"path", "label"} - set(names):
        raise DataError(f"{raw} has no column {' and no column '.join(sorted(missing))}; it needs path,label")


def _clean_path(text: str, raw: Path, root: Path) -> str:
    path = posixpath.normpath(text) if text else ""
    if path.startswith(("/", "../")) or path == "..":
        raise DataError(f"{raw}: path {text!r} leads out of {root}; write paths relative to that folder")
    return path


def _split(text: str, raw: Path) -> str:
    if text not in SPLITS:
        raise DataError(f"{raw}: split is {text!r}; it must be one of {', '.join(SPLITS)}")
    return SPLITS[text]


def _confidence(text: str, raw: Path) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise DataError(f"{raw}: confidence is {text!r}; it must be a number above 0 and at most 1")
    return value


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
