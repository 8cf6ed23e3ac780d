"""A project of one stage that copies an image, with a params.yaml of Thaw: the real `dvc`, in seconds. No test here."""

from pathlib import Path

from tests.conftest import ROOT
from tests.pipeline.clone import Clone
from thaw.project.params_text import with_value

_GRAPH = "stages:\n  prepare:\n    cmd: cp data/images/cat/1.jpg out\n    deps: [data/images]\n    outs: [out]\n"


def write_toy(root: Path) -> Clone:
    """Lay out a project below a folder, outside of git, with two classes of two files."""
    for label in ("cat", "dog"):
        (root / "data" / "images" / label).mkdir(parents=True)
        for number in (1, 2):
            (root / "data" / "images" / label / f"{number}.jpg").write_text(f"{label} {number}")
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    for key in ("data.raw", "data.labels"):
        text = with_value(text, key, "data/images")
    (root / "params.yaml").write_text(text, encoding="utf-8")
    (root / "dvc.yaml").write_text(_GRAPH)
    (root / ".dvcignore").write_bytes((ROOT / ".dvcignore").read_bytes())
    (root / ".dvc").mkdir()
    (root / ".dvc" / "config").write_text("[core]\n    analytics = false\n    no_scm = true\n")
    return Clone(root, {"PYTHONPATH": str(ROOT)})
