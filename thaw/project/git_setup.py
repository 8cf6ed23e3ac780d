"""`thaw setup`: what git takes from no repository, and so needs once in every clone: merge drivers and hooks.

.gitattributes is in the repository and names the drivers; .git/config has their commands, for all worktrees of a clone.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path, PurePosixPath

from thaw.errors import RunError
from thaw.project import files, hooks, ignoring, remotes, site_cache

ATTRIBUTES = ".gitattributes"
_MODULE = "thaw.project.merging"
_DRIVERS = {
    "thaw-lock": ("lock", "dvc.lock stage by stage"),
    "thaw-labels": ("labels", "labels.csv image by image"),
}
_HOOKS = {
    "post-checkout": "`dvc checkout` of what lies in the cache",
    "pre-commit": "`dvc status`",
    "pre-push": "stops while data is not in the remote",
}
# What the driver cannot merge, and what a driver that is gone leaves, becomes a conflict with the usual markers.
_AS_TEXT = "git merge-file --marker-size=%L -L ours -L base -L theirs %A %O %B"


# What git sets for its hooks and aliases: `git rev-parse --local-env-vars`, but its settings.
_OF_ONE_REPOSITORY = {
    f"GIT_{name}"
    for name in (
        "ALTERNATE_OBJECT_DIRECTORIES", "COMMON_DIR", "DIR", "GRAFT_FILE", "IMPLICIT_WORK_TREE", "INDEX_FILE",
        "INTERNAL_SUPER_PREFIX", "NAMESPACE", "OBJECT_DIRECTORY", "PREFIX", "SHALLOW_FILE", "WORK_TREE",
    )
}  # fmt: skip


def set_up(root: Path) -> list[str]:
    """Give a clone of a project our merge drivers and hooks, and its remotes what they lack; return what was done.

    Run again, it changes nothing, unless this Python is another one. Raises: RunError if the folder is no project in a
    git repository, or if git or the driver cannot run.
    """
    if not (root / "dvc.yaml").is_file():
        raise RunError(f"{root} has no dvc.yaml, so it is no project; run from a project's folder")
    _git(root, "rev-parse", "--show-toplevel")
    _check_driver()
    return [*_add_attributes(root), *ignoring.add(root), *configure(root), *remotes.guard_remotes(root)]


def configure(root: Path, name: str | None = None) -> list[str]:
    """Give drivers and hooks to the repository around a folder, and DVC a place; return what was done, a line each.

    `name` is what the folder will be called, if it has another name yet.
    """
    return [*_configure_drivers(root), *_configure_hooks(root, name), *site_cache.keep_private(root)]


def _configure_drivers(root: Path) -> list[str]:
    done = []
    for name, (driver, words) in _DRIVERS.items():
        wanted = {f"merge.{name}.name": f"Thaw: {words}", f"merge.{name}.driver": _command(driver)}
        present = {key: _git(root, "config", "--local", "--default", "", "--get", key) for key in wanted}
        for key, value in wanted.items():
            if present[key] != value:
                _git(root, "config", "--local", "--replace-all", key, value)
        state = "as it was" if present == wanted else "replaced" if any(present.values()) else "set"
        done.append(f"git config merge.{name}: {state} ({words}, by {sys.executable})")
    return done


def _configure_hooks(root: Path, name: str | None) -> list[str]:
    """Write the hooks where git looks for them; a hook of the user's is left, and a line says what to add to it."""
    inside = PurePosixPath(_git(root, "rev-parse", "--show-prefix") or ".")
    project = (inside.with_name(name) if name and inside.name else inside).as_posix()
    if f"{hooks.PROJECT}={project}" not in _git(root, "config", "--local", "--list").splitlines():
        _git(root, "config", "--local", "--add", hooks.PROJECT, project)
    _git(root, "config", "--local", "--replace-all", hooks.PYTHON, sys.executable)
    folder = Path(root, _git(root, "rev-parse", "--git-path", "hooks"))
    return [_write_hook(folder / hook) for hook in hooks.NAMES]


def _write_hook(path: Path) -> str:
    """Write a hook, and return what was done. Raises: RunError if it cannot be written."""
    ours = hooks.script(path.name)
    try:
        present = path.read_text(encoding="utf-8", errors="replace") if path.exists() else None
        if present is not None and not present.startswith(ours.partition("\npython=")[0]):
            if hooks.call(path.name) in present:
                return f"hook {path.name}: as it was (your own, which calls Thaw's)"
            return f"hook {path.name}: {path} is your own, and left; for Thaw's, add this line: {hooks.call(path.name)}"
        if present != ours:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(ours, encoding="utf-8")
            path.chmod(0o755)
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror}; mend that, and run `thaw setup` again") from None
    state = "set" if present is None else "as it was" if present == ours else "replaced"
    return f"hook {path.name}: {state} ({_HOOKS[path.name]})"


def commits(root: Path, since: str | None) -> list[str]:
    """Return the hash of HEAD, or of every commit after a revision. Raises: RunError if git does not know it."""
    span = ["--max-count=1", "HEAD"] if since is None else [f"{since}..HEAD"]
    return _git(root, "rev-list", *span, "--").splitlines()


def environment() -> dict[str, str]:
    """Return the environment without what would lead git to another repository; who commits, and how, stays."""
    return {name: value for name, value in os.environ.items() if name not in _OF_ONE_REPOSITORY}


def _command(driver: str) -> str:
    """Return the command of a driver for git's configuration.

    It names this Python by its path, so the environment need not be active. With -P, Python imports no module from the
    working tree, which is in the middle of a merge.
    """
    python = shlex.quote(sys.executable).replace("%", "%%")
    return f"{python} -P -m {_MODULE} {driver} %O %A %B %P || {{ {_AS_TEXT}; exit 1; }}"


def _add_attributes(root: Path) -> list[str]:
    """Append the rules that the .gitattributes of a project lacks; return what was done."""
    path, ours = root / ATTRIBUTES, (files.shared_root() / ATTRIBUTES).read_bytes()
    try:
        present = path.read_bytes() if path.exists() else b""
        rules = [line for line in ours.splitlines(keepends=True) if not line.startswith(b"#")]
        missing = [rule for rule in rules if rule.strip() not in present.splitlines()]
        if not missing:
            return [f"{ATTRIBUTES}: as it was"]
        with path.open("ab") as file:
            file.write(b"".join([b"\n", *missing]) if present else ours)
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror}; mend that, and run `thaw setup` again") from None
    return [f"{ATTRIBUTES}: {len(missing)} rules added; commit it, so that every clone has them"]


def _check_driver() -> None:
    """Raises: RunError if this Python finds Thaw in the current folder only."""
    command = [sys.executable, "-P", "-c", f"import {_MODULE}"]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        raise RunError(f"{sys.executable} finds no installed Thaw; run `pip install -e .` in the clone of Thaw first")


def _git(root: Path, *arguments: str) -> str:
    """Return what git printed. Raises: RunError with its message."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=False, env=environment()
        )
    except FileNotFoundError:
        raise RunError("git is not on PATH; install git, and run this again") from None
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["it printed nothing"])[0]
        raise RunError(f"`git {arguments[0]}` failed in {root}: {said}")
    return done.stdout.rstrip("\n")
