"""DVC's cache as it lies on disk: where it is, and which of its files an out of dvc.lock is made of.

Where it is stands in DVC's settings, which are read here as files: `dvc config` takes a second, as importing DVC does,
and workers need no DVC. The layout of the cache has been the same since DVC 3.0.
"""

import configparser
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

_FOLDER = ".dvc"
_LOCK = Path("dvc.lock")


def folder() -> Path | None:
    """Return the real path of the cache of the DVC repository that the current folder is in; None outside of one."""
    for parent in (Path.cwd(), *Path.cwd().parents):
        own = parent / _FOLDER
        if own.is_dir():
            named = [place for config in _configs(own) if (place := _cache_in(config)) is not None]
            return Path(os.path.realpath(named[-1] if named else own / "cache"))
    return None


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


def _configs(own: Path) -> Iterator[Path]:
    """Yield the files that DVC reads its settings from; a later one wins over those before it."""
    home = Path.home()
    yield Path(os.environ.get("DVC_SYSTEM_CONFIG_DIR", "/etc/xdg/dvc"), "config")
    yield home / "Library" / "Application Support" / "dvc" / "config"
    yield Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config", "dvc", "config")
    if place := os.environ.get("DVC_GLOBAL_CONFIG_DIR"):
        yield Path(place, "config")
    yield own / "config"
    yield own / "config.local"


def _cache_in(config: Path) -> Path | None:
    """Return the cache that a file of settings names, which is told from its own folder; None if it names none."""
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read_string(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, configparser.Error):  # DVC will say so
        return None
    named = parser.get("cache", "dir", fallback="").strip().strip("\"'")
    return config.parent / Path(named).expanduser() if named else None
