"""Images a second of `predict` on the ONNX file against torch in eager mode, and the time from start to first answer.

    python -m bench.predict                                     64 images a side, 7 rounds: about 5 minutes
    python -m bench.predict --images 4 --rounds 1 --starts 1

Both sides answer for the same files, from reading and decoding to calibrated probabilities, on the same number of
threads: `thaw.serving.answers.answer`, which is what the command runs, and `thaw.training.model.Model.predict`. Rates
are medians over the rounds, the ratio is that of the medians. A start is the whole process
`python -m thaw predict FILE`, from its launch to its end. Peaks of memory are those of the command on the
images and on ten times as many. Needs what `dvc repro` leaves: models/final, models/export and the images at data.raw.
"""

import argparse
import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench import _tools
from thaw.activations.engine import use_threads
from thaw.config.reader import load_params
from thaw.errors import DataError
from thaw.serving import inputs
from thaw.serving.answers import answer
from thaw.serving.exported import Exported
from thaw.training import model

_TIMES_MORE = 10
# What the kernel notes of a child counts from before it became another program; the high-water mark does not.
_WITH_PEAK = """
import sys
from pathlib import Path
from thaw.cli import app
try:
    app(sys.argv[1:])
finally:
    print(Path("/proc/self/status").read_text(), file=sys.stderr)
"""


def main() -> None:
    """Measure and print one JSON line: rates, their ratio, the largest difference, starts and peaks of memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64, help="images a side in a round")
    parser.add_argument("--rounds", type=int, default=7, help="how often each side is measured")
    parser.add_argument("--starts", type=int, default=9, help="how often the command is started for one image")
    given = parser.parse_args()
    _tools.report("predict", lambda: measure(given.images, num_rounds=given.rounds, num_starts=given.starts))


def measure(num_images: int, *, num_rounds: int, num_starts: int) -> _tools.Facts:
    """Return all figures for the models in models/ and that many of the images at data.raw."""
    params = load_params()
    paths = spread(params.data.raw, num_images)
    final, exported = model.load(), Exported.open(threads=use_threads(params.compute))
    facts = throughput(final, exported, paths, num_rounds=num_rounds)
    spent = [start(paths[0]) for _ in range(num_starts)]
    starts = {
        "median": round(statistics.median(seconds for seconds, _ in spent), 2),
        "each": [round(seconds, 2) for seconds, _ in spent],
        "processor_median": round(statistics.median(busy for _, busy in spent), 2),
    }
    peaks = {str(times * len(paths)): peak(paths * times) for times in (1, _TIMES_MORE)}
    return facts | {"start_to_answer_s": starts, "peak_mib": peaks}


def throughput(final: model.Model, exported: Exported, paths: Sequence[Path], *, num_rounds: int) -> _tools.Facts:
    """Return the rates of both sides, their ratio, and the largest difference of a probability."""
    found: dict[str, NDArray[np.float64]] = {}

    def in_torch() -> None:
        found["torch_eager"] = final.predict(paths)

    def in_onnx() -> None:
        found["onnx"] = np.stack(
            [one.probabilities for one in answer(exported, paths) if one.probabilities is not None]
        )

    sides = {"torch_eager": in_torch, "onnx": in_onnx}
    for work in sides.values():
        work()
    timed = {name: lambda work=work: len(paths) / _tools.seconds_of(work) for name, work in sides.items()}
    each = [_tools.in_turn(timed, number) for number in range(num_rounds)]
    rates = {name: _tools.median(each, name) for name in sides}
    return {
        "images": len(paths),
        "images_per_second": {name: round(rate, 1) for name, rate in rates.items()},
        "ratio": round(rates["onnx"] / rates["torch_eager"], 2),
        "each_round": [{name: round(rate, 1) for name, rate in entry.items()} for entry in each],
        "largest_difference": float(f"{np.abs(found['onnx'] - found['torch_eager']).max():.2g}"),
    }


def spread(folder: str, num: int) -> list[Path]:
    """Return that many of the files in a folder, evenly spread. Raises: DataError if there are fewer."""
    total = inputs.count([folder]) or 0
    if total < num:
        raise DataError(f"{folder} has {total} files; ask for at most as many with --images")
    return list(islice(inputs.find([folder]), 0, total // num * num, total // num))


def start(path: Path) -> tuple[float, float]:
    """Return the seconds from the launch of the command to its end for one image, and those of processor time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "thaw", "predict", str(path)]
    seconds = _tools.seconds_of(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def peak(paths: Sequence[Path], *, folder: str = "models/export") -> float:
    """Return the peak memory of the command in MiB, by its own account, when it answers for these files."""
    done = subprocess.run(
        [sys.executable, "-c", _WITH_PEAK, "predict", "-", "--model", folder],
        input="".join(f"{path}\n" for path in paths),
        capture_output=True,
        text=True,
        check=False,
    )
    rows = done.stdout.count("\n") - 1
    if rows != len(paths):
        raise DataError(f"predict answered for {rows} of {len(paths)} images; nothing was measured")
    return round(int(done.stderr.rpartition("VmHWM:")[2].split()[0]) / 1024, 1)


if __name__ == "__main__":
    main()
