"""Which files a data set is made of, with their labels: read from `data.raw`, before any image is opened.

`data.raw` is one of: a folder with a sub-folder per class; a folder with train, val (or valid, validation) and test
folders of class folders, whose split is kept; a table of images (manifest.py), with paths relative to its folder; a
folder that holds such a table as manifest.csv, metadata.csv or metadata.jsonl, or has train, val and test folders that
do; a zip or a tar of any such folder; or files that hold images and labels together (sources.py). Where `data.labels`
names another table, that one lists the images below the folder `data.raw`, and all of them.
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
from thaw.data import archives, dialect, manifest, sources
from thaw.data.dialect import Sheet
from thaw.data.manifest import SPLITS
from thaw.data.places import Archive, Folder, Place, is_beside
from thaw.data.sources import Source
from thaw.errors import DataError
from thaw.names import few

_SAMPLE = Path("data/sample/dvc.yaml")  # the stage that lays out the sample


@dataclass(frozen=True)
class Listing:
    """The files of a data set, sorted by path."""

    root: Path
    """Folder that paths are relative to, and that nothing outside of is read; or the archive that holds the images."""
    table: pd.DataFrame
    """Columns path, label, split ('' where none is given), group ('' where none is given), confidence."""
    links: list[str] = field(default_factory=list)
    """Folders that are symbolic links, which are not followed."""
    from_table: bool = False
    """Whether a table says the labels, and no folders do."""
    notes: list[str] = field(default_factory=list)
    """What was decided on the way and is worth knowing, a line each."""
    archive: Archive | None = None
    """What the images are read from where they do not lie in the folder `root`."""

    @property
    def source(self) -> Path | Archive:
        """What the images are read from."""
        return self.root if self.archive is None else self.archive

    @property
    def classes(self) -> list[str]:
        """The class names in order (of their code points)."""
        return sorted(set(self.table["label"]))


MANIFEST = sources.TABLES[0]
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
    return read(Path(data.raw), Path(data.label_file) if data.label_file is not None else None, data)


def read(raw: Path, labels: Path | None = None, data: DataParams | None = None) -> Listing:
    """Return what `data.raw` lists, or a table of labels for its files; `data` says how tables are to be read.

    A data set has two classes or more; a table of labels names the files of the folder, each of them.
    Raises: DataError if that is no data set.
    """
    how = data or DataParams(raw=str(raw))
    opened = sources.open_source(raw, how)
    if labels is not None:
        listing = _read_labels(opened, labels, how)
    elif opened.manifest is not None:
        listing = Listing(opened.place.root, opened.manifest.table, from_table=True, notes=opened.manifest.notes)
    elif (table := _table_in(opened.place)) is not None:
        listing = _of_table(opened.place, table, how)
    else:
        listing = _read_folder(opened.place, how)
    archive = opened.place if isinstance(opened.place, Archive) else None
    listing = dataclasses.replace(listing, archive=archive, notes=[*opened.notes, *listing.notes])
    source = labels or raw
    for name in [*listing.table["path"], *listing.table["label"], *listing.table["group"], *listing.links]:
        _check_name(name, source)
    _check_classes(listing.classes, source)
    return listing


def table_of(raw: Path) -> Path | None:
    """Return the table of images that `data.raw` is or that the folder holds; None for all else."""
    if raw.is_dir():
        return None if (name := _table_in(Folder(raw))) is None else raw / name
    return raw if sources.kind_of(raw) == "table" else None


def says_its_labels(raw: Path) -> bool:
    """Tell whether `data.raw` is a file, or holds files, that no other table of labels can go with."""
    opened = sources.open_source(raw, DataParams(raw=str(raw)))
    return opened.manifest is not None or (isinstance(opened.place, Archive) and _table_in(opened.place) is not None)


def _table_in(place: Place, folder: str = "") -> str | None:
    """Return the path of the table of images that a folder holds; None for folders of classes.

    A file of the name metadata may say anything of a folder: it is such a table if its beginning has `file_name`.
    """
    present = {entry.name for entry in place.entries(folder) if entry.kind == "file"}
    paths = [f"{folder}/{name}".lstrip("/") for name in sources.TABLES if name in present]
    return next((path for path in paths if path.endswith(MANIFEST) or b"file_name" in place.beginning(path)), None)


def read_table(path: Path, root: Path, data: DataParams | None = None) -> Listing:
    """Return the rows of a table whose paths are relative to `root`. Raises: DataError if it lists no images so."""
    how = data or DataParams(raw=str(path))
    return _of_cells(dialect.read(path, how.encoding), path, Folder(root), how)


def _of_table(place: Place, table: str, data: DataParams) -> Listing:
    """Return the rows of a table in the place of the images."""
    path = place.root / table
    return _of_cells(dialect.parse(place.content(table), path, data.encoding), path, place, data)


def _of_cells(sheet: Sheet, path: Path, place: Place, data: DataParams) -> Listing:
    found = manifest.of_cells(sheet, path, place, data)
    return Listing(place.root, found.table, from_table=True, notes=found.notes)


def _read_labels(opened: Source, labels: Path, data: DataParams) -> Listing:
    """Return the rows of a table of labels, once they are seen to name the files below the folder, and all of them."""
    raw, links = opened.place.root, list[str]()
    if opened.manifest is not None:
        raise DataError(f"{raw} has labels of its own, and data.labels is {labels}; set data.labels to {raw}")
    if (inside := _table_in(opened.place)) is not None:
        raise DataError(f"{raw / inside} lists the images, and so does {labels} (data.labels); remove one of them")
    listing = _of_cells(dialect.read(labels, data.encoding), labels, opened.place, data)
    named, present = set(listing.table["path"]), _images_below(opened.place, links)
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


def files_below(raw: Path) -> set[str]:
    """Return the paths of all files below a folder, or in an archive, that may be images."""
    return _images_below(sources.open_source(raw, DataParams(raw=str(raw))).place, [])


def _images_below(place: Place, links: list[str]) -> set[str]:
    """Return the paths of all files that may be images; links to folders are added to `links`."""
    return {path for path in _files(place, "", links) if not is_beside(path)}


def _read_folder(place: Place, data: DataParams) -> Listing:
    links: list[str] = []
    tops = _folders(place, "", links)
    given = [name for name in tops if name.lower() in SPLITS]
    if not _is_split(tops, given, place.root):
        return _of_classes(place, {name: ("", name) for name in tops}, links, [])
    tables = {top: table for top in given if (table := _table_in(place, top)) is not None}
    if tables:
        return _of_tables(place, given, tables, data)
    classes: dict[str, tuple[str, str]] = {}
    notes = []
    for top in given:
        below = _folders(place, top, links)
        classes |= {f"{top}/{name}": (SPLITS[top.lower()], name) for name in below}
        if not below:
            notes.append(_without_labels(place, top))
    return _of_classes(place, classes, links, notes)


def _of_classes(place: Place, classes: dict[str, tuple[str, str]], links: list[str], notes: list[str]) -> Listing:
    """Return the images of class folders, of which the split and the label are given."""
    raw = place.root
    rows: list[tuple[str, str, str]] = []
    beside: list[str] = []
    for folder, (split, name) in classes.items():
        images, others = list[str](), list[str]()
        for path in _files(place, folder, links):
            (others if is_beside(path) else images).append(path)
        beside += others
        if not images:
            what = "no images" if others else "no files"
            raise DataError(f"{raw / folder} holds {what}; add images of this class or remove the folder")
        rows += [(path, name, split) for path in images]
    loose = [entry.name for entry in place.entries() if entry.kind == "file"]
    if not rows:
        packed = [name for name in loose if name.lower().endswith((*archives.SUFFIXES, ".parquet"))]
        way_out = f"set data.raw to {raw / packed[0]}" if packed else "give each class a folder of its images"
        raise DataError(f"{raw} holds no class folders with files in them; {way_out}")
    if images := sorted(name for name in loose if not is_beside(name)):
        notes = [*notes, f"{raw}: {len(images)} files in no class folder are not used ({few(images)})"]
    if beside:
        kinds = Counter(PurePosixPath(path).suffix.lower() for path in beside).most_common()
        shown = ", ".join(f"{count} {kind}" for kind, count in kinds)
        notes = [*notes, f"{raw}: {len(beside)} files beside the images are not used ({shown}; {min(beside)})"]
    table = pd.DataFrame(rows, columns=["path", "label", "split"], dtype=object).assign(group="", confidence=1.0)
    return Listing(raw, table.sort_values("path", ignore_index=True), sorted(links), notes=notes)


def _of_tables(place: Place, given: Sequence[str], tables: dict[str, str], data: DataParams) -> Listing:
    """Return the images of split folders that each have a table. Raises: DataError if one says another split."""
    parts, notes = [], []
    for top in given:
        if top not in tables:
            notes.append(_without_labels(place, top))
            continue
        found = _of_table(place.below(top), tables[top].removeprefix(f"{top}/"), data)
        if found.table["split"].any():
            raise DataError(
                f"{place.root / tables[top]} has a column split, and so says its folder; name it in data.ignore_columns"
            )
        parts.append(
            found.table.assign(path=[f"{top}/{path}" for path in found.table["path"]], split=SPLITS[top.lower()])
        )
        notes += found.notes
    table = pd.concat(parts).astype({"path": object, "split": object}).sort_values("path", ignore_index=True)
    return Listing(place.root, table, from_table=True, notes=notes)


def _without_labels(place: Place, folder: str) -> str:
    number = sum(1 for _ in _files(place, folder, []))
    return f"{place.root / folder} has no class folders: its {number} files are not used, since they have no labels"


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


def _folders(place: Place, folder: str, links: list[str]) -> list[str]:
    entries = place.entries(folder)
    links += [f"{folder}/{entry.name}".lstrip("/") for entry in entries if entry.kind == "link"]
    return [entry.name for entry in entries if entry.kind == "folder"]


def _files(place: Place, folder: str, links: list[str]) -> Iterator[str]:
    """Yield everything below a class folder that is not a folder, by its path with forward slashes."""
    for entry in place.entries(folder):
        path = f"{folder}/{entry.name}" if folder else entry.name
        if entry.kind == "folder":
            yield from _files(place, path, links)
        elif entry.kind == "link":
            links.append(path)
        else:
            yield path


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
