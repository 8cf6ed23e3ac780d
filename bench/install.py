"""Fresh installations from the wheel, outside the repository: `python -m bench.install [--sides base serve train]`.

Builds the wheel, makes an empty environment for each side, installs the wheel with the side's extra from the package
registry, and measures: megabytes of site-packages without pip, seconds of the installation, the median of `import thaw`
in a new process. With `--image FILE`, `thaw predict` answers for it from models/export, or from `--model`.
"""

import argparse
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from bench import _tools

SIDES = ("base", "serve", "train")
REPEATS = 20
_INSTALLERS = ("pip", "setuptools", "pkg_resources", "_distutils_hack")
_IMPORT = "import time; started = time.perf_counter(); import thaw; print(time.perf_counter() - started)"
_HAS_TORCH = "import importlib.util; print(importlib.util.find_spec('torch') is not None)"


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(prog="python -m bench.install", description="Install Thaw from its wheel.")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=[*SIDES], help="what to install")
    parser.add_argument("--image", type=Path, help="an image to answer for")
    parser.add_argument("--model", type=Path, default=Path("models/export"), help="the exported model that answers")
    given = parser.parse_args()
    _tools.report("install", lambda: measure(given.sides, given.image, given.model))


def measure(sides: Sequence[str], image: Path | None, model: Path) -> _tools.Facts:
    """Return the figures of each side."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        subprocess.run([sys.executable, "-m", "build", "--outdir", str(root), "."], check=True, stdout=sys.stderr)
        (wheel,) = root.glob("*.whl")
        return {side: measure_side(root / side, wheel, side, image, model) for side in sides}


def measure_side(environment: Path, wheel: Path, side: str, image: Path | None, model: Path) -> _tools.Facts:
    """Return megabytes, seconds, whether torch is there, and the answer for an image."""
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    wanted = str(wheel) if side == "base" else f"{wheel}[{side}]"
    install = [str(environment / "bin" / "pip"), "install", "--quiet", wanted]
    seconds = _tools.seconds_of(lambda: subprocess.run(install, check=True, stdout=sys.stderr))
    python, outside = environment / "bin" / "python", environment.parent
    found: _tools.Facts = {
        "megabytes": round(size_mb(site_packages(environment))),
        "install_seconds": round(seconds, 1),
        "import_seconds": round(median(float(_out(outside, python, "-c", _IMPORT)) for _ in range(REPEATS)), 4),
        "torch": _out(outside, python, "-c", _HAS_TORCH) == "True",
    }
    if image is not None:
        command = (environment / "bin" / "thaw", "predict", image.resolve(), "--model", model.resolve())
        found["answer"] = _out(outside, *command).splitlines()[1].partition(",")[2]
    return found


def site_packages(environment: Path) -> Path:
    """Return where an environment keeps its packages."""
    base = {"base": str(environment), "platbase": str(environment)}
    return Path(sysconfig.get_path("platlib", "venv", vars=base))


def size_mb(folder: Path) -> float:
    """Return the MB (10^6 bytes) of all files in a folder, without those of the installers."""
    entries = [entry for entry in folder.iterdir() if not entry.name.partition("-")[0].startswith(_INSTALLERS)]
    files = [path for entry in entries for path in ([entry] if entry.is_file() else entry.rglob("*"))]
    return sum(path.stat().st_size for path in files if path.is_file()) / 1e6


def _out(folder: Path, *command: str | Path) -> str:
    done = subprocess.run([str(word) for word in command], cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip()


if __name__ == "__main__":
    main()
