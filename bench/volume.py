"""What a hundredth more images costs `prepare`: seconds, peak memory and shards, at several sizes.

    python -m bench.volume                             20,000 and 200,000 images: hours on two cores, 15 GB of disk
    python -m bench.volume --sizes 5000 20000
    python -m bench.volume --sizes 200 400 --classes 4    to try it

The images are JPEG files of 64 px in 1,000 classes. `dvc repro prepare` runs in a clone of the last commit, once on
the images and once after 1 % more of them were added to their folders; `again` is the second time over the first. DVC
hashes images and outs in both. `slowdown` is the cost of an image at the largest size over that at the smallest.

Needs the installation only. Resumable: a size that is done at the same params and code is read back from .thaw/bench/,
with the commit; delete that folder to measure anew.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from bench import _tools
from bench._photos import write_photos
from bench.accuracy import overlaid
from thaw.config.reader import read_tree
from thaw.pipeline import artifacts

_SIZES = (20_000, 200_000)
_CLASSES = 1_000
_SIDE_PX = 64
_REPRO = [sys.executable, "-m", "dvc", "repro", "prepare"]


def main() -> None:
    """Run the sizes that are not done yet and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=_SIZES, help="numbers of images")
    parser.add_argument("--classes", type=int, default=_CLASSES)
    given = parser.parse_args()

    def run() -> _tools.Facts:
        settings = {"data": dict.fromkeys(("raw", "labels"), "data/photos"), "prepare": {"size_px": _SIDE_PX}}
        tree = overlaid(read_tree(Path("params.yaml")), settings)
        return summary({size: _run_size(tree, size, given.classes) for size in sorted(given.sizes)})

    _tools.report("volume", run)


def summary(found: dict[int, dict[str, Any]]) -> _tools.Facts:
    """Return figures by size, and how the cost of an image grows; `found` has what a run of each size gave."""
    each = {size: 1000 * entry["first_s"] / size for size, entry in found.items()}
    sizes = {
        str(size): {
            "seconds_a_thousand": round(each[size], 2),
            "again": round(entry["again_s"] / entry["first_s"], 3),
            "peak_mib": round(max(entry["first_mib"], entry["again_mib"])),
            "shards": entry["shards"],
            "shards_that_stayed": entry["stayed"],
        }
        for size, entry in found.items()
    }
    commits = sorted({entry["commit"] for entry in found.values()})
    return {"sizes": sizes, "slowdown": round(each[max(each)] / each[min(each)], 2), "commits": commits}


def _run_size(tree: dict[str, Any], size: int, classes: int) -> dict[str, Any]:
    """Return seconds, peaks and shards of both runs on that many images."""
    settings = {"params": tree, "size": size, "classes": classes, "code": _tools.committed_code()}
    done = _tools.kept("volume", settings)
    if done.exists():
        return artifacts.read_json(done)
    key = artifacts.digest(settings)
    artifacts.remove(_tools.clone_folder(key))  # of an interrupted run: what it kept would make this one faster
    clone = _tools.clone(key, tree)
    environment, photos = _tools.environment(clone), clone / "data" / "photos"
    print(f"volume: {size} images are made", file=sys.stderr, flush=True)
    write_photos(photos, size, _SIDE_PX, classes)
    first_mib, first_s = _tools.peak_of(_REPRO, cwd=clone, environment=environment)
    before = _shards(clone)
    write_photos(photos, max(1, size // 100), _SIDE_PX, classes, first=size)
    again_mib, again_s = _tools.peak_of(_REPRO, cwd=clone, environment=environment)
    result = {
        "first_s": first_s, "first_mib": first_mib, "again_s": again_s, "again_mib": again_mib,
        "shards": len(before), "stayed": len(before & _shards(clone)), "commit": _tools.commit(clone),
    }  # fmt: skip
    artifacts.write_json(done, result)
    artifacts.remove(clone)
    return result


def _shards(clone: Path) -> set[str]:
    """Return the SHA-256 of each shard."""
    files = artifacts.read_json(clone / "data" / "prepared" / artifacts.MANIFEST)["files"]
    return {entry["sha256"] for name, entry in files.items() if name.startswith("images-")}


if __name__ == "__main__":
    main()
