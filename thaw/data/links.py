"""Which symbolic links among the images are followed out of the data folder: those into DVC's cache, and as allowed.

`dvc config cache.type symlink` has DVC put links to the objects of its cache in the place of files.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from thaw.config.schema import DataParams
from thaw.errors import DataError
from thaw.pipeline import dvc_cache

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
    return Followed(dvc_cache.folder(), tuple(Path(os.path.realpath(name)) for name in data.allow_links))
