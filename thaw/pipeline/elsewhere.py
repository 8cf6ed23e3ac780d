"""Folders that DVC tracks in another repository: REPOSITORY#PATH or REPOSITORY#PATH@REVISION.

A revision is what git knows there, also the tag of a version that GTO registered, such as classifier@v1.0.0. `dvc get`
brings the folder into the scratch folder.
"""

import functools
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from thaw.errors import ArtifactError, MissingLibraryError
from thaw.pipeline import artifacts, scratch

# https://dvc.org/doc/gto/user-guide: NAME@VERSION, with a version as https://semver.org has it after a v.
_VERSION = re.compile(r"(?P<name>.+)@v(?P<number>\d+\.\d+\.\d+)(?P<rest>[-+.\w]*)")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHOWN = 5


def is_elsewhere(name: str) -> bool:
    """Tell whether this names a folder in a repository, and not one on disk."""
    return "#" in name and not Path(name).exists()


def revision_of(name: str) -> str:
    """Return the revision that `REPOSITORY#PATH@REVISION` names, '' without one."""
    return _parts(name)[2]


def bring(name: str, *, fingerprint: str | None = None) -> Path:
    """Return a copy of a folder in the scratch folder, brought there once per process: a branch may have moved.

    A copy that was brought before is used again, without asking the repository, where it is whole and its manifest has
    this `fingerprint` (a SHA-256), or where the revision is a version or the whole hash of a commit, which do not move.
    Raises: ArtifactError if it cannot be brought; MissingLibraryError without DVC.
    """
    kept = _kept(name)
    revision = revision_of(name)
    stays = _VERSION.fullmatch(revision) is not None or _COMMIT.fullmatch(revision) is not None
    found = _fingerprint(kept) if stays or fingerprint is not None else None
    return kept if found is not None and (stays or found == fingerprint) else _brought(name)


def _parts(name: str) -> tuple[str, str, str]:
    repository, _, place = name.partition("#")
    path, _, revision = place.partition("@")
    return repository, path, revision


def _kept(name: str) -> Path:
    return scratch.folder() / "downloads" / artifacts.sha256_of_bytes(name.encode())[:16]


def _fingerprint(folder: Path) -> str | None:
    """Return the SHA-256 of the manifest of a folder, None if it is not there or not whole."""
    try:
        return artifacts.verify(folder)
    except ArtifactError:
        return None


@functools.cache
def _brought(name: str) -> Path:
    if importlib.util.find_spec("dvc") is None:
        raise MissingLibraryError(f"dvc is not installed, which brings {name}; run `pip install dvc`")
    repository, path, revision = _parts(name)
    folder = _kept(name)
    partial = folder.with_name(f".{folder.name}.partial")
    artifacts.remove(partial)
    folder.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "dvc", "get", repository, path, "--out", str(partial)]
    done = subprocess.run(
        [*command, *(["--rev", revision] if revision else [])], capture_output=True, text=True, check=False
    )
    if done.returncode:
        artifacts.remove(partial)
        raise ArtifactError(f"{name} could not be brought: {_reason(done.stderr, repository, path, revision)}")
    artifacts.remove(folder)
    partial.rename(folder)
    return folder


def _reason(printed: str, repository: str, path: str, revision: str) -> str:
    """Return why `dvc get` failed and what to do, by what it printed and what the repository has."""
    line = next((line for line in printed.splitlines() if line.startswith("ERROR: ")), "ERROR: dvc get failed")
    said = line.removeprefix("ERROR: ").partition(": HTTP")[0]
    if "is not a git repository" in said:
        return f"{repository} is no git repository; correct its path or address"
    if "Failed to clone" in said:
        cause = said.rpartition("': ")[2][:200]  # after the folders that it would have been cloned from and to
        return f"{repository} cannot be cloned ({cause}); see to network, address and rights"
    if "unknown Git revision" in said:
        return f"{repository} has no revision {revision}; {_versions(repository, revision)}"
    if said.startswith("unexpected error - ["):  # all that DVC says of a path that is not in the repository
        return f"{repository} has no {path} at {revision or 'its HEAD'}; correct the path"
    return f"{said[:300]}; if its remote lacks it, run `dvc push --all-commits` in a clone that has it"


def _versions(repository: str, revision: str) -> str:
    """Return the versions that exist of what a revision names, in words."""
    command = ["git", "ls-remote", "--tags", "--refs", "--", repository]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    tags = [line.partition("refs/tags/")[2] for line in done.stdout.splitlines()]
    name = revision.rpartition("@")[0]
    known = newest(tag for tag in tags if not name or tag.startswith(f"{name}@"))
    if not known:
        return f"no version of {name or 'a model'} is registered there, which `gto register NAME` does"
    more = ", ..." if len(known) > _SHOWN else ""
    return f"there are {', '.join(known[:_SHOWN])}{more}"


def newest(tags: Iterable[str]) -> list[str]:
    """Return those tags that are versions of GTO, the newest of each name first."""
    found = [match for tag in tags if (match := _VERSION.fullmatch(tag))]
    found.sort(key=lambda match: (not match["rest"], match["rest"]), reverse=True)
    found.sort(key=lambda match: [int(part) for part in match["number"].split(".")], reverse=True)
    return [match[0] for match in sorted(found, key=lambda match: match["name"])]
