"""Start from a model that Thaw made: transfer in a chain, cars to trucks to pick-ups.

A parent is a copy of a run's models/final, which holds the whole network and says what it was trained on.
"""

from pathlib import Path

from thaw import files
from thaw.errors import ArtifactError, BackboneError
from thaw.network.spec import Parent, Spec, read_spec
from thaw.network.weights import Found, read_tensors

_WEIGHTS = "weights.safetensors"


def describe(name: str) -> Spec:
    """Return the Spec of the model in a folder: its network's, with what it was trained on."""
    folder = _folder(name)
    try:
        fingerprint = files.verify(folder)
        facts = files.read_json(folder / "model.json")
        spec = read_spec(facts["backbone"])
        parent = Parent(model=fingerprint, classes=facts["classes"], data=facts["lineage"]["data"], parent=spec.parent)
    except (ArtifactError, KeyError) as error:
        raise BackboneError(f"model:{name} is no whole model of Thaw: {error}") from None
    return spec.model_copy(update={"parent": parent, "url": f"model:{name}"})


def fetch(name: str, _: Spec) -> Found:
    """Return the whole backbone of the model in a folder, as its training left it."""
    path = _folder(name) / _WEIGHTS
    tensors = {
        key.removeprefix("backbone."): value for key, value in read_tensors(path).items() if key.startswith("backbone.")
    }
    return Found(tensors, files.sha256_of(path), str(path))


def _folder(name: str) -> Path:
    folder = Path(name)
    if not folder.is_dir():
        raise BackboneError(
            f"backbone.source is model:{name}, but there is no such folder; give a copy of a run's models/final"
        )
    return folder
