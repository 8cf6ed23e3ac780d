"""What `thaw new`, `thaw update`, `thaw setup` and `thaw verify` print around their work."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

from thaw.names import for_terminal
from thaw.project import files, git_setup, images, looking, verifying
from thaw.project.layout import Made, Wish, new_project
from thaw.project.params_text import value_at
from thaw.project.updating import plan_update


def new(wish: Wish) -> None:
    """Lay out a project, and print what was seen, what will be trained, and which commands come next.

    Raises: ThawError if it cannot be made; SystemExit with 130 if it is interrupted. Nothing is left then.
    """
    try:
        made = new_project(wish)
    except KeyboardInterrupt:
        print(f"interrupted; nothing is left of {wish.target}", file=sys.stderr)
        sys.exit(130)
    for line in _seen(wish, made):
        print(for_terminal(line))
    if made.seen is not None:
        print("what will be trained, and how long it may take on this machine, which is measured now:", flush=True)
        print(_plan(made.root))
    for line in _next_commands(made):
        print(line)


def update(root: Path) -> None:
    """Bring the project in a folder to the installed version, and print what was done and what was left."""
    found = plan_update(root)
    found.apply()
    for line in found.in_words():
        print(line)


def setup(root: Path) -> None:
    """Give this clone of the project merge drivers and hooks, and print what was done."""
    for line in git_setup.set_up(root):
        print(line)


class Verified(Enum):
    """What `thaw verify` looks at."""

    CACHE = "cache"
    REMOTE = "remote"
    PUSHED = "pushed"


def verify(what: Verified, name: str | None, *, since: str | None, delete: bool, deadline_s: float) -> None:
    """Print what is damaged or missing. Raises: ThawError if something is."""
    if what is Verified.CACHE:
        lines = verifying.verify_cache(delete=delete, deadline_s=deadline_s)
    elif what is Verified.REMOTE:
        lines = verifying.verify_remote(name, delete=delete, deadline_s=deadline_s)
    else:
        lines = verifying.verify_pushed(git_setup.commits(Path.cwd(), since), name, deadline_s=deadline_s)
    for line in lines:
        print(line, flush=True)  # an error comes last, on another stream


def _seen(wish: Wish, made: Made) -> Iterator[str]:
    if made.seen is None:
        return
    yield from looking.in_words(made.seen, str(wish.images or wish.manifest))
    yield from (f"  {note}" for note in made.notes)
    for reason in made.unreadable:
        yield f"  left out, since it cannot be read: {reason}"
    text = (made.root / files.PARAMS).read_text(encoding="utf-8")
    keys = ("data.raw", "prepare.size_px", "prepare.value_range", "backbone.source")
    values = ((key, value_at(text, key)) for key in keys)
    yield f"{made.root / files.PARAMS}: {', '.join(f'{key} {value}' for key, value in values if value is not None)}"
    yield f"the images were copied to {made.root / images.FOLDER}, and DVC tracks them there"


def _plan(root: Path) -> str:
    """Return what `thaw plan` prints in a project; where it finds a mistake, that is what is to be mended there."""
    width = str(shutil.get_terminal_size().columns)
    done = subprocess.run(
        [sys.executable, "-m", "thaw", "plan"],
        cwd=root,
        env=os.environ | {"COLUMNS": width},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return f"`thaw plan` finds something to mend: {done.stderr.strip()}"
    return done.stdout.rstrip()


def _next_commands(made: Made) -> Iterator[str]:
    yield "next:"
    yield f"  cd {shlex.quote(os.path.relpath(made.root))}"
    python = shutil.which("python")
    if python is None or Path(python).parent != Path(sys.executable).parent:
        folder = shlex.quote(str(Path(sys.executable).parent))
        yield f"  export PATH={folder}:$PATH   # DVC runs the `python` that it finds on PATH"
    if made.seen is None:
        yield f"  dvc add {images.FOLDER}   # once there is a folder for each class in it, with its images"
    yield "  git add --all . && git commit --message 'Project laid out by thaw new'"
    yield "  thaw repro   # trains, chooses, tests; then open reports/index.html"
