"""A parent from another repository that has changed since the last run is refused, by what DVC keeps of that run."""

from pathlib import Path

import pytest

from tests import tiny
from tests.pipeline.clone import Clone
from thaw.errors import BackboneError
from thaw.networks.sources.pinning import check_parent
from thaw.networks.spec import Spec
from thaw.pipeline import facts
from thaw.pipeline.model_facts import BackboneFacts, Parent

SOURCE = "model:https://example.org/team/cars#models/final@v2"
_GRAPH = "stages:\n  backbone:\n    cmd: mkdir -p models && cp -r made models/backbone\n    outs: [models/backbone]\n"


def from_parent(fingerprint: str) -> Spec:
    parent = Parent(model=fingerprint, classes=["car", "van"], data="d" * 64)
    return tiny.backbone().spec.model_copy(update={"parent": parent, "sha256": "e" * 64})


def test_a_changed_parent_is_refused_and_another_revision_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clone = Clone(tmp_path)
    monkeypatch.chdir(tmp_path)
    check_parent(SOURCE, from_parent("a" * 64))
    assert capsys.readouterr().out.startswith(f"{SOURCE} is {'a' * 64}, which the model's lineage keeps")
    (tmp_path / "made").mkdir()
    last = BackboneFacts(source=SOURCE, backbone=from_parent("a" * 64), blocks=["conv1"], features=3)
    facts.write(tmp_path / "made" / "model.json", last)
    (tmp_path / "dvc.yaml").write_text(_GRAPH)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    no_scm = true\n")
    clone.succeed("dvc", "repro", "--quiet")
    clone.succeed("rm", "-r", "models/backbone")  # as DVC does before it calls the stage
    check_parent(SOURCE, from_parent("a" * 64))
    with pytest.raises(BackboneError, match=rf"^{SOURCE} has changed: .* {'a' * 64}, and this is {'b' * 64}; set back"):
        check_parent(SOURCE, from_parent("b" * 64))
    check_parent(SOURCE.replace("@v2", "@v3"), from_parent("b" * 64))
    check_parent("model:parents/cars", from_parent("b" * 64))  # a folder here is the user's own
