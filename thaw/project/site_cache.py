"""Where DVC keeps its tables of hashes, links and remote objects: a folder that only its user can enter.

They are tables of diskcache, which reads values by pickle (CVE-2025-69872): whoever can write one runs code in the next
`dvc checkout` or `dvc pull`. DVC's own place is /var/tmp/dvc, which every user of the machine can write.
"""

import os
import subprocess
import sys
from pathlib import Path

from thaw.errors import RunError

KEY, VARIABLE = "core.site_cache_dir", "DVC_SITE_CACHE_DIR"


def keep_private(root: Path) -> list[str]:
    """Give a clone tables in the user's own folder, unless DVC is told where to have them; return what was done.

    Raises: RunError if the folder cannot be made the user's own, or DVC cannot read or write its settings.
    """
    if not (root / ".dvc").is_dir():
        return []
    if os.environ.get(VARIABLE):
        return [f"{KEY}: as {VARIABLE} says; no other user should be able to enter that folder"]
    place = private_folder()
    if present := _config(root, KEY):
        if present == str(place):
            _make(place)
            return [f"{KEY}: as it was ({place})"]
        return [f"{KEY}: {present} is your own, and left; no other user should be able to enter that folder"]
    _make(place)
    _config(root, "--local", KEY, str(place))
    return [f"{KEY}: set to {place}, which no other user can enter"]


def private_folder() -> Path:
    """Return the folder for DVC's tables of all projects of this user; it need not be there."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "thaw", "dvc").absolute()


def _make(folder: Path) -> None:
    """Make a folder that its owner alone can enter: DVC opens what it makes in there to everybody."""
    try:
        for part in (folder.parent.parent, folder.parent, folder):  # whoever can write around it can replace it
            part.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise RunError(
            f"{folder} cannot be made a folder of yours alone: {error.strerror}; mend that, or name another one by "
            f"`dvc config --local {KEY} FOLDER`, and run `thaw setup` again"
        ) from None


def _config(root: Path, *arguments: str) -> str:
    """Return what `dvc config` printed, nothing for a key that is not set. Raises: RunError with DVC's reason."""
    command = [sys.executable, "-m", "dvc", "config", *arguments]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if ended.returncode:
        said = (ended.stderr.strip().splitlines() or ["it printed nothing"])[0]
        raise RunError(f"`dvc config {' '.join(arguments)}` failed: {said.removeprefix('ERROR: ')}")
    return ended.stdout.strip()
