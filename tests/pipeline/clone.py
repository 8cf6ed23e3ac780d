"""A clone of this repository on a small slice of the sample, in which the tests run the real `dvc`. No test here."""

import hashlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from tests.pipeline import warm
from thaw.config.reader import read_tree
from thaw.data import sample

ROOT = Path(__file__).resolve().parents[2]
IMAGES_A_CLASS = 40
OUTS = (
    "data/code", "data/prepared", "data/features", "models/backbone", "models/phases/head", "models/advice",
    "models/phases/top", "models/phases/mid", "models/final", "reports/training", "reports/validation.json",
    "reports/plots", "reports/selection.json", "reports/predictions.csv", "reports/metrics.json",
    "reports/classes.json", "reports/index.html", "models/export",
)  # fmt: skip
STAGES = (
    "code", "prepare", "backbone", "features", "head", "advise", "unfreeze@top", "unfreeze@mid", "select", "evaluate",
    "report", "export",
)  # fmt: skip
_GIT = ("git", "-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false")
_SMALL = {
    "data.raw": "data/tiny",
    "data.labels": "data/tiny",
    "prepare.size_px": 64,
    "backbone.input_px": 64,
    "augment.flip": "both",
    "features.views": 2,
    "head.hidden": [],
    "unfreeze.phases.top": {"start": "head", "depth": 1, "epochs": 1, "views": 2, "batch_size": 16},
    "unfreeze.phases.mid": {"start": "top", "depth": 2, "epochs": 4, "views": 1, "batch_size": 4},
    "select.folds": 2,
    "select.draws": 100,
    "evaluate.draws": 100,
    "compute.threads": 1,
    "compute.workers": 0,
    "compute.frozen_engine": "torch",
}


@dataclass(frozen=True)
class Clone:
    """A repository of its own; `environment` is laid over that of the tests, in which an empty value unsets."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    cold: bool = False
    """Whether each stage is a Python of its own from the start, and no fork of one that has imported its libraries."""
    umask: int = -1
    """What commands may not permit on files that they make; -1 leaves that as it is here."""
    memory_bytes: int | None = None
    """What each process of a command may take of memory of its own: RLIMIT_DATA.

    Not of address space (RLIMIT_AS): torch maps and reserves gigabytes that it never touches, other ones in each
    release. What is allocated and not shared is counted, in each process for itself; the most of any stage here is 2.4
    GiB, thread stacks included. Linux alone lets one process limit another.
    """

    def start(self, *command: str, own_group: bool = False) -> subprocess.Popen[str]:
        """Start a command in the clone, with its output and errors in one pipe; a group gets signals as a whole."""
        first = [] if self.cold else [str(warm.folder())]
        ours = {
            "PATH": os.pathsep.join([*first, str(Path(sys.executable).parent), os.environ["PATH"]]),
            "THAW_SCRATCH": str(self.root / ".thaw"),
            "DVC_SITE_CACHE_DIR": str(self.root / ".dvc" / "tmp" / "site"),
            "COLUMNS": "200",
        }
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "DVC_"))}
        process = subprocess.Popen(
            command,
            cwd=self.root,
            env={name: value for name, value in (inherited | ours | self.environment).items() if value},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            umask=self.umask,
            start_new_session=own_group,
        )
        if self.memory_bytes is not None:  # long before it starts another process, which inherits the limit
            resource.prlimit(process.pid, resource.RLIMIT_DATA, (self.memory_bytes, self.memory_bytes))
        return process

    def run(self, *command: str, seconds: float = 600) -> tuple[int, str]:
        """Return the exit code of a command and all that it printed; it must end in so many seconds."""
        process = self.start(*command)
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired as error:
            process.kill()
            process.wait()  # not for the end of its output, which a stage that hangs as well keeps open
            raise AssertionError(f"{' '.join(command)} had not ended after {seconds} s: {error.output!r}") from None
        finally:
            assert process.stdout is not None
            process.stdout.close()
        return process.returncode, output

    def succeed(self, *command: str) -> str:
        """Return what a command printed; it must succeed."""
        code, output = self.run(*command)
        assert code == 0, output
        return output

    def update(self, settings: dict[str, Any]) -> None:
        """Set values of params.yaml by their dotted keys; a section is laid over the one that is there."""
        tree = self.params()
        for name, value in settings.items():
            *above, key = name.split(".")
            section = tree
            for part in above:
                section = section.setdefault(part, {})
            section[key] = section.get(key, {}) | value if isinstance(value, dict) else value
        self._write(tree)

    def remove_phase(self, name: str) -> None:
        """Take a phase out of params.yaml."""
        tree = self.params()
        del tree["unfreeze"]["phases"][name]
        self._write(tree)

    def params(self) -> dict[str, Any]:
        """Return the tree of params.yaml."""
        return read_tree(self.root / "params.yaml")

    def _write(self, tree: dict[str, Any]) -> None:
        (self.root / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")

    def lock(self) -> dict[str, Any]:
        """Return the stages of dvc.lock."""
        stages: dict[str, Any] = yaml.safe_load((self.root / "dvc.lock").read_text(encoding="utf-8"))["stages"]
        return stages

    def forget(self, stage: str) -> list[Path]:
        """Have a stage run again: dvc.lock gets another hash of its first dependency, and no cache has its outs.

        Return the objects that the cache has lost. Once the stage has run, dvc.lock is what it was, byte for byte.
        """
        stages = self.lock()
        others = {path for name, entry in stages.items() if name != stage for path in self._objects(entry)}
        gone = [path for path in self._objects(stages[stage]) if path not in others]
        for path in gone:
            path.unlink()
        text = (self.root / "dvc.lock").read_text(encoding="utf-8")
        above, entry = text.split(f"\n  {stage}:\n")
        entry = re.sub(r"(?<= md5: )[0-9a-f]{32}", "f" * 32, entry, count=1)
        (self.root / "dvc.lock").write_text(f"{above}\n  {stage}:\n{entry}", encoding="utf-8")
        shutil.rmtree(self.root / ".dvc" / "cache" / "runs")
        return gone

    def _objects(self, entry: dict[str, Any]) -> set[Path]:
        """Return where the cache has the outs of an entry of dvc.lock: each folder's listing, and each file."""
        found = set()
        for out in entry["outs"]:
            found.add(listing := self.cached(out["md5"]))
            if listing.suffix == ".dir":
                files = json.loads(listing.read_text(encoding="utf-8"))
                found.update(self.cached(file["md5"]) for file in files)
        return found

    def cached(self, md5: str) -> Path:
        """Return where the cache has an object of this hash."""
        return self.root / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]

    def hashes(self) -> dict[str, str]:
        """Return the SHA-256 of every file in the outs of the pipeline, by path."""
        found = {}
        for out in OUTS:
            path = self.root / out
            for file in [path] if path.is_file() else sorted(path.rglob("*")):
                if file.is_file():
                    found[str(file.relative_to(self.root))] = hashlib.sha256(file.read_bytes()).hexdigest()
        return found

    def copy(self, to: Path, **environment: str) -> "Clone":
        """Return a copy elsewhere, with the hard links between cache and workspace; `environment` is laid over ours."""
        subprocess.run(["cp", "-a", str(self.root), str(to)], check=True)
        return replace(self, root=to, environment=environment)


def make_clone(root: Path) -> Clone:
    """Return a repository with the files of this one as they stand, small params, and data/tiny to work on."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in names:
        if (ROOT / name).is_file() and not name.endswith("dvc.lock") and not name.startswith(("reports/", "tests/")):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
    (root / "reports").mkdir()
    shutil.copy(ROOT / "reports" / ".gitignore", root / "reports")
    clone = Clone(root)
    _lay_out_slice(root / "data" / "tiny")
    clone.update(_SMALL)
    for command in (["init", "-q"], ["add", "--all"], ["commit", "-q", "-m", "start"]):
        clone.succeed(*_GIT, *command)
    return clone


def _lay_out_slice(folder: Path) -> None:
    """Copy as many images of each class from the sample's package, and list them in a manifest beside the folder."""
    source = sample.package_data()
    table = sample.read_labels(source / "labels.csv")
    rows: list[tuple[str, str, str, float]] = []
    for label, members in table.groupby("label"):
        (folder / str(label)).mkdir(parents=True)
        for _, row in members.iloc[:: len(members) // IMAGES_A_CLASS].head(IMAGES_A_CLASS).iterrows():
            name = f"{label}/{Path(row['file']).name}"
            shutil.copy(source / row["file"], folder / name)
            # Two cells of a module that were photographed one after another belong together.
            rows.append((f"{folder.name}/{name}", str(label), f"g{len(rows) // 2}", row["confidence"]))
    frame = pd.DataFrame(rows, columns=["path", "label", "group", "confidence"])
    frame.to_csv(folder.with_suffix(".csv"), index=False)


def stages_run(output: str) -> list[str]:
    """Return the stages that a repro ran, in order."""
    return re.findall(r"^Running stage '([^']+)':$", output, flags=re.MULTILINE)


def wait_for(ready: Callable[[], bool], what: str, seconds: float = 120) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, f"{what} did not happen in {seconds} s"
        time.sleep(0.002)
