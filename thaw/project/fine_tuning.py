"""`thaw.fine_tune`: a project made or reused, its pipeline run, and the result as an object, from Python."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from thaw.errors import RunError
from thaw.pipeline import facts
from thaw.pipeline.artifacts import remove, write_text
from thaw.pipeline.record import RECORD_FILE, ProjectRecord
from thaw.pipeline.report_facts import Metrics
from thaw.project import files, images
from thaw.project.layout import Wish, enclosing_repository, new_project, track_images
from thaw.project.params_text import value_at, with_value
from thaw.training import model
from thaw.version import VERSION


@dataclass(frozen=True)
class FineTuned:
    """What a run of a project's pipeline ended with."""

    project: Path
    metrics: Metrics
    """The figures on validation and test images: `metrics.test["accuracy"]`."""

    @property
    def report(self) -> Path:
        """The page with the evidence, to open in a browser."""
        return self.project / "reports" / "index.html"

    @cached_property
    def model(self) -> model.Model:
        """The classifier: `model.predict(["a.jpg"])` gives probabilities, in the order of `model.classes`."""
        return model.load(self.project / "models" / "final", project=self.project)


def fine_tune(
    images: Path | str | None,
    project: Path | str,
    *,
    backbone: str | None = None,
    params: Mapping[str, object] | None = None,
) -> FineTuned:
    """Fine-tune a network on images, as `thaw new` and `thaw repro` do; return metrics, model and report.

    `images` is a folder with a sub-folder for each class, an archive of one, or a CSV that lists the images; None takes
    those that the project has. `project` is a folder: a project that is there is reused, and stages whose inputs have
    not changed do not run again. `backbone` is a source such as `timm:resnet50`, `params` has further values of
    params.yaml by their dotted keys (`{"prepare.fit": "pad"}`). In a reused project they replace what its params.yaml
    says.

    Raises: ThawError if the project, the images or the settings cannot be used; RunError with a stage's message if one
    fails.
    """
    root, source = Path(project).absolute(), None if images is None else Path(images)
    asked = dict(params or {}) | ({} if backbone is None else {"backbone.source": backbone})
    if (root / RECORD_FILE).exists():
        _reuse(root, source, asked)
    elif source is None:
        raise RunError(f"{root} is no project yet, and images is None; name a folder of images to make one")
    else:
        _make(root, source, backbone, params or {})
    _repro(root)
    return FineTuned(root, facts.read(root / "reports" / "metrics.json", Metrics))


def _make(root: Path, source: Path, backbone: str | None, params: Mapping[str, object]) -> None:
    folder, listed = (source, None) if _holds_images(source) else (None, source)
    subdir = enclosing_repository(root) is not None
    new_project(Wish(root, folder, listed, backbone, subdir, params))
    print(f"{root}: a new project{', a part of the git repository around it' if subdir else ''}", flush=True)


def _holds_images(source: Path) -> bool:
    """Tell whether images are given as a folder or an archive, and not as a table that lists them."""
    return source.exists() and not images.is_table(source)


def _reuse(root: Path, source: Path | None, asked: Mapping[str, object]) -> None:
    """Bring a project's images and params.yaml to what is asked for. Raises: RunError for one of a newer Thaw."""
    ProjectRecord.read(root, installed=VERSION)
    text = before = (root / files.PARAMS).read_text(encoding="utf-8")
    for path, value in asked.items():
        if value_at(text, path) != value:
            text = with_value(text, path, value)
            if path == "backbone.source" and value_at(text, "backbone.sha256") is not None:
                text = with_value(text, "backbone.sha256", None)
    if source is not None:
        _replace_images(root, source)
    if text != before:
        write_text(root / files.PARAMS, text)
    print(f"{root}: a project that is there", flush=True)


def _replace_images(root: Path, source: Path) -> None:
    """Copy the images again if they are not those that the project has, and tell DVC."""
    folder, given = (source, None) if _holds_images(source) else (None, source)
    listed = images.list_images(folder, given)
    manifest = images.manifest_of(listed, folder, given)
    present = root / images.FOLDER
    if images.same_images(listed, manifest, present):
        return
    new = present.with_name(f".{present.name}.partial")
    remove(new)
    unreadable = images.copy_images(listed, manifest, new)
    remove(present)
    new.rename(present)
    track_images(root)
    print(f"{present}: replaced by the images of {source}", *unreadable, sep="\n  left out: ", flush=True)


def _repro(root: Path) -> None:
    """Run `thaw repro` with this interpreter, and print what it prints. Raises: RunError with a failed stage's message.

    Its output goes through Python's own: in a notebook a child's would end in the server's log.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    said: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-m", "thaw", "repro"],
        cwd=root,
        env=os.environ | {"PATH": path, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                print(line, end="", flush=True)
                said.append(line.strip())
        except BaseException:  # an interrupted cell: the stages end with the dvc that started them
            process.terminate()
            raise
    if process.returncode:
        reasons = [line for line in said if line and not line.startswith(("ERROR: failed to reproduce", "Running"))]
        raise RunError(f"`thaw repro` failed in {root}: {reasons[-1] if reasons else 'it printed nothing'}")
