"""`thaw new`: a project laid out beside its final place, and renamed once it is whole.

Until the last step everything lies in `.NAME.partial-PROCESS` beside the project. A run that fails or is interrupted
removes that folder; a run that was killed leaves it, and the next run for the same project removes it.
"""

import glob
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from thaw import DISTRIBUTION
from thaw.config.reader import load_params
from thaw.errors import RunError
from thaw.pipeline.artifacts import remove, sha256_of_bytes
from thaw.pipeline.record import ProjectRecord
from thaw.project import files, git_setup, images, looking
from thaw.project.looking import Seen
from thaw.project.params_text import value_at, with_value
from thaw.version import VERSION

_NEEDED = ("dvc", "torch", "timm", "pandas")
_LOCAL_KINDS = ("file", "onnx", "model")  # sources that may name a path


@dataclass(frozen=True)
class Wish:
    """What a new project is to be."""

    target: Path
    """The project's folder: not there yet, or empty."""
    images: Path | None = None
    """A folder of class folders."""
    manifest: Path | None = None
    """A CSV that lists the images, instead of `images`."""
    backbone: str | None = None
    """A backbone source; None is the one that Thaw ships."""
    subdir: bool = False
    """Whether the project is a folder of a larger git repository."""
    params: Mapping[str, object] = field(default_factory=dict)
    """Further values of params.yaml, by their dotted keys."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """What the table of the images calls its columns; the project's table has Thaw's names."""
    ignore_columns: Sequence[str] = ()
    """Columns of the table that have no effect although their names say otherwise."""


@dataclass(frozen=True)
class Made:
    """What was laid out."""

    root: Path
    seen: Seen | None
    """What was seen of the images, if there are any."""
    notes: list[str]
    """What was decided about the table or the folders of the images."""
    unreadable: list[str]
    """Files that were left out, each with the reason."""


def new_project(wish: Wish) -> Made:
    """Lay out a project, and return what was made. Raises: ThawError if it cannot be made; nothing is left then."""
    target = wish.target.absolute()
    _check_place(target, subdir=wish.subdir)
    _check_tools()
    given = wish.images is not None or wish.manifest is not None
    columns = (wish.columns, wish.ignore_columns)
    listed = images.list_images(wish.images, wish.manifest, *columns) if given else None
    seen = looking.look(listed) if listed is not None else None
    params = _params(wish, seen)
    unreadable: list[str] = []
    try:
        with _new_place(target) as partial:
            _write_files(partial, params)
            load_params(partial / files.PARAMS)
            if not wish.subdir:
                _run(partial, "git", "init", "--quiet")
            if listed is not None:
                manifest = images.manifest_of(listed, wish.images, wish.manifest)
                unreadable = images.copy_images(listed, manifest, partial / images.FOLDER)
                track_images(partial)
            else:
                (partial / images.FOLDER).mkdir(parents=True)
            git_setup.configure(partial, target.name)
    except OSError as error:
        raise RunError(
            f"{target} was not made: {error.strerror or error}"
            f"{f' ({error.filename})' if error.filename else ''}; nothing is left of it"
        ) from None
    return Made(target, seen, listed.notes if listed is not None else [], unreadable)


def enclosing_repository(target: Path) -> Path | None:
    """Return the git repository that a folder lies in, or None."""
    return next((folder for folder in target.absolute().parents if (folder / ".git").exists()), None)


def track_images(root: Path) -> None:
    """Put the images of a project into DVC. Raises: RunError with DVC's reason."""
    track(root, images.FOLDER)


def track(root: Path, name: str) -> None:
    """Put a file or a folder of a project into DVC. Raises: RunError with DVC's reason."""
    _run(root, sys.executable, "-m", "dvc", "add", name)


def _check_place(target: Path, *, subdir: bool) -> None:
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise RunError(f"{target} is there and is no folder; give the name of a new one")
    if target.is_dir() and (present := sorted(path.name for path in target.iterdir())):
        more = ", ..." if len(present) > 3 else ""
        raise RunError(f"{target} is not empty ({', '.join(present[:3])}{more}); give the name of a new folder")
    if target == Path.cwd():
        raise RunError(f"{target} is the current folder, which cannot be replaced; go up, and give its name")
    if not target.parent.is_dir():
        raise RunError(f"{target.parent} is not there; make it first, or give another place for the project")
    around = enclosing_repository(target)
    if around is not None and not subdir:
        raise RunError(
            f"{target} lies in the git repository {around}; add --subdir to make the project a part of it, or give a "
            "place outside"
        )
    if around is None and subdir:
        raise RunError(f"--subdir is given, but {target} lies in no git repository; leave it out")


def _check_tools() -> None:
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        raise RunError(
            f"{sys.executable} lacks {', '.join(missing)}, which a project needs; "
            f"run `pip install '{DISTRIBUTION}[train]'`"
        )
    if shutil.which("git") is None:
        raise RunError("git is not on PATH, and DVC needs it to share a project; install git, and run this again")


@contextmanager
def _new_place(target: Path) -> Iterator[Path]:
    """Yield a folder to fill beside the target; it becomes the target only if the block succeeds."""
    _remove_leavings(target)
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        partial.mkdir()
        yield partial
        partial.rename(target)  # onto an empty folder, or onto nothing: one step, in which nothing is half done
    finally:
        remove(partial)


def _remove_leavings(target: Path) -> None:
    """Remove what runs for the same target have left that were killed; what is still running keeps its folder."""
    for path in target.parent.glob(f".{glob.escape(target.name)}.partial-*"):
        process = path.name.rpartition("-")[2]
        if process.isdigit() and not psutil.pid_exists(int(process)):
            with suppress(OSError):  # a DVC of that run may still be writing; a folder that stays is in nobody's way
                remove(path)


def _write_files(root: Path, params: str) -> None:
    """Write every file of a project but the images, and the record of them."""
    taken = files.project_files()
    texts = taken | {files.PARAMS: params, files.REQUIREMENTS: files.requirements_text()}
    for name, text in (texts | files.git_ignores(taken["dvc.yaml"])).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    hashes = {name: sha256_of_bytes(text.encode()) for name, text in taken.items()}
    ProjectRecord(thaw=VERSION, files=hashes).write(root)


def _params(wish: Wish, seen: Seen | None) -> str:
    """Return the params.yaml of a project: what Thaw ships, with what the wish and the images ask for.

    Raises: BackboneError for a backbone that is not there.
    """
    from thaw.networks.sources.opening import describe

    text = files.params_text()
    for key in ("data.raw", "data.labels"):
        text = with_value(text, key, images.FOLDER)
    if wish.backbone is not None:
        text = with_value(text, "backbone.source", _findable(wish.backbone))
        if value_at(text, "backbone.sha256") is not None:
            text = with_value(text, "backbone.sha256", None)
    spec = describe(str(value_at(text, "backbone.source")))
    if seen is not None:
        text = with_value(text, "prepare.size_px", seen.size_px(spec.input_px))
        if seen.value_range is not None:
            text = with_value(text, "prepare.value_range", looking.shown(seen.value_range))
    for path, value in wish.params.items():
        text = with_value(text, path, value)
    return text


def _findable(source: str) -> str:
    """Return a source so that the project finds it too: a path from the current folder becomes absolute."""
    kind, _, rest = source.partition(":")
    name, at, architecture = rest.partition("@")
    if kind in _LOCAL_KINDS and Path(name).exists():
        return f"{kind}:{Path(name).absolute()}{at}{architecture}"
    return source


def _run(root: Path, *command: str) -> None:
    """Run a tool in the project; its progress is shown on a terminal. Raises: RunError with what it printed."""
    shown = sys.stderr.isatty()
    done = subprocess.run(
        command,
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=None if shown else subprocess.STDOUT,
        text=True,
        check=False,
        env=git_setup.environment(),
    )
    if done.returncode:
        lines = [line.strip() for line in (done.stdout or "").splitlines() if line.strip()]
        said = next((line for line in lines if line.startswith("ERROR")), lines[-1] if lines else "see above")
        words = " ".join(Path(word).name if Path(word).is_absolute() else word for word in command)
        raise RunError(f"`{words}` failed: {said.removeprefix('ERROR: ')}")
