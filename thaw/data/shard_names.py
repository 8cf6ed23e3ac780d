"""Files that hold a data set in parts: which there are, in which order, and which split their names say."""

import re
from collections.abc import Sequence
from pathlib import Path

from thaw.data.manifest import SPLITS
from thaw.data.places import Folder
from thaw.errors import DataError

_BESIDE = (".md", ".txt", ".json", ".jsonl", ".yaml", ".yml", ".idx", ".gitattributes", ".sha256", ".md5")


def of_folder(folder: Path, suffix: str) -> list[Path]:
    """Return the files of a folder with that suffix, in order; none where it has files or folders of another kind.

    They stand in it, or in folders of it. Notes and indexes may stand beside them.
    """
    found, pending = list[Path](), [""]
    while pending:
        above = pending.pop()
        for entry in Folder(folder).entries(above):
            path = f"{above}/{entry.name}".lstrip("/")
            if entry.kind == "folder":
                pending.append(path)
            elif entry.name.lower().endswith(suffix):
                found.append(folder / path)
            elif not entry.name.lower().endswith(_BESIDE):
                return []
    return sorted(found)


def splits(files: Sequence[Path], root: Path) -> list[str]:
    """Return the split that the name of each file, or of its folder, says: `train-00000-of-00002`; '' if none does.

    Of a single file the name says nothing. Raises: DataError if some names say one and others do not.
    """
    found = [_split(file.relative_to(root).with_suffix("").as_posix()) for file in files]
    if len(files) < 2 or not any(found):
        return [""] * len(files)
    if without := [file for file, split in zip(files, found, strict=True) if not split]:
        raise DataError(
            f"{without[0]} has none of {', '.join(SPLITS)} in its name, as other files there have; move it elsewhere, "
            "or rename it"
        )
    return found


def _split(name: str) -> str:
    words = [
        SPLITS[word]
        for part in reversed(name.split("/"))
        for word in re.split(r"[-_.0-9]+", part.lower())
        if word in SPLITS
    ]
    return words[0] if words else ""
