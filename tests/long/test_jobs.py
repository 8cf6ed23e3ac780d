"""The jobs of a project of `thaw new`, run line by line: at night, and for a change that GitLab gates.

All stages run once, in the first night. GitHub judges a change in test_story.py, and tests/pipeline/test_project.py has
what the test job runs.
"""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from tests.ci import runner
from tests.ci.answering import Comments, answering
from tests.ci.runner import Outcome, Service
from tests.photos import as_installed, write_photos
from tests.pipeline.clone import Clone, stages_run
from thaw.project.layout import Wish, new_project

_SMALL = {
    "backbone.pretrained": False,
    "backbone.input_px": 64,
    "prepare.size_px": 64,
    "augment.flip": "horizontal",
    "features.views": 1,
    "unfreeze.phases": {},
    "select.folds": 2,
    "select.draws": 100,
    "evaluate.draws": 100,
    "compute.threads": 1,
    "compute.workers": 0,
    "compute.frozen_engine": "torch",
}
_GIT = ("git", "-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false")
_AT_NIGHT = {"github.ref_name": "main", "github.token": "token", "github.run_id": "1"}


@dataclass(frozen=True)
class Team:
    """A project whose images are pushed, and the services that run its jobs; `night` is the first that ran."""

    place: Path
    service: Service
    comments: Comments
    night: Outcome

    def clone(self, name: str, branch: str) -> Clone:
        """Return somebody's clone, on a new branch."""
        root = self.place / name
        subprocess.run(["git", "clone", "--quiet", str(self.service.origin), str(root)], check=True)
        clone = Clone(root, dict(self.service.variables))
        clone.succeed("git", "checkout", "--quiet", "-b", branch)
        return clone

    def push(self, clone: Clone, message: str) -> None:
        """Commit all that git tracks, and push the branch."""
        clone.succeed(*_GIT, "commit", "--quiet", "--all", "--message", message)
        clone.succeed("git", "push", "--quiet", "origin", "HEAD")

    def branch(self, name: str) -> list[str]:
        """Return the messages of the commits of a branch of the server, the newest first."""
        log = subprocess.run(
            ["git", "log", "--format=%s", name], cwd=self.service.origin, check=True, capture_output=True, text=True
        )
        return log.stdout.splitlines()


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """A project in which only the job of the night has run the pipeline."""
    place = tmp_path_factory.mktemp("team")
    project = Clone(place / "project", {"PYTHONPATH": as_installed(place / "installed")})
    photos = write_photos(place / "photos", images_a_class=30)
    new_project(Wish(project.root, photos, backbone="timm:test_resnet", params=_SMALL))
    project.succeed("dvc", "remote", "add", "--default", "team", str(place / "remote"))
    project.succeed("git", "init", "--quiet", "--bare", "--initial-branch=main", str(place / "origin"))
    project.succeed("git", "checkout", "--quiet", "-b", "main")
    project.succeed("git", "remote", "add", "origin", str(place / "origin"))
    project.succeed("git", "add", "--all")
    project.succeed(*_GIT, "commit", "--quiet", "--message", "Images and settings")
    project.succeed("dvc", "push", "--quiet")
    project.succeed("git", "push", "--quiet", "origin", "main")
    first = project.succeed("git", "rev-parse", "HEAD").strip()
    with answering() as comments:
        variables = {**project.environment, "GITHUB_API_URL": comments.url, "GITHUB_REPOSITORY": "team/photos"}
        service = Service(
            place / "origin", place / "caches", variables | {"GITHUB_REF_NAME": "main", "GITHUB_SHA": first}
        )
        nightly = runner.named(runner.github_jobs(project.root / ".github" / "workflows" / "nightly.yml"), "model")
        night = runner.run_github(nightly, service, place / "night", _AT_NIGHT)
        assert night is not None
        yield Team(place, Service(service.origin, service.caches, variables), comments, night)


def test_in_the_first_night_the_pipeline_runs_and_its_results_are_kept(team: Team) -> None:
    assert team.night.code == 0, team.night.output
    assert stages_run(team.night.output)[-2:] == ["report", "export"]
    assert team.branch("main") == ["dvc.lock as the pipeline ran for it", "Images and settings"]
    assert "### Model\n\nNot compared: " in team.night.summary
    fresh = team.clone("fresh", "look")
    assert stages_run(fresh.succeed("dvc", "repro", "--allow-missing", "--dry")) == []


def test_a_change_from_a_fork_is_not_judged_since_it_has_no_secrets(team: Team) -> None:
    model = runner.named(runner.github_jobs(team.night.root / ".github" / "workflows" / "pull-request.yml"), "model")
    of_a_fork = {"github.repository": "team/photos", "github.event.pull_request.head.repo.full_name": "me/photos"}
    assert runner.run_github(model, team.service, team.place / "fork", of_a_fork) is None


def test_a_change_whose_answers_are_surely_worse_is_gated_on_gitlab(team: Team) -> None:
    author = team.clone("careless", "worse")
    author.succeed("dvc", "pull", "--quiet")
    # What an author commits with `dvc commit` counts as run: here answers that are wrong on every test image.
    path = author.root / "reports" / "predictions.csv"
    table = pd.read_csv(path)
    other = {"bright": "dark", "dark": "bright"}
    table["predicted"], table["label_probability"] = table["label"].map(other), 1 - table["probability"]
    path.unlink()
    table.to_csv(path, index=False)
    author.succeed("dvc", "commit", "--force", "--quiet", "evaluate", "report", "export")
    author.succeed("dvc", "push", "--quiet")
    team.push(author, "Worse")
    commit = author.succeed("git", "rev-parse", "HEAD").strip()
    variables = {
        "CI_COMMIT_REF_NAME": "worse", "CI_COMMIT_SHA": commit, "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME": "worse",
        "CI_MERGE_REQUEST_TARGET_BRANCH_NAME": "main",
    }  # fmt: skip
    model = runner.named(runner.gitlab_jobs(author.root / ".gitlab-ci.yml"), "model")
    outcome = runner.run_gitlab(model, team.service, team.place / "merge-request", variables)
    assert outcome.code == 1, outcome.output
    assert stages_run(outcome.output) == []
    assert "dvc.lock is as it was committed" in outcome.output
    assert "Gate: failed; it fails if the whole interval of the change in accuracy" in outcome.output
    report = (outcome.root / "report.md").read_text(encoding="utf-8")
    assert "**The challenger, HEAD (" in report
    assert "is worse than the champion, origin/main (" in report
