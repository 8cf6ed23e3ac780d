"""`thaw ci report` and `thaw ci keep`: what a job does after `dvc repro`, in any service or by hand.

The files of each service (.github/workflows, .gitlab-ci.yml) call these, `dvc` and `git`; nothing is written twice.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from thaw.compare import command, text
from thaw.config.reader import load_params
from thaw.data import snapshots
from thaw.data.difference import compare as compare_data
from thaw.errors import RunError, ThawError
from thaw.project import comments, git_setup
from thaw.report import data_diff

LOCK = "dvc.lock"
MESSAGE = "dvc.lock as the pipeline ran for it"
_TRIES = 5
_WAIT_S = 2.0
# What git says when somebody else was faster; any other refusal stays one.
_OVERTAKEN = ("fetch first", "non-fast-forward", "cannot lock ref", "failed to lock", "stale info")


def report(base: str, output: Path | None) -> None:
    """Print what HEAD changes in the model and the data, compared with a revision, as Markdown.

    It also becomes `output`, a part of GitHub's step summary, and the comment of the change that the job runs for,
    where these are. What cannot be compared is a line of it and no error: the gates are commands of their own.
    Raises: RunError if a file cannot be written.
    """
    whole = "\n".join(_parts(base))
    print(whole)
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    for path, mode in ((output, "w"), (Path(summary) if summary else None, "a")):
        if path is not None:
            try:
                with path.open(mode, encoding="utf-8") as file:
                    file.write(f"{whole}\n")
            except OSError as error:
                raise RunError(f"{path} cannot be written: {error.strerror}; name another file") from None
    comments.put(whole)


def _parts(base: str) -> Iterator[str]:
    yield "### Model"
    yield ""
    try:
        yield text.in_markdown(command.compare(base, "HEAD", load_params()))
    except ThawError as error:
        yield f"Not compared: {error}"
    yield ""
    try:
        found = compare_data(snapshots.of(base)[1], snapshots.of("HEAD")[1])
        yield from data_diff.markdown(found, data_diff.sections_of(found))
    except ThawError as error:
        yield f"### Data\n\nNot compared: {error}"


def keep(branch: str) -> list[str]:
    """Push what the pipeline wrote to DVC's remote, and dvc.lock to a branch of origin; return what was done, in lines.

    Data go first, so that no dvc.lock names what nobody can have. If somebody pushed to the branch meanwhile, our
    commit is put on top of theirs and pushed again, as long as the pipeline is up to date there.
    Raises: RunError if something cannot be pushed, or the branch has become another.
    """
    if not _run("dvc", "config", "core.remote", check=False):
        return ["no DVC remote is set up, so nothing is kept; `dvc remote add --default NAME URL` sets one up"]
    _run("dvc", "push", "--run-cache")
    done = ["data, models and runs are in DVC's remote"]
    _run("git", "add", "--", LOCK)
    if not _run("git", "diff", "--cached", "--name-only", "--", LOCK):
        return [*done, f"{LOCK} is as it was committed"]
    _run("git", *_identity(), "commit", "--quiet", "--message", MESSAGE, "--", LOCK)
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(_WAIT_S * attempt)
            _follow(branch)
        if not (refusal := _refusal(branch)):
            return [*done, f"{LOCK} is committed to {branch} of origin"]
    raise RunError(f"{branch} of origin moved at each of {_TRIES} tries ({refusal}); run this again")


def _refusal(branch: str) -> str:
    """Push HEAD to a branch; return '', or git's line if somebody was faster.

    Raises: RunError for any other refusal.
    """
    done = _start("git", "push", "--quiet", "origin", f"HEAD:refs/heads/{branch}")
    if done.returncode == 0:
        return ""
    line = _said(done)
    if any(words in done.stderr for words in _OVERTAKEN):
        return line
    raise RunError(
        f"{LOCK} cannot be pushed to {branch} of origin: {line}; give the job the right to write there (the results "
        "are in DVC's remote: `dvc pull --allow-missing` and `dvc repro --pull` bring them and run no stage)"
    )


def _follow(branch: str) -> None:
    """Put our commit on top of what is in the branch now. Raises: RunError if the results do not hold there."""
    _run("git", "fetch", "--quiet", "origin", branch)
    if _start("git", *_identity(), "rebase", "--quiet", "--autostash", "FETCH_HEAD").returncode:
        _start("git", "rebase", "--abort")
        raise RunError(f"{branch} of origin has changed where this run has; run the job again on what is there now")
    planned = _run("dvc", "repro", "--allow-missing", "--dry")
    if stages := re.findall(r"^Running stage '([^']+)':$", planned, flags=re.MULTILINE):
        raise RunError(
            f"{branch} of origin has changed, and {', '.join(stages)} would run again there; run the job again (what "
            "it ran is in DVC's remote)"
        )


def _identity() -> list[str]:
    """Return options of git that name a committer, where the machine has none."""
    if _start("git", "config", "user.email").stdout.strip() or os.environ.get("GIT_COMMITTER_EMAIL"):
        return []
    return ["-c", "user.name=Thaw CI", "-c", "user.email=thaw-ci@localhost"]


def _run(*words: str, check: bool = True) -> str:
    """Return what a command printed. Raises: RunError with the command and its last line if it fails."""
    done = _start(*words)
    if done.returncode and check:
        raise RunError(f"`{' '.join(words)}` failed: {_said(done)}")
    return done.stdout.strip()


def _start(*words: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "dvc"] if words[0] == "dvc" else [words[0]]
    return subprocess.run(
        [*program, *words[1:]], capture_output=True, text=True, check=False, env=git_setup.environment()
    )


def _said(done: subprocess.CompletedProcess[str]) -> str:
    """Return the line of a command that tells why it failed."""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["it printed nothing"]
    return next((line for line in lines if line.startswith(("ERROR", "fatal", "!", "remote: error"))), lines[-1])
