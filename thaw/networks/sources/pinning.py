"""The parent of a model stays the one that the last run began from, unless params.yaml names another one's hash.

A manifest proves that a folder is whole, not who wrote it, and a revision of somebody's repository can be moved. The
lineage of the last run names its parent by the SHA-256 of the manifest, and git has that run's dvc.lock.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from thaw.errors import ArtifactError, BackboneError
from thaw.networks.spec import Spec
from thaw.pipeline import elsewhere, facts, presence
from thaw.pipeline.model_facts import BackboneFacts

_RECORDED = "models/backbone/model.json"


def check_parent(source: str, spec: Spec) -> None:
    """Compare the parent that REPOSITORY#PATH@REVISION gave with that of the last run, if that named it so too.

    The last run is the one in dvc.lock; where neither DVC's cache nor its remote has it, a line says so. Raises:
    BackboneError if it was another one.
    """
    if spec.parent is None or not elsewhere.is_elsewhere(source.removeprefix("model:")):
        return
    with TemporaryDirectory() as folder:
        path = Path(folder, "model.json")
        if not presence.recorded(_RECORDED, path):
            print(f"{source} is {spec.parent.model}, which the model's lineage keeps; dvc.lock has no earlier one")
            return
        try:
            last = facts.read(path, BackboneFacts)
        except ArtifactError:  # of another version of Thaw
            return
    before = last.backbone.parent
    if last.source == source and before is not None and before.model != spec.parent.model:
        raise BackboneError(
            f"{source} has changed: the last run began from the model with the fingerprint {before.model}, and this is "
            f"{spec.parent.model}; set backbone.sha256 to {spec.sha256} if you trust it, or name the revision that you "
            "mean"
        )
