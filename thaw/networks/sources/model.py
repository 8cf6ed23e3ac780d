"""Start from a model that Thaw made: transfer in a chain, cars to trucks to pick-ups.

A parent is a run's models/final, which holds the whole network and says what it was trained on: a copy of that folder,
or where DVC has it, `REPOSITORY#PATH` or `REPOSITORY#PATH@REVISION`.
"""

import functools
import subprocess
import sys
from pathlib import Path

from thaw.errors import ArtifactError, BackboneError
from thaw.networks.sources.weights import Found, read_tensors
from thaw.networks.spec import Spec
from thaw.pipeline import artifacts, facts, scratch
from thaw.pipeline.model_facts import ModelFacts, Parent

_WEIGHTS = "weights.safetensors"


def describe(name: str) -> Spec:
    """Return the Spec of the model in a folder: its network's, with what it was trained on."""
    folder = folder_of(name)
    try:
        fingerprint = artifacts.verify(folder)
        stored = facts.read(folder / "model.json", ModelFacts)
    except ArtifactError as error:
        raise BackboneError(f"model:{name} is no whole model of Thaw: {error}") from None
    spec = Spec.of(stored.backbone)
    parent = Parent(model=fingerprint, classes=stored.classes, data=stored.lineage.data, parent=spec.parent)
    return spec.model_copy(update={"parent": parent, "url": f"model:{name}"})


def fetch(name: str, _: Spec) -> Found:
    """Return the whole backbone of the model in a folder, as its training left it; of several networks, the first's."""
    path = folder_of(name) / _WEIGHTS
    members = facts.read(path.parent / "model.json", ModelFacts).members
    if members:
        print(f"model:{name} is the mean of {members} networks; the first of them is what is built on")
    tensors = {
        key.removeprefix("backbone."): value for key, value in read_tensors(path).items() if key.startswith("backbone.")
    }
    return Found(tensors, artifacts.sha256_of(path), f"see what changed model:{name}")


def folder_of(name: str, *, fingerprint: str | None = None) -> Path:
    """Return the folder of a model, brought from where DVC has it if it is named so.

    One that was brought before is used again only if its manifest has the `fingerprint`, a SHA-256, that is wanted.
    Raises: BackboneError if it is not there or cannot be brought.
    """
    if "#" in name:
        kept = _kept(name)
        return kept if fingerprint is not None and _is(kept, fingerprint) else _from_dvc(name)
    folder = Path(name)
    if not folder.is_dir():
        raise BackboneError(
            f"model:{name}: there is no such folder; give a copy of a run's models/final, or "
            "REPOSITORY#models/final@REVISION"
        )
    return folder


def _kept(name: str) -> Path:
    return scratch.folder() / "downloads" / artifacts.sha256_of_bytes(name.encode())[:16]


def _is(folder: Path, fingerprint: str) -> bool:
    try:
        return artifacts.verify(folder) == fingerprint
    except ArtifactError:
        return False


@functools.cache
def _from_dvc(name: str) -> Path:
    """Return a folder that DVC tracks in a repository, brought here once per process: a branch may have moved."""
    repository, _, place = name.partition("#")
    path, _, revision = place.partition("@")
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
        reason = next(
            (line for line in done.stderr.splitlines() if line.startswith("ERROR: ")), "ERROR: dvc get failed"
        )
        raise BackboneError(
            f"model:{name} could not be brought: {reason.removeprefix('ERROR: ')}; write REPOSITORY#PATH or "
            "REPOSITORY#PATH@REVISION, and see that its remote can be reached"
        )
    artifacts.remove(folder)
    partial.rename(folder)
    return folder
