"""A team's images brought into a project: copied below data/images, where DVC tracks them.

Files are copied, never hard-linked: DVC makes what it tracks read-only, and an original that shares its bytes with
DVC's cache would spoil the cache when it is edited. Where the file system can share blocks (btrfs, XFS) a copy takes no
room.
"""

import errno
import filecmp
import os
import re
import shutil
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from thaw.config.schema import DataParams
from thaw.data import dialect, listing, sources
from thaw.data.columns import COLUMNS, NEEDED
from thaw.data.listing import MANIFEST, Listing
from thaw.data.pixel_values import UnusableError
from thaw.errors import DataError
from thaw.progress import progress
from thaw.project import looking
from thaw.project.labels import table_text

FOLDER = "data/images"


def list_images(
    images: Path | None, manifest: Path | None, columns: Mapping[str, str] | None = None, ignored: Sequence[str] = ()
) -> Listing:
    """Return what a folder or a table lists, whose columns are called as `columns` says, but for those `ignored`.

    Raises: DataError if that is no data set, or both are given.
    """
    if images is not None and manifest is not None:
        raise DataError("--images and --manifest are both given; give the folder, or the CSV that lists the images")
    if manifest is not None and not manifest.is_file():
        raise DataError(f"--manifest is {manifest}, which is no file; give a CSV with the columns path and label")
    if images is not None and re.match(r"[a-z][a-z0-9+]*:/", str(images)):
        raise DataError(
            f"--images is {images}, an address; leave it out, and run `thaw data fetch ADDRESS` in the new project"
        )
    if images is not None and (not images.exists() or is_table(images)):
        raise DataError(
            f"--images is {images}, which is no folder and no archive; give a folder with a sub-folder for each class, "
            "or --manifest with a table of images"
        )
    source = images if images is not None else manifest
    assert source is not None
    try:
        how = DataParams.model_validate({"raw": str(source), "columns": columns or {}, "ignore_columns": [*ignored]})
    except ValidationError:
        raise DataError(
            f"--column takes one of {', '.join(COLUMNS)}, then = and the name in the table, such as path=file_name"
        ) from None
    return listing.read(source, data=how)


def is_table(path: Path) -> bool:
    """Tell whether images are given as a table that lists them; a folder, an archive and what is not there are none."""
    return path.is_file() and sources.kind_of(path) == "table"


def manifest_of(listed: Listing, images: Path | None, manifest: Path | None) -> bytes | None:
    """Return the manifest.csv that goes with copies of the images; None where folders are the classes.

    A table that is read without a remark is kept as it is; of another one the rows that were understood are written.
    """
    if not listed.from_table:
        return None
    path = manifest or (listing.table_of(images) if images is not None else None)
    if path is not None and not listed.notes and set(NEEDED) <= set(dialect.read(path).table.columns):
        return path.read_bytes()
    return table_text(listed.table).encode()


def copy_images(listed: Listing, manifest: bytes | None, folder: Path) -> list[str]:
    """Copy what is listed into a new folder, with the manifest; return what cannot be read, each with the reason."""
    unreadable = []
    folder.mkdir(parents=True)
    for path in progress(listed.table["path"], total=len(listed.table), label="images copied"):
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if reason := _why_unreadable(listed, path):
            unreadable.append(f"{path}: {reason}")
        elif listed.archive is not None:
            target.write_bytes(listed.archive.read(path, looking.MAX_MEGAPIXELS))
        else:
            _copy(listed.root / path, target)
    if manifest is not None:
        (folder / MANIFEST).write_bytes(manifest)
    return unreadable


def same_images(listed: Listing, manifest: bytes | None, folder: Path) -> bool:
    """Tell whether a folder holds what `copy_images` would write into it, byte for byte."""
    wanted = {path for path in listed.table["path"] if not _why_unreadable(listed, path)}
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    if manifest is not None:
        if MANIFEST not in present or (folder / MANIFEST).read_bytes() != manifest:
            return False
        present.remove(MANIFEST)
    paths = progress(sorted(wanted), total=len(wanted), label="images compared")
    return present == wanted and all(_is_same(listed, path, folder / path) for path in paths)


def _is_same(listed: Listing, path: str, copy: Path) -> bool:
    if listed.archive is not None:
        return listed.archive.read(path, looking.MAX_MEGAPIXELS) == copy.read_bytes()
    return filecmp.cmp(listed.root / path, copy, shallow=False)


def _why_unreadable(listed: Listing, path: str) -> str:
    """Return why a file cannot be copied: no regular file, nothing behind a link, no permission. Empty if it can."""
    try:
        if listed.archive is not None:
            listed.archive.read(path, looking.MAX_MEGAPIXELS)
            return ""
        if not stat.S_ISREG((listed.root / path).stat().st_mode):
            return "not a regular file"
        with (listed.root / path).open("rb"):
            return ""
    except UnusableError as error:
        return str(error)
    except OSError as error:
        return error.strerror or type(error).__name__


def _copy(source: Path, target: Path) -> None:
    """Copy a file's bytes, sharing blocks where system and file system can."""
    if hasattr(os, "copy_file_range"):
        try:
            with source.open("rb") as read, target.open("wb") as written:
                left = os.fstat(read.fileno()).st_size
                while left > 0 and (count := os.copy_file_range(read.fileno(), written.fileno(), left)):
                    left -= count
            return
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF):
                raise
    shutil.copyfile(source, target)
