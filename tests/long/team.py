"""The story of a team: two clones, one remote, jobs of CI, and another project that starts from its model.

    make story

Every step is a command that a person or a job types. The log of stages shows that none ran twice for the same inputs.
`test_story.py` runs the same. No test here.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from tests.ci import runner
from tests.ci.answering import Comments, answering
from tests.ci.runner import Outcome, Service
from tests.long import counted
from tests.photos import as_installed, write_photos
from tests.pipeline.clone import Clone, wait_for
from thaw.project.params_text import with_value

_SMALL = {
    "backbone.pretrained": False,
    "backbone.input_px": 64,
    "prepare.size_px": 64,
    "augment.flip": "horizontal",
    "features.views": 1,
    "unfreeze.defaults": {"epochs": 1, "views": 1},
    "unfreeze.phases": {"top": {"start": "head", "depth": 1}, "mid": {"start": "top", "depth": 2, "lr": 2e-4}},
    "select.folds": 2,
    "select.draws": 100,
    "evaluate.draws": 100,
    "compute": {"threads": 1, "workers": 0, "frozen_engine": "torch"},
}
_WORSE = {"head": {"hidden": [2], "epochs": 1, "lr": 1e-7}, "unfreeze.phases": {}}
_RATES = ("1e-4", "3e-4", "1e-3", "3e-3")


@dataclass
class Team:
    """Where the story happens, and what has become of it."""

    place: Path
    service: Service
    comments: Comments
    log: Path
    told: list[str] = field(default_factory=list)

    def say(self, line: str) -> None:
        """Tell a step of the story."""
        self.told.append(line)
        print(line, flush=True)

    def clone(self, name: str) -> Clone:
        """Return a person's clone, set up as the guide says."""
        root = self.place / name
        subprocess.run(["git", "clone", "--quiet", str(self.service.origin), str(root)], check=True)
        clone = Clone(root, dict(self.service.variables))
        clone.succeed("thaw", "setup")
        clone.succeed("dvc", "pull", "--quiet", "--allow-missing")
        return clone

    def stages(self) -> list[str]:
        """Return the stages that have run so far, in order."""
        return [json.loads(line)["stage"] for line in self._lines()]

    def repeated(self) -> list[str]:
        """Return the stages that ran more than once for the same inputs."""
        return [json.loads(line)["stage"] for line, count in Counter(self._lines()).items() if count > 1]

    def _lines(self) -> list[str]:
        return self.log.read_text(encoding="utf-8").splitlines() if self.log.exists() else []

    @contextmanager
    def chapter(self, title: str) -> Iterator[None]:
        """Tell a chapter, and which stages ran in it."""
        self.say(f"\n{title}")
        before = len(self._lines())
        yield
        ran = self.stages()[before:]
        self.say(f"  stages that ran: {', '.join(ran) or 'none'}")


@contextmanager
def team(place: Path) -> Iterator[Team]:
    """Yield a team with a bare git repository, a DVC remote, and a service that takes comments."""
    log, shims = place / "stages.log", place / "bin"
    shims.mkdir()
    shim = shims / "python"
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{counted.__file__}" "{log}" "{sys.executable}" "$@"\n')
    shim.chmod(0o755)
    subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", str(place / "team.git")], check=True)
    with answering() as comments:
        variables = {
            "PYTHONPATH": as_installed(place / "installed"),
            "PATH": f"{shims}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "GITHUB_API_URL": comments.url,
            "GITHUB_REPOSITORY": "team/cells",
            **{
                f"GIT_{role}_{what}": "person@localhost"
                for role in ("AUTHOR", "COMMITTER")
                for what in ("NAME", "EMAIL")
            },
        }
        yield Team(place, Service(place / "team.git", place / "caches", variables), comments, log)


def tell(story: Team) -> None:
    """Let the story happen, from the first image to another project's model."""
    with story.chapter("A lays the project out with its images, labels in git, runs it, and pushes."):
        anna = begin(story)
    with story.chapter("B clones, pulls, and runs four trials in the queue, two at a time."):
        ben = story.clone("ben")
        best = trials(story, ben)
    with story.chapter(f"B takes the best trial, {best}, into a branch, and opens a change."):
        take(ben, best)
    with story.chapter("CI judges the change: it runs nothing, compares, comments, and passes it. A merges."):
        passed = judge(story, "better")
        assert passed.code == 0, passed.output
        (comment,) = story.comments.bodies.values()
        assert comment.partition("\n")[2].strip() == passed.summary.strip()
        story.say("  comment: " + next(line for line in comment.splitlines() if line.startswith("**")))
        anna.succeed("git", "fetch", "--quiet")
        anna.succeed("git", "merge", "--quiet", "--no-edit", "origin/better")
        anna.succeed("git", "push", "--quiet", "origin", "main")
    with story.chapter("B opens a change with a head that learns nothing. CI runs it, and stops it."):
        worse(ben)
        gated = judge(story, "worse")
        assert (gated.code, "Gate: failed" in gated.output) == (1, True), gated.output
        story.say("  " + next(line for line in gated.output.splitlines() if "Gate: failed" in line).lstrip("- "))
    with story.chapter(
        "A and B relabel one image each, neighbours in the file; the branches merge, and A runs that once."
    ):
        relabel(story, anna, ben)
    with story.chapter("A promotes the model: version v1.0.0, in production."):
        promote(anna)
    with story.chapter("C, in another repository, predicts with that version and starts a model of their own from it."):
        reuse(story)
    assert not story.repeated(), f"ran twice for the same inputs: {story.repeated()}"
    counts = Counter(name.partition("@")[0] for name in story.stages())
    story.say(f"\n{sum(counts.values())} runs of stages, none twice for the same inputs: {dict(counts)}")


def begin(story: Team) -> Clone:
    """Lay the project out, bring the labels into git, run the pipeline, and push images, models and commits."""
    write_photos(story.place / "photos", images_a_class=30)
    start = Clone(story.place, dict(story.service.variables))
    start.succeed("thaw", "new", "anna", "--images", "photos", "--backbone", "timm:test_resnet")
    anna = Clone(story.place / "anna", dict(story.service.variables))
    _set(anna, _SMALL)
    anna.succeed("thaw", "labels", "export")
    anna.succeed("git", "checkout", "--quiet", "-B", "main")
    anna.succeed("git", "remote", "add", "origin", str(story.service.origin))
    anna.succeed("dvc", "remote", "add", "--default", "store", str(story.place / "store"))
    for number in range(4):  # images that came later
        random = np.random.default_rng(number)
        path = anna.root / "data" / "images" / ("bright", "dark")[number % 2] / f"new{number}.png"
        Image.fromarray((random.integers(0, 60, (80, 90, 3)) + 90 * (number % 2)).astype(np.uint8)).save(path)
    anna.succeed("thaw", "labels", "export")
    anna.succeed("dvc", "add", "--quiet", "data/images")
    anna.succeed("dvc", "repro", "--quiet")
    anna.succeed("git", "add", "--all")
    anna.succeed("git", "commit", "--quiet", "--message", "Images, labels and a first model")
    anna.succeed("dvc", "push", "--quiet", "--run-cache")
    anna.succeed("git", "push", "--quiet", "origin", "main")
    return anna


def trials(story: Team, clone: Clone) -> str:
    """Run four trials side by side, and return the name of the one with the least loss."""
    for number, rate in enumerate(_RATES):
        clone.succeed(
            "dvc", "exp", "run", "--queue", "--name", f"rate-{number}", "-S", f"unfreeze.phases.mid.lr={rate}", "select"
        )
    clone.succeed("dvc", "queue", "start", "-j", "2")
    wait_for(lambda: not re.search("Running|Queued", clone.succeed("dvc", "queue", "status")), "the queue", 300)
    story.say(clone.succeed("thaw", "trials").rstrip())
    found = json.loads(clone.succeed("thaw", "trials", "--json"))["trials"]
    assert len(found) == len(_RATES), found
    return str(min(found, key=lambda trial: trial["loss"])["name"])


def take(clone: Clone, name: str) -> None:
    """Make a trial the workspace, run what it has left out, and push it as a branch."""
    clone.succeed("git", "checkout", "--quiet", "-b", "better")
    clone.succeed("dvc", "exp", "apply", name)
    clone.succeed("dvc", "repro", "--quiet")
    _commit_and_push(clone, "better", "A better rate")


def worse(clone: Clone) -> None:
    """Push a change of params.yaml whose model will be surely worse; its author has not run it."""
    clone.succeed("git", "checkout", "--quiet", "main")
    clone.succeed("git", "pull", "--quiet", "--ff-only")
    clone.succeed("git", "checkout", "--quiet", "-b", "worse")
    _set(clone, _WORSE)
    clone.succeed("git", "commit", "--quiet", "--all", "--message", "Another head")
    clone.succeed("git", "push", "--quiet", "origin", "worse")


def judge(story: Team, branch: str) -> Outcome:
    """Run the job of a pull request as GitHub would, in a clean clone."""
    path = story.place / "anna" / ".github" / "workflows" / "pull-request.yml"
    job = runner.named(runner.github_jobs(path), "model")
    variables = {"GITHUB_HEAD_REF": branch, "GITHUB_BASE_REF": "main", "GITHUB_REF": "refs/pull/1/merge"}
    context = {
        "github.repository": "team/cells", "github.event.pull_request.head.repo.full_name": "team/cells",
        "github.head_ref": branch, "github.token": "token", "github.run_id": "1",
    }  # fmt: skip
    service = Service(story.service.origin, story.service.caches, {**story.service.variables, **variables})
    outcome = runner.run_github(job, service, story.place / f"job-{branch}", context)
    assert outcome is not None
    return outcome


def relabel(story: Team, anna: Clone, ben: Clone) -> None:
    """Let both relabel one of two neighbouring images, merge, and run the pipeline once for the result."""
    first, second = "bright/0.png", "bright/10.jpg"
    for clone, branch, name in ((anna, "first", first), (ben, "second", second)):
        clone.succeed("git", "checkout", "--quiet", "main")
        clone.succeed("git", "pull", "--quiet", "--ff-only", "origin", "main")
        clone.succeed("git", "checkout", "--quiet", "-b", branch)
        path = clone.root / "labels.csv"
        text = path.read_text(encoding="utf-8")
        assert f"{name},bright\n" in text
        path.write_text(text.replace(f"{name},bright\n", f"{name},dark\n"), encoding="utf-8")
        clone.succeed("git", "commit", "--quiet", "--all", "--message", f"{name} is dark")
        clone.succeed("git", "push", "--quiet", "origin", branch)
    anna.succeed("git", "checkout", "--quiet", "main")
    for branch in ("first", "second"):
        anna.succeed("git", "fetch", "--quiet")
        anna.succeed("git", "merge", "--quiet", "--no-edit", f"origin/{branch}")
    anna.succeed("dvc", "checkout", "--quiet", "--allow-missing")
    anna.succeed("dvc", "repro", "--quiet", "--pull")
    changes = anna.succeed("thaw", "data", "diff")
    story.say("  " + next(line for line in changes.splitlines() if "relabelled" in line).strip())
    _commit_and_push(anna, "main", "Two labels")


def promote(anna: Clone) -> None:
    """Give the model a version and a stage, which are tags of git."""
    anna.succeed("gto", "register", "classifier", "--version", "v1.0.0")
    anna.succeed("gto", "assign", "classifier", "--version", "v1.0.0", "--stage", "prod")
    anna.succeed("git", "push", "--quiet", "--tags", "origin")


def reuse(story: Team) -> None:
    """Predict with a version of the model in a folder that is no project, and start another model from it."""
    carla = Clone(story.place / "carla", dict(story.service.variables))
    carla.root.mkdir()
    photo = story.place / "photos" / "dark" / "1.jpg"
    registry = story.service.origin.as_uri()  # DVC takes a bare path for a project without git
    carla.succeed("dvc", "artifacts", "get", registry, "classifier", "--rev", "v1.0.0", "--out", "model")
    answers = carla.succeed("thaw", "predict", str(photo), "--model", "model")
    story.say("  " + answers.splitlines()[-1])
    write_photos(story.place / "lamps", images_a_class=12, classes=("lit", "off"))
    carla.succeed(
        "thaw", "new", "lamps", "--images", str(story.place / "lamps"),
        "--backbone", f"model:{registry}#models/final@classifier@v1.0.0",
    )  # fmt: skip
    lamps = Clone(carla.root / "lamps", carla.environment)
    _set(lamps, {key: value for key, value in _SMALL.items() if key != "backbone.pretrained"})
    lamps.succeed("dvc", "repro", "--quiet", "head")
    parent = json.loads((lamps.root / "models" / "backbone" / "model.json").read_text(encoding="utf-8"))
    assert "bright" in json.dumps(parent), "the new model must name the classes of its parent"


def _commit_and_push(clone: Clone, branch: str, message: str) -> None:
    clone.succeed("git", "add", "--all")
    clone.succeed("git", "commit", "--quiet", "--message", message)
    clone.succeed("dvc", "push", "--quiet", "--run-cache")
    clone.succeed("git", "push", "--quiet", "origin", f"HEAD:{branch}")


def _set(clone: Clone, settings: Mapping[str, object]) -> None:
    path = clone.root / "params.yaml"
    text = path.read_text(encoding="utf-8")
    for key, value in settings.items():
        text = with_value(text, key, value)
    path.write_text(text, encoding="utf-8")


def main() -> None:
    """Tell the story in a folder that is removed afterwards."""
    place = Path(tempfile.mkdtemp(prefix="thaw-story-"))
    try:
        with team(place) as story:
            tell(story)
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
