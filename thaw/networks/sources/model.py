"""Start from a model that Thaw made: transfer in a chain, cars to trucks to pick-ups.

A parent is a run's models/final, which holds the whole network and says what it was trained on: a copy of that folder,
or where DVC has it, `REPOSITORY#PATH` or `REPOSITORY#PATH@REVISION`.
"""

from pathlib import Path

from thaw.errors import ArtifactError, BackboneError
from thaw.networks import model_files
from thaw.networks.sources.weights import Found
from thaw.networks.spec import Spec
from thaw.pipeline import artifacts, elsewhere, facts
from thaw.pipeline.model_facts import ModelFacts, Parent


def describe(name: str) -> Spec:
    """Return the Spec of the model in a folder: its network's, with what it was trained on."""
    folder = folder_of(name)
    try:
        fingerprint = artifacts.verify(folder)
        stored = facts.read(folder / "model.json", ModelFacts)
    except ArtifactError as error:
        raise BackboneError(f"model:{name} is no whole model of Thaw: {error}") from None
    spec = Spec.of(stored.backbone, folder)
    parent = Parent(model=fingerprint, classes=stored.classes, data=stored.lineage.data, parent=spec.parent)
    return spec.model_copy(update={"parent": parent, "url": f"model:{name}"})


def fetch(name: str, _: Spec) -> Found:
    """Return the whole backbone of the model in a folder, as its training left it; of several networks, the first's.

    Raises: BackboneError if a file holds something other than tensors, of which nothing is run.
    """
    folder = folder_of(name)
    members = facts.read(folder / "model.json", ModelFacts).members
    if members:
        print(f"model:{name} is the mean of {members} networks; the first of them is what is built on")
    try:
        first = model_files.load_networks(folder)[0]
    except ArtifactError as error:
        raise BackboneError(f"model:{name}: {error}") from None
    tensors = {key.removeprefix("backbone."): value for key, value in first.items() if key.startswith("backbone.")}
    return Found(tensors, model_files.digest(folder), f"see what changed model:{name}")


def folder_of(name: str, *, fingerprint: str | None = None) -> Path:
    """Return the folder of a model, brought from where DVC has it if it is named so.

    One that was brought before is used again if its manifest has the `fingerprint`, a SHA-256, or if its revision is a
    version or the hash of a commit.
    Raises: BackboneError if it is not there or cannot be brought.
    """
    if elsewhere.is_elsewhere(name):
        try:
            return elsewhere.bring(name, fingerprint=fingerprint)
        except ArtifactError as error:
            raise BackboneError(f"model:{error}") from None
    folder = Path(name)
    if not folder.is_dir():
        raise BackboneError(
            f"model:{name}: there is no such folder; give a copy of a run's models/final, or "
            "REPOSITORY#models/final@REVISION"
        )
    return folder
