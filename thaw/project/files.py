"""What a project is made of: the files that every project shares with this repository, and the template's own.

The shared files (stages/, dvc.yaml, params.yaml, .gitattributes, .dvc/) exist once, in the repository's root; a wheel
carries them in thaw/template/shared/.
"""

import re
import subprocess
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import yaml

import thaw
from thaw import DISTRIBUTION
from thaw.errors import ArtifactError
from thaw.version import VERSION

TEMPLATE = Path(thaw.__file__).parent / "template"
PARAMS, REQUIREMENTS = "params.yaml", "requirements.txt"
_AS_IT_IS = (".dvcignore", ".gitattributes", ".dvc/config", ".dvc/plots/*.json")
_DOT = "dot-"  # a file of the template that begins so gets a dot instead: git would obey a .gitignore in there


def shared_root() -> Path:
    """Return the folder with the shared files. Raises: ArtifactError if the installation lacks them."""
    for root in (TEMPLATE / "shared", TEMPLATE.parents[1]):
        if (root / "dvc.yaml").is_file() and (root / "stages").is_dir():
            return root
    raise ArtifactError(f"{TEMPLATE} lacks the files of a project; install Thaw again")


def project_files() -> dict[str, str]:
    """Return the text of every file that a project takes from Thaw as it is, by its path in the project.

    params.yaml and requirements.txt are not among them: the first is the team's, of the second only a line is ours.
    """
    root = shared_root()
    graph = project_graph((root / "dvc.yaml").read_text(encoding="utf-8"))
    names = ["stages/__init__.py", *(f"stages/{name}.py" for name in stage_modules(graph))]
    names += [path.relative_to(root).as_posix() for pattern in _AS_IT_IS for path in sorted(root.glob(pattern))]
    files = {name: (root / name).read_text(encoding="utf-8") for name in names}
    return {"dvc.yaml": graph} | files | _own_files()


def params_text() -> str:
    """Return the params.yaml that Thaw ships."""
    return (shared_root() / PARAMS).read_text(encoding="utf-8")


def requirements_text() -> str:
    """Return the requirements.txt of a project, for this version of Thaw."""
    return _filled(TEMPLATE / REQUIREMENTS)


def _own_files() -> dict[str, str]:
    found = {}
    for path in sorted(TEMPLATE.rglob("*")):
        name = path.relative_to(TEMPLATE).as_posix()
        if path.is_file() and not name.startswith(("shared/", REQUIREMENTS)) and "__pycache__" not in path.parts:
            found[name.replace(_DOT, ".")] = _filled(path)
    return found


def _filled(path: Path) -> str:
    return path.read_text(encoding="utf-8").replace("{version}", VERSION).replace("{distribution}", DISTRIBUTION)


def project_graph(text: str) -> str:
    """Return this repository's dvc.yaml without the source files that a project has not: Thaw is installed there."""
    return "".join(line for line in text.splitlines(keepends=True) if not re.match(r"\s+- thaw(/\S*)?\s*$", line))


def stage_modules(graph: str) -> list[str]:
    """Return the names of the modules in stages/ that a dvc.yaml runs."""
    return sorted(set(re.findall(r"cmd: python -m stages\.(\w+)", graph)))


def git_ignores(graph: str) -> dict[str, str]:
    """Return the .gitignore of each folder with outs of a dvc.yaml that DVC keeps.

    DVC writes the same lines, and takes those of every earlier stage back when a later one fails (its issue 11091).
    """
    lines = defaultdict[str, set[str]](set)
    for out in _outs(graph):
        folder, _, name = out.rpartition("/")
        lines[folder].add(f"/{name}\n")
    return {f"{folder}/.gitignore": "".join(sorted(names)) for folder, names in sorted(lines.items())}


def tracked_outs(root: Path, graph: str) -> list[str]:
    """Return the outs of a dvc.yaml that git has, which DVC refuses to write; none outside a git repository."""
    done = subprocess.run(["git", "ls-files", *_outs(graph)], cwd=root, capture_output=True, text=True, check=False)
    return done.stdout.splitlines() if done.returncode == 0 else []


def untrack(root: Path, names: Sequence[str]) -> None:
    """Take files out of git's index; they stay on disk."""
    if names:
        subprocess.run(["git", "rm", "--quiet", "--cached", *names], cwd=root, capture_output=True, check=False)


def _outs(graph: str) -> list[str]:
    """Return the outs of a dvc.yaml; of those that params.yaml names, the phases, the folder that they lie in.

    A .gitignore in that folder would be in every clone, and DVC would take the folder for one that was changed.
    """
    bodies = [entry.get("do", entry) for entry in yaml.safe_load(graph)["stages"].values()]
    named = [str(out) for body in bodies for out in body.get("outs", []) + body.get("metrics", [])]
    folders = {out.rpartition("/")[0] for out in named if "${" in out}
    return sorted({folder if (folder := out.rpartition("/")[0]) in folders else out for out in named})
