"""Run the jobs of .github/workflows and .gitlab-ci.yml here: their shell lines, in clean clones of a bare repository.

What a service does around the lines is done here as far as the files use it: variables, expressions, the check-out, the
cache. What is not known here is an error. No test here.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

# What prepares the machine. It needs a network, or a shell of its own, and is not run here.
SKIPPED = {
    "python -m pip install -r requirements.txt": "the environment of the tests has it",
    "make install": "the same",
    'echo "$PWD/.venv/bin" >> "$GITHUB_PATH"': "the environment of the tests is on PATH",
    'export PATH="$PWD/.venv/bin:$PATH"': "the same",
}
ACTIONS = ("actions/checkout@v4", "actions/setup-python@v5", "actions/cache@v4")
_VARIABLE = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")


@dataclass(frozen=True)
class Job:
    """A job of either service: its settings, and its lines in order; in GitHub's also the actions between them."""

    name: str
    settings: dict[str, Any]
    steps: list[dict[str, Any]]

    @property
    def lines(self) -> list[str]:
        """The shell lines."""
        return [step["run"] for step in self.steps if "run" in step]


@dataclass(frozen=True)
class Service:
    """A service and what it keeps: the bare git repository, the caches, and the variables that it sets."""

    origin: Path
    caches: Path
    variables: Mapping[str, str] = field(default_factory=dict)
    """Laid over the environment of the tests, for every line."""


@dataclass(frozen=True)
class Outcome:
    """What became of a job."""

    code: int
    output: str
    summary: str
    root: Path


def workflow(path: Path) -> dict[str, Any]:
    """Return a workflow of GitHub; YAML 1.1 takes its key `on` for true."""
    tree: dict[Any, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {"on" if key is True else str(key): value for key, value in tree.items()}


def github_jobs(path: Path) -> list[Job]:
    """Return the jobs of a workflow of GitHub."""
    jobs = workflow(path)["jobs"].items()
    return [Job(name, {key: job[key] for key in job if key != "steps"}, job["steps"]) for name, job in jobs]


def gitlab_jobs(path: Path) -> list[Job]:
    """Return the jobs of a .gitlab-ci.yml, each with the lines that go before its script."""
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    jobs = {name: job for name, job in tree.items() if name not in ("stages", "default", "variables")}
    before = tree["default"]["before_script"]
    return [
        Job(name, job, [{"run": line} for line in [*job.get("before_script", before), *job["script"]]])
        for name, job in jobs.items()
    ]


def named(jobs: list[Job], name: str) -> Job:
    """Return the job of a name."""
    return next(job for job in jobs if job.name == name)


def run_github(job: Job, service: Service, root: Path, context: Mapping[str, str]) -> Outcome | None:
    """Run a job of GitHub's in a new folder; None if its `if` says that it is not to run.

    `context` has what expressions may name, such as github.head_ref; secrets.* and vars.* are empty without an entry.
    """
    if "if" in job.settings and not evaluated(job.settings["if"], context):
        return None
    summary = root.with_name(f"{root.name}-summary.md")
    environment = {**service.variables, "GITHUB_STEP_SUMMARY": str(summary)}
    environment |= {name: filled(str(value), context) for name, value in job.settings.get("env", {}).items()}
    printed, caches = "", list[str]()
    for step in job.steps:
        if "uses" in step:
            assert step["uses"] in ACTIONS, f"{step['uses']} is not known here"
            given = {name: filled(str(value), context) for name, value in step.get("with", {}).items()}
            if step["uses"].startswith("actions/checkout"):
                _check_out(service, root, given.get("ref") or context["github.ref_name"], given.get("fetch-depth", "1"))
            elif step["uses"].startswith("actions/cache"):
                caches.append(given["path"])
                _copy(service.caches / given["path"], root / given["path"])
            continue
        code, output = _shell([step["run"]], root, environment)
        printed += output
        if code:
            break
    for path in caches:
        _copy(root / path, service.caches / path)
    return Outcome(code, printed, summary.read_text(encoding="utf-8") if summary.exists() else "", root)


def run_gitlab(job: Job, service: Service, root: Path, variables: Mapping[str, str]) -> Outcome:
    """Run a job of GitLab's in a new folder, on a commit without a branch; its lines share a shell, as there."""
    _check_out(service, root, variables["CI_COMMIT_REF_NAME"], "0")
    subprocess.run(["git", "checkout", "--quiet", "--detach"], cwd=root, check=True)
    _copy(service.caches / ".thaw", root / ".thaw")
    environment = {**service.variables, **variables}
    for name, value in job.settings.get("variables", {}).items():
        environment[name] = re.sub(r"\$(\w+)", lambda found: environment[found[1]], value)
    code, output = _shell(job.lines, root, environment)
    _copy(root / ".thaw", service.caches / ".thaw")
    return Outcome(code, output, "", root)


def filled(text: str, context: Mapping[str, str]) -> str:
    """Return a text with its ${{ expressions }} evaluated."""
    return _VARIABLE.sub(lambda found: evaluated(found[1], context), text)


def evaluated(expression: str, context: Mapping[str, str]) -> str:
    """Return the value of an expression of GitHub's: names, texts in quotes, ==, && and ||; false is empty."""
    if "||" in expression:
        return next((value for part in expression.split("||") if (value := evaluated(part, context))), "")
    if "&&" in expression:
        values = [evaluated(part, context) for part in expression.split("&&")]
        return values[-1] if all(values) else ""
    if "==" in expression:
        left, right = (evaluated(part, context) for part in expression.split("=="))
        return "true" if left == right else ""
    name = expression.strip()
    if re.fullmatch(r"'[^']*'", name):
        return name[1:-1]
    assert name in context or name.startswith(("secrets.", "vars.")), f"{name} is not known here"
    return context.get(name, "")


def _check_out(service: Service, root: Path, branch: str, depth: str) -> None:
    shallow = [] if depth == "0" else ["--depth", depth]
    command = ["git", "clone", "--quiet", *shallow, "--branch", branch, service.origin.as_uri(), str(root)]
    subprocess.run(command, check=True)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)


def _shell(lines: list[str], root: Path, variables: Mapping[str, str]) -> tuple[int, str]:
    """Run lines one after the other in bash; return the exit code of the last that ran, and what all printed."""
    script = "\n".join(["set -eo pipefail", *_run_here(lines)])
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=root,
        env={**_environment(root), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def _run_here(lines: list[str]) -> Iterator[str]:
    for line in lines:
        if line not in SKIPPED:
            yield line


def _environment(root: Path) -> dict[str, str]:
    """Return the environment of a machine that knows nothing of ours but the installed programs."""
    dropped = ("GIT_", "DVC_", "THAW_", "GITHUB_", "CI_", "AWS_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    home = root.with_name(f"{root.name}-home")
    home.mkdir(exist_ok=True)
    return kept | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(home),
        "GIT_CONFIG_NOSYSTEM": "1",
        "DVC_SITE_CACHE_DIR": str(home / "site"),
    }
