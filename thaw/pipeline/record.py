"""What `thaw new` wrote into a project: the version of Thaw, and the hash of each file as it was written.

`thaw update` reads from it which files the team has changed, and every stage whether a newer Thaw laid the project out.
"""

import json
import re
from importlib import metadata
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from thaw import DISTRIBUTION
from thaw.errors import RunError
from thaw.pipeline.artifacts import write_text

RECORD_FILE = ".thaw-project.json"


class ProjectRecord(BaseModel):
    """The record of a project, as it lies in the project's folder and in git."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    thaw: str
    """Version of Thaw that the files are of."""
    files: dict[str, str]
    """SHA-256 of each file as it was written, by its path from the project's folder."""

    @classmethod
    def read(cls, root: Path, *, installed: str) -> Self:
        """Return a project's record; `installed` is the version of Thaw that reads it.

        Raises: RunError if there is none, that of a newer Thaw, or one that cannot be read.
        """
        path = root / RECORD_FILE
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            _compare(str(found["thaw"]), installed, root)
            return cls.model_validate(found)
        except FileNotFoundError:
            raise RunError(
                f"{path} is missing, so this is no project that `thaw new` made; run from a project's folder"
            ) from None
        except (OSError, ValueError, KeyError, TypeError, ValidationError):
            raise RunError(f"{path} cannot be read; restore it with `git checkout -- {RECORD_FILE}`") from None

    def write(self, root: Path) -> None:
        """Write the record in one step."""
        write_text(root / RECORD_FILE, json.dumps(self.model_dump(), indent=2, sort_keys=True) + "\n")


def refuse_newer(root: Path) -> None:
    """Look at a folder that may be a project. Raises: RunError if a newer Thaw than the installed one laid it out.

    The version comes from the installation, not from the source: stages call this, and a source file with the version
    would be a dependency of them all.
    """
    try:
        installed = metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:  # run from a clone of Thaw itself
        return
    if (root / RECORD_FILE).exists():
        ProjectRecord.read(root, installed=installed)


def _compare(made_by: str, installed: str, root: Path) -> None:
    if _release(made_by) > _release(installed):
        raise RunError(
            f"{root.resolve()} is a project of Thaw {made_by}, and {installed} is installed; "
            "run `pip install -r requirements.txt` there"
        )


def _release(version: str) -> tuple[int, ...]:
    """Return the numbers of a release to compare by; what follows them (rc1, .dev0) counts as the release itself."""
    match = re.match(r"\d+(\.\d+)*", version)
    if match is None:
        raise ValueError(f"{version!r} is no version")
    return tuple(int(part) for part in match[0].split("."))
