"""What the files of CI say: every line is a command that exists, and all services run the same ones."""

import re
import shlex
from pathlib import Path

import pytest

from tests.ci import runner
from tests.ci.runner import Job
from tests.contract import command_lines, repository

TEMPLATE = repository.ROOT / "thaw" / "template"
OURS, PROJECTS = repository.ROOT / ".github" / "workflows", TEMPLATE / "dot-github" / "workflows"
WORKFLOWS = sorted([*OURS.iterdir(), *PROJECTS.iterdir()])
GITLAB = [repository.ROOT / ".gitlab-ci.yml", TEMPLATE / "dot-gitlab-ci.yml"]
PROGRAMS = ("make", "thaw", "dvc", "git", "docker", "python")
_LOGIN = 'echo "$CI_REGISTRY_PASSWORD" | docker login'  # the password must not be an argument
_REMOTE = 'dvc remote add --local --force --default storage "$THAW_REMOTE"'  # a project has its remote in .dvc/config


def jobs_of(path: Path) -> list[Job]:
    return runner.github_jobs(path) if path in WORKFLOWS else runner.gitlab_jobs(path)


def shown(path: Path) -> str:
    return path.relative_to(repository.ROOT).as_posix()


@pytest.mark.parametrize("path", [*WORKFLOWS, *GITLAB], ids=shown)
def test_every_line_of_a_job_is_a_command_that_exists(path: Path) -> None:
    lines = [line for job in jobs_of(path) for line in job.lines if line not in runner.SKIPPED]
    assert lines
    for line in lines:
        assert line.startswith((*PROGRAMS, _LOGIN)), line
        command, _, rest = line.partition(" >> ")
        assert rest in ("", '"$GITHUB_STEP_SUMMARY"'), line
        command_lines.check(command.replace("$CHANGES", "-S head.dropout=0.1"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=shown)
def test_every_action_is_known_to_the_runner_and_no_expression_stands_in_a_shell_line(path: Path) -> None:
    for job in jobs_of(path):
        assert {step["uses"] for step in job.steps if "uses" in step} <= set(runner.ACTIONS)
        assert not [line for line in job.lines if "${{" in line], "a name with quotes in it would be run"


@pytest.mark.parametrize("path", WORKFLOWS, ids=shown)
def test_a_workflow_says_what_it_may_do_and_what_it_runs_beside(path: Path) -> None:
    tree = runner.workflow(path)
    assert set(tree["permissions"]) <= {"contents", "pull-requests", "packages"}
    assert tree["concurrency"]["group"]
    # A job that is cut off between two pushes loses nothing; one that commits to the main branch waits for its turn.
    assert tree["concurrency"].get("cancel-in-progress", False) == (path.name == "pull-request.yml")


@pytest.mark.parametrize("path", [*WORKFLOWS, *GITLAB], ids=shown)
def test_where_revisions_are_compared_all_commits_are_there_and_caches_are_kept(path: Path) -> None:
    comparing = [job for job in jobs_of(path) if any(line.startswith("thaw repro") for line in job.lines)]
    for job in comparing if path in WORKFLOWS else []:
        given = {step["uses"].partition("@")[0]: step.get("with", {}) for step in job.steps if "uses" in step}
        assert given["actions/checkout"]["fetch-depth"] == 0
        assert given["actions/setup-python"]["cache"] == "pip"
        assert given["actions/cache"]["path"] == ".thaw"
    if path in GITLAB:
        text = path.read_text(encoding="utf-8")
        assert 'GIT_DEPTH: "0"' in text
        assert {"[.cache/pip]", "[.thaw]"} <= set(re.findall(r"paths: (\[\.\S+\])", text))


def test_the_repository_runs_the_lines_of_a_project_once_its_environment_and_remote_are_there() -> None:
    for name in ("pull-request", "nightly", "experiment"):
        assert _work(jobs_of(OURS / f"{name}.yml")[-1]) == _work(jobs_of(PROJECTS / f"{name}.yml")[-1])
    ours, projects = map(jobs_of, GITLAB)
    for name in ("model", "nightly", "experiment"):
        assert _work(runner.named(ours, name)) == _work(runner.named(projects, name))


def test_both_services_do_the_same_for_a_change_at_night_and_for_a_trial() -> None:
    gitlab = jobs_of(GITLAB[1])
    for name, job in (("pull-request", "model"), ("nightly", "nightly"), ("experiment", "experiment")):
        assert _plain(jobs_of(PROJECTS / f"{name}.yml")[-1]) == _plain(runner.named(gitlab, job))


def test_forks_run_tests_alone() -> None:
    for folder in (OURS, PROJECTS):
        tests, model = jobs_of(folder / "pull-request.yml")
        assert "if" not in tests.settings
        assert "secrets." not in str(tests.settings)
        assert "head.repo.full_name == github.repository" in model.settings["if"]
    for path in GITLAB:
        (rule,) = runner.named(jobs_of(path), "model").settings["rules"]
        assert "$CI_MERGE_REQUEST_SOURCE_PROJECT_ID == $CI_PROJECT_ID" in rule["if"]


def test_known_vulnerabilities_are_asked_for_every_night_and_in_no_test() -> None:
    for jobs in (jobs_of(OURS / "nightly.yml"), jobs_of(GITLAB[0])):
        assert [job.lines for job in jobs if "make audit" in job.lines] == [["make audit"]]
    text = (repository.ROOT / "Makefile").read_text(encoding="utf-8")
    assert not re.search(r"^(?:test|check|long):.*audit", text, re.MULTILINE)
    assert runner.named(jobs_of(GITLAB[0]), "audit").settings["rules"] == [{"if": '$CI_PIPELINE_SOURCE == "schedule"'}]


def _work(job: Job) -> list[str]:
    """The lines of a job that work, without those that prepare."""
    return [line for line in job.lines if line not in {*runner.SKIPPED, _REMOTE}]


def _plain(job: Job) -> list[list[str]]:
    """The same, without the names of variables, and what only one service needs."""
    lines = [line.partition(" >> ")[0].partition(" --output ")[0] for line in _work(job)]
    return [
        [re.sub(r"\$\w+", "$", word) for word in shlex.split(line)]
        for line in lines
        if not line.startswith("git fetch")
    ]
