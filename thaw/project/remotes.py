"""What `thaw setup` adds to the remotes in .dvc/config: objects are hashed on their way, and waiting ends in time."""

import configparser
import subprocess
import sys
from pathlib import Path

from thaw.errors import RunError
from thaw.pipeline.revisions import WAITING

CONFIG = ".dvc/config"
_PREFIX, _SUFFIX = "'remote \"", "\"'"
_VERIFY = {"verify": "true"}


def guard_remotes(root: Path) -> list[str]:
    """Set what the remotes of a project leave open; return what was done, a line each.

    Raises: RunError if .dvc/config cannot be read, or DVC cannot write it.
    """
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(root / CONFIG, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError) as error:
        raise RunError(f"{CONFIG} cannot be read: {str(error).splitlines()[0]}; mend it") from None
    done = []
    for section in parser.sections():
        if section.startswith(_PREFIX):
            name = section.removeprefix(_PREFIX).removesuffix(_SUFFIX)
            present = parser[section]
            scheme = present.get("url", "").partition("://")[0]
            wanted = _VERIFY | {key: str(value) for key, value in WAITING.get(scheme, {}).items()}
            missing = {key: value for key, value in wanted.items() if key not in present}
            for key, value in missing.items():
                _modify(root, name, key, value)
            words = ", ".join(f"{key} = {value}" for key, value in missing.items())
            done.append(f"remote {name}: {f'{words} set in {CONFIG}; commit it' if words else 'as it was'}")
    return done


def _modify(root: Path, name: str, key: str, value: str) -> None:
    command = [sys.executable, "-m", "dvc", "remote", "modify", "--project", name, key, value]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if ended.returncode:
        said = (ended.stderr.strip().splitlines() or ["it printed nothing"])[0]
        raise RunError(f"`dvc remote modify {name} {key}` failed: {said.removeprefix('ERROR: ')}")
