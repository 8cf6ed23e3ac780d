"""Seconds of DVC's own commands, and of `thaw verify`, on 10,000 small images and a folder as remote.

    python -m bench.remotes                  about 3 minutes
    python -m bench.remotes --images 100     to try it

In a new repository, once each and in this order: `dvc add`, `dvc status`, `dvc push`, `thaw verify`, `thaw verify
--remote`, `thaw verify --pushed`, then `dvc pull` in a clone, and `dvc add` after one image more. Needs git and a
folder for temporary files.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from bench import _tools
from bench.noop import commit_all
from tests.pipeline.clone import Clone

_SIDE_PX = 32
_A_FOLDER = 1000


def main() -> None:
    """Measure and print one JSON line: seconds of each command, and how large the images are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000, help="how many images there are")
    given = parser.parse_args()
    _tools.report("remotes", lambda: measure(given.images))


def measure(num_images: int) -> _tools.Facts:
    """Return the seconds of each command, in the order in which they ran."""
    with tempfile.TemporaryDirectory(prefix="thaw-bench-") as folder:
        here = Clone(Path(folder, "here"), {"PYTHONPATH": str(Path.cwd())})
        write_images(here.root / "images", num_images)
        (here.root / "dvc.yaml").write_text("stages: {}\n", encoding="utf-8")
        for command in (
            ("git", "init", "-q"),
            ("dvc", "init", "-q"),
            ("dvc", "remote", "add", "-q", "--default", "store", f"{folder}/store"),
        ):
            here.succeed(*command)
        seconds = {"add": _seconds(here, "dvc", "add", "-q", "images")}
        commit_all(here)
        seconds |= {
            "status": _seconds(here, "dvc", "status"),
            "push": _seconds(here, "dvc", "push", "-q"),
            "verify": _seconds(here, "python", "-m", "thaw", "verify"),
            "verify_remote": _seconds(here, "python", "-m", "thaw", "verify", "--remote"),
            "verify_pushed": _seconds(here, "python", "-m", "thaw", "verify", "--pushed"),
        }
        here.succeed("git", "clone", "-q", ".", f"{folder}/there")
        seconds["pull"] = _seconds(Clone(Path(folder, "there")), "dvc", "pull", "-q")
        write_images(here.root / "images" / "more", 1)
        seconds["add_one_more"] = _seconds(here, "dvc", "add", "-q", "images")
        size = sum(path.stat().st_size for path in (here.root / "images").rglob("*.png"))
        return {"images": num_images, "mb": round(size / 1e6, 1), "seconds": seconds}


def write_images(folder: Path, number: int) -> None:
    """Write so many images of noise, a thousand to a folder."""
    random = np.random.default_rng(number)
    for index in range(number):
        path = folder / f"{index // _A_FOLDER:03d}" / f"{index:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (_SIDE_PX, _SIDE_PX)).astype(np.uint8)).save(path)


def _seconds(clone: Clone, *command: str) -> float:
    return round(_tools.seconds_of(lambda: clone.succeed(*command)), 2)


if __name__ == "__main__":
    main()
