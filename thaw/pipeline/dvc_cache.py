"""DVC's cache as it lies on disk: where it is, and which of its files an out of dvc.lock is made of.

A stage cannot import DVC, which takes a second; the layout of the cache has been the same since DVC 3.0.
"""

import configparser
import json
from pathlib import Path
from typing import Any

import yaml

_CONFIGS = (".dvc/config", ".dvc/config.local")
_LOCK = Path("dvc.lock")


def folder() -> Path | None:
    """Return the cache that the project in the current folder uses; None without a project, or where it is not told.

    Settings of the user and of the machine, outside of the project, are not looked at.
    """
    root = next((parent for parent in (Path.cwd(), *Path.cwd().parents) if (parent / ".dvc").is_dir()), None)
    if root is None:
        return None
    found = root / ".dvc" / "cache"
    for config in _CONFIGS:
        parser = configparser.ConfigParser(interpolation=None)
        try:
            parser.read(root / config, encoding="utf-8")
        except (configparser.Error, OSError, UnicodeDecodeError):
            return None
        if told := parser.get("cache", "dir", fallback=None):
            found = (root / config).parent / told  # relative to the file that names it
    return found


def files_of(stage: str, out: str) -> dict[str, Path] | None:
    """Return the files of a folder that a stage wrote, as dvc.lock names them, by their paths in it.

    None if dvc.lock does not name it, or if the cache does not have all of it.
    """
    cache = folder()
    if cache is None:
        return None
    try:
        lock: Any = yaml.safe_load(_LOCK.read_text(encoding="utf-8"))
        (md5,) = (entry["md5"] for entry in lock["stages"][stage]["outs"] if entry["path"] == out)
        listed = json.loads(_object(cache, md5).read_text(encoding="utf-8"))
        files = {str(entry["relpath"]): _object(cache, entry["md5"]) for entry in listed}
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):  # torn, of an older DVC, or not there
        return None
    return files if all(path.is_file() for path in files.values()) else None


def _object(cache: Path, md5: str) -> Path:
    return cache / "files" / "md5" / md5[:2] / md5[2:]
