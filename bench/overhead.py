"""What a small run costs beside its training: `dvc repro` on 140 images of 96 px, one phase of one epoch, by stage.

    python -m bench.overhead                    three rounds
    python -m bench.overhead --rounds 1
    python -m bench.overhead --images 480       enough of them for ONNX Runtime in features and phases

The images are cells of the sample, 70 of each class, made small. Every round runs in a fresh clone of the last commit
with an empty scratch folder, so nothing is cached. Seconds are by stage, and by part over all stages; DVC's own time,
and that in which an interpreter starts and ends, is `beside`. Processor seconds count all processes, so they say more
than seconds where other work runs on the machine.

Needs the installation only.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from bench import _cells, _tools
from bench.accuracy import overlaid
from thaw.config.reader import read_tree
from thaw.data import sample
from thaw.pipeline import artifacts

_SIDE_PX = 96
_CLOCKS = ("seconds", "processor_s", "beside")
_REPRO = [sys.executable, "-m", "dvc", "repro"]


def main() -> None:
    """Run the rounds and print one JSON line: median seconds overall, by stage and by part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=140, help="half of them of each class")
    given = parser.parse_args()

    def run() -> _tools.Facts:
        tree = settings(read_tree(Path("params.yaml")))
        kept = {"params": tree, "images": given.images, "code": _tools.committed_code()}
        measured = _tools.rounds("overhead", kept, given.rounds, lambda _: _run(tree, given.images))
        return {"images": given.images, **summary(measured)}

    _tools.report("overhead", run)


def settings(tree: dict[str, Any]) -> dict[str, Any]:
    """Return params with the shipped phase `top` alone, of one epoch, on the small images."""
    small = {"data": dict.fromkeys(("raw", "labels"), "data/small"), "prepare": {"size_px": _SIDE_PX}}
    return overlaid(_cells.with_phase(tree, epochs=1, views=1), small)


def summary(measured: Sequence[dict[str, Any]]) -> _tools.Facts:
    """Return the medians over rounds of both clocks, and of the seconds of each stage and each part."""
    found: _tools.Facts = {clock: round(_tools.median(measured, clock), 1) for clock in _CLOCKS}
    for kind in ("stages", "parts"):
        each = [entry[kind] for entry in measured]
        found[kind] = {name: round(_tools.median(each, name), 2) for name in each[0]}
    return found | {"rounds": len(measured), "each_round": [round(entry["seconds"], 1) for entry in measured]}


def by_part(timings: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the seconds of each part over all stages, from the files that the stages leave."""
    parts: dict[str, float] = {}
    for timing in timings:
        for name, seconds in timing["parts"].items():
            parts[name] = parts.get(name, 0.0) + seconds
    return parts


def write_images(folder: Path, num_images: int) -> None:
    """Write so many cells of the sample, as many of each class, as PNG files of 96 px in a folder for each class."""
    table = sample.read_labels(sample.package_data() / "labels.csv")
    for label, rows in sorted(table.groupby("label").groups.items()):
        (folder / str(label)).mkdir(parents=True)
        for file in table["file"][rows][: num_images // table["label"].nunique()]:
            with Image.open(sample.package_data() / file) as image:
                image.resize((_SIDE_PX, _SIDE_PX)).save(folder / str(label) / f"{Path(file).stem}.png")


def _run(tree: dict[str, Any], num_images: int) -> dict[str, Any]:
    """Return both clocks of a whole run in a fresh clone, with the seconds of its stages and parts."""
    key = artifacts.digest(["overhead", tree, num_images])
    artifacts.remove(_tools.clone_folder(key))
    clone = _tools.clone(key, tree)
    write_images(clone / "data" / "small", num_images)
    started, before = time.perf_counter(), os.times()
    subprocess.run(_REPRO, cwd=clone, env=_tools.environment(clone), check=True, stdout=sys.stderr)
    seconds, after = time.perf_counter() - started, os.times()
    timings = [artifacts.read_json(path) for path in sorted((clone / ".thaw" / "timings").glob("*.json"))]
    stages = {timing["stage"]: timing["seconds"] for timing in timings}
    artifacts.remove(clone)
    return {
        "seconds": seconds,
        "processor_s": sum(after[2:4]) - sum(before[2:4]),
        "beside": seconds - sum(stages.values()),
        "stages": stages,
        "parts": by_part(timings),
    }


if __name__ == "__main__":
    main()
