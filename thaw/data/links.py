"""Which symbolic links among the images are followed out of the data folder: those into DVC's cache, and as allowed.

`dvc config cache.type symlink` has DVC put links to the objects of its cache in the place of files. Where the cache is
stands in DVC's settings, which are read here as files: `dvc config` takes a second, and workers need no DVC.
"""

import configparser
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from thaw.config.schema import DataParams
from thaw.errors import DataError

_FOLDER = ".dvc"
# DVC 3 keeps objects below files/md5; DVC 2 kept them at the top.
_OBJECT = re.compile(r"(files/md5/)?[0-9a-f]{2}/[0-9a-f]{30}")


@dataclass(frozen=True)
class Followed:
    """Where a link may lead; real paths."""

    cache: Path | None = None
    """DVC's cache, of which objects only are read."""
    folders: tuple[Path, ...] = ()
    """All below these."""

    def leads_in(self, target: Path) -> bool:
        """Tell whether a real path is one that a link may end at."""
        return any(target.is_relative_to(folder) for folder in self.folders) or self.is_object(target)

    def is_object(self, target: Path) -> bool:
        """Tell whether a path is that of an object of the cache, which need not be there."""
        if self.cache is None or not target.is_relative_to(self.cache):
            return False
        return _OBJECT.fullmatch(target.relative_to(self.cache).as_posix()) is not None


def followed(data: DataParams) -> Followed:
    """Return where links may lead, in the current folder's project. Raises: DataError for a folder that is none."""
    for name in data.allow_links:
        if not Path(name).is_dir():
            raise DataError(f"params.yaml: data.allow_links names {name}, which is no folder; correct it, or remove it")
    return Followed(cache(), tuple(Path(os.path.realpath(name)) for name in data.allow_links))


def cache() -> Path | None:
    """Return the real path of the cache of the DVC repository that the current folder is in; None outside of one."""
    for folder in (Path.cwd(), *Path.cwd().parents):
        own = folder / _FOLDER
        if own.is_dir():
            named = [place for config in _configs(own) if (place := _cache_in(config)) is not None]
            return Path(os.path.realpath(named[-1] if named else own / "cache"))
    return None


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
