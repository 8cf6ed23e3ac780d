"""What git's hooks do in a clone with `thaw setup`: run as `python -P -m thaw.project.hooks HOOK ARGUMENTS`.

post-checkout and pre-commit are DVC's, in the folder of each project of the repository. pre-push is Thaw's: it stops a
push while what the pushed commits name is not in DVC's remote. It uploads nothing by itself.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import chdir
from pathlib import Path

from thaw.errors import ThawError

NAMES = ("post-checkout", "pre-commit", "pre-push")
PROJECT, PYTHON = "thaw.project", "thaw.python"
"""Keys of .git/config: the folder of each project from the repository's top, and who runs this module."""

SCRIPT = """\
#!/bin/sh
# Thaw's: `thaw setup` wrote this file, and thaw.python and thaw.project into .git/config. Without them it does nothing.
python=$(git config thaw.python) || exit 0
[ -x "$python" ] || {{ echo "{name}: $python is gone; run \\`thaw setup\\` again" >&2; exit {code}; }}
exec "$python" -P -m thaw.project.hooks {name} "$@"
"""


def script(name: str) -> str:
    """Return the text of a hook; a push stops where the environment is gone, the other two do not."""
    return SCRIPT.format(name=name, code=int(name == "pre-push"))


def call(name: str) -> str:
    """Return the line that a hook of the user's own needs to do the same."""
    return f'python=$(git config {PYTHON}) && {{ "$python" -P -m thaw.project.hooks {name} "$@" || exit 1; }}'


def main(arguments: Sequence[str]) -> int:
    """Do what a hook does, in every project of the repository; return its exit code."""
    name, *given = arguments
    os.environ.pop("GIT_DIR", None)  # git sets it for hooks, and it would lead elsewhere from a project's folder
    commits = _pushed(sys.stdin.read()) if name == "pre-push" else []
    if (name == "pre-push" and not commits) or (name == "post-checkout" and not _is_of_branch(given)):
        return 0
    codes = [_in_project(name, given, commits, folder) for folder in _projects()]
    return max(codes, default=0)


def _in_project(name: str, given: Sequence[str], commits: Sequence[str], folder: Path) -> int:
    with chdir(folder):
        if name == "pre-push":
            return _check(commits)
        code = subprocess.run([sys.executable, "-m", "dvc", "git-hook", name, *given], check=False).returncode
    if name == "post-checkout" and code:  # git has changed the branch all the same
        print("some files of this branch are not in DVC's cache; `dvc pull` brings them", file=sys.stderr)
        return 0
    return code


def _check(commits: Sequence[str]) -> int:
    from thaw.project import verifying

    try:
        for line in verifying.verify_pushed(commits, None):
            print(line, file=sys.stderr)
    except ThawError as error:
        print(f"{error}; `git push --no-verify` pushes all the same", file=sys.stderr)
        return 1
    return 0


def _pushed(lines: str) -> list[str]:
    """Return the commits that a push makes refs point at, from what git tells the hook: a line for each ref.

    A line is LOCAL-REF LOCAL-HASH REMOTE-REF REMOTE-HASH; a ref that is deleted has zeros as its local hash.
    """
    hashes = [words[1] for line in lines.splitlines() if len(words := line.split()) == 4]
    return list(dict.fromkeys(commit_of(found) for found in hashes if found.strip("0")))


def commit_of(name: str) -> str:
    """Return the hash of the commit that a name stands for, tags included; the name itself if git knows none."""
    return _git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}") or name


def _is_of_branch(given: Sequence[str]) -> bool:
    """Tell a change of branch from one of files, and from a step of a rebase."""
    rebase = [Path(_git("rev-parse", "--git-path", name)) for name in ("rebase-merge", "rebase-apply")]
    return given[2:3] == ["1"] and not any(path.is_dir() for path in rebase)


def _projects() -> list[Path]:
    top = Path(_git("rev-parse", "--show-toplevel"))
    found = [top / name for name in _git("config", "--get-all", PROJECT).splitlines()]
    return [path for path in found if (path / ".dvc").is_dir()]


def _git(*arguments: str) -> str:
    """Return what git printed, or nothing if it failed."""
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return done.stdout.rstrip("\n") if done.returncode == 0 else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
