"""WebDataset: tars in which the files of a sample share a name up to its first dot: KEY.jpg, KEY.cls, KEY.json.

What stands beside an image becomes the row of a table: KEY.cls a column `cls`, KEY.txt a column `txt`, the object in
KEY.json a column for each of its keys. From there it is a table as any other.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from thaw.config.schema import DataParams
from thaw.data import archives, dialect, manifest, shard_names
from thaw.data.dialect import Sheet
from thaw.data.manifest import Manifest
from thaw.data.places import Archive, Part
from thaw.errors import DataError
from thaw.names import few

CLASSES = "classes.txt"
"""A file in a tar or beside several that names the classes, a line each, in the order of their numbers."""
_LABELS = ("cls", "txt", "label", "json")
_IMAGES = frozenset({
    "jpg", "jpeg", "png", "ppm", "pgm", "pbm", "pnm", "bmp", "gif", "webp", "tif", "tiff", "avif", "jp2", "heic", "dcm",
})  # fmt: skip

_Samples = dict[str, dict[str, str]]
"""Path of each file of a sample, by the sample's key and the file's extension."""


def is_shard(archive: Archive) -> bool:
    """Tell whether a tar holds samples: images with a .cls beside, or with labels and in no class folders."""
    samples = _samples(archive.files)
    images = [key for key, found in samples.items() if _images_of(found)]
    if any("cls" in samples[key] for key in images):
        return True
    in_folders = len({key.rpartition("/")[0] for key in images}) > 1
    return not in_folders and any(label in samples[key] for key in images for label in _LABELS)


def read(raw: Path, files: Sequence[Path], data: DataParams) -> tuple[Archive, Manifest]:
    """Return the images of shards, and their labels. Raises: DataError if they have none, or if it is unclear which."""
    opened = [archives.open_archive(file, "tar") for file in files]
    archive, splits, notes = _joined(raw, files, opened)
    samples = {key: found for key, found in _samples(archive.files).items() if not _is_list(key, found)}
    cells = pd.DataFrame(_rows(archive, samples, raw), dtype=object).fillna("")
    if any(splits.values()):
        if "split" in cells and "split" not in data.ignore_columns:
            raise DataError(
                f"{raw}: samples have a split, and so say the names of tars; name it in data.ignore_columns"
            )
        cells["split"] = [splits[path] for path in cells["path"]]
    asked = dict(data.columns)
    if "label" not in asked and "label" not in cells and "cls" in cells:
        asked["label"] = "cls"
    _check_label(cells, asked.get("label", "label"), raw)
    cells, named = _with_names(cells, asked.get("label", "label"), _classes(archive, raw), raw)
    task = "single-label" if asked.get("label") == "cls" else data.task
    how = data.model_copy(update={"columns": asked, "task": task})
    found = manifest.of_cells(Sheet(cells, []), raw, archive, how)
    return archive, Manifest(found.table, [*notes, *named, *found.notes])


def _samples(paths: Sequence[str]) -> _Samples:
    found: _Samples = defaultdict(dict)
    for path in paths:
        above, _, name = path.rpartition("/")
        stem, _, extension = name.partition(".")
        found[f"{above}/{stem}" if above else stem][extension.lower()] = path
    return found


def _images_of(found: Mapping[str, str]) -> list[str]:
    return [extension for extension in found if extension.rpartition(".")[2] in _IMAGES]


def _is_list(key: str, found: Mapping[str, str]) -> bool:
    """Tell whether files are no sample: notes and lists at the top, such as classes.txt."""
    return not _images_of(found) and "/" not in key and key.lower() in {"classes", "readme", "license", "dataset"}


def _joined(raw: Path, files: Sequence[Path], opened: Sequence[Archive]) -> tuple[Archive, dict[str, str], list[str]]:
    """Return all files of the shards as one archive, the split of each path, and what was decided.

    Where shards number their samples anew, the shard's name stands before the path.
    """
    names: dict[str, int] = defaultdict(int)
    for archive in opened:
        for path in archive.files:
            names[path] += path != CLASSES
    again = any(count > 1 for count in names.values())
    root = raw if raw.is_dir() else raw.parent
    parts, splits, sources = dict[str, Part](), dict[str, str](), list[Path]()
    for file, archive, split in zip(files, opened, shard_names.splits(files, root), strict=True):
        start = f"{file.relative_to(root).with_suffix('').as_posix()}/" if again else ""
        for path, part in archive.parts.items():
            name = path if path == CLASSES else f"{start}{path}"
            parts.setdefault(name, part._replace(source=part.source + len(sources)))
            splits[name] = split
        sources += archive.sources
    notes = [f"{raw}: shards have samples of the same names, so the shard's name stands before them"] if again else []
    return Archive(raw, sources, parts, opened), splits, notes


def _rows(archive: Archive, samples: _Samples, raw: Path) -> list[dict[str, str]]:
    """Return a row of cells for each sample. Raises: DataError if one has no image, or several."""
    if without := [key for key, found in samples.items() if not _images_of(found)]:
        raise DataError(
            f"{raw}: {len(without)} samples have no image ({few(without)}); each needs KEY.jpg, KEY.png or the like"
        )
    rows = []
    for key, found in samples.items():
        if len(images := _images_of(found)) > 1:
            raise DataError(
                f"{raw}: sample {key!r} has several images ({', '.join(images)}), and Thaw trains on one a sample; "
                "write shards with one"
            )
        row = {"path": found[images[0]]}
        for extension, path in found.items():
            if extension in {"cls", "txt", "label"}:
                row[extension] = _text(archive.content(path), raw / path).strip()
            elif extension == "json":
                row |= _object(archive.content(path), raw / path)
        rows.append(row)
    return rows


def _text(data: bytes, path: Path) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path} is no text in UTF-8; write the shard again") from None


def _object(data: bytes, path: Path) -> dict[str, str]:
    try:
        found = json.loads(_text(data, path))
    except (ValueError, RecursionError):
        raise DataError(f"{path} is no JSON; write the shard again") from None
    if not isinstance(found, dict):
        raise DataError(f'{path} is no JSON object; it needs one, such as {{"label": "cat"}}')
    return {f"json {key}" if key == "path" else str(key): dialect.cell(value) for key, value in found.items()}


def _check_label(cells: pd.DataFrame, label: str, raw: Path) -> None:
    """Raises: DataError if no sample has a label, or some have none."""
    if label not in cells:
        others = [name for name in cells.columns if name != "path"]
        has = f"they have {', '.join(map(repr, others))}" if others else "nothing stands beside them"
        example = others[0] if others else "cls"
        raise DataError(
            f"{raw}: the samples have no .cls and no label in a .json ({has}); if one of these is the class, say so: "
            f"data.columns: {{label: {example}}} (a tar of class folders is no shard: set data.raw to that file alone)"
        )
    if without := cells["path"][cells[label] == ""].tolist():
        raise DataError(f"{raw}: {len(without)} samples have no {label} ({few(without)}); add it, or leave them out")


def _classes(archive: Archive, raw: Path) -> list[str]:
    """Return the names in classes.txt, in the first tar or beside them; none where there is no such file."""
    if archive.has(CLASSES):
        data = archive.content(CLASSES)
    elif (raw / CLASSES).is_file():
        data = (raw / CLASSES).read_bytes()
    else:
        return []
    return [line.strip() for line in _text(data, raw / CLASSES).splitlines() if line.strip()]


def _with_names(cells: pd.DataFrame, label: str, classes: Sequence[str], raw: Path) -> tuple[pd.DataFrame, list[str]]:
    """Return the cells with names in the place of numbers of classes. Raises: DataError for a number without a name."""
    if not cells[label].str.fullmatch(r"[0-9]{1,9}").all():
        if classes and (unknown := sorted(set(cells[label]) - set(classes))):
            raise DataError(f"{raw}: {CLASSES} does not name {few(unknown)}; add it there, or remove that file")
        return cells, []
    numbers = sorted({int(text) for text in cells[label]})
    if not classes:
        line = f"{raw}: the classes are called by their numbers ({few(list(map(str, numbers)))})"
        return cells, [f"{line}; a {CLASSES} beside the shards, a name a line from number 0 on, names them"]
    if numbers[-1] >= len(classes):
        raise DataError(f"{raw}: a sample has class {numbers[-1]}, and {CLASSES} has {len(classes)} names from 0 on")
    return cells.assign(**{label: [classes[int(text)] for text in cells[label]]}), []
