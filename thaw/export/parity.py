"""The gate of the export: what was written must answer as the torch model does, or the stage fails with the figure."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from thaw.data.pixel_values import Pixels
from thaw.errors import ArtifactError
from thaw.export.files import PROGRAM_FILE
from thaw.pipeline import timings
from thaw.serving.exported import ONNX_FILE, Exported

NUM_IMAGES = 200
TOLERANCE = 1e-4
"""Largest difference of a probability that is accepted."""

# The program runs in eager torch, many times slower, and has the same operators as the model that it is compared with.
_NUM_IMAGES_PROGRAM = 16

Answers = NDArray[np.float64]


def spread(rows: NDArray[np.int64], num: int = NUM_IMAGES) -> NDArray[np.int64]:
    """Return that many rows, evenly spread over all of them, or all if there are fewer: rows are sorted by class."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(num, len(rows))).round().astype(np.int64))]


@timings.counted("parity")
def check(folder: Path, squares: Pixels, expected: Answers) -> float:
    """Return the largest difference between an exported folder and the torch model's probabilities [images, classes].

    Raises: ArtifactError with the figure if the ONNX file or the program of torch.export differs by more than 1e-4 in a
    probability, or in a class by more than that.
    """
    difference = compare(ONNX_FILE, Exported.unverified(folder).probabilities(squares), expected)
    if not (folder / PROGRAM_FILE).exists():
        return difference
    few = spread(np.arange(len(squares)), _NUM_IMAGES_PROGRAM)
    program: Any = torch.export.load(folder / PROGRAM_FILE).module()
    with torch.inference_mode():
        found = program(torch.from_numpy(squares[few]))[0].double().numpy()
    return max(difference, compare(PROGRAM_FILE, found, expected[few]))


def compare(name: str, found: Answers, expected: Answers) -> float:
    """Return the largest difference of probabilities [images, classes]. Raises: ArtifactError if it is too large.

    A class counts as changed if the torch model gives it a probability below that of its own class by more than the
    tolerance: rounding decides a tie either way.
    """
    difference = float(np.abs(found - expected).max())
    of_found = expected[np.arange(len(expected)), found.argmax(axis=1)]
    others = int((expected.max(axis=1) - of_found > TOLERANCE).sum())
    if not difference <= TOLERANCE or others:  # NaN counts as a difference
        raise ArtifactError(
            f"{name} differs from the torch model by up to {difference:.1e} in a probability ({TOLERANCE:.0e} is "
            f"allowed) and in the class of {others} of {len(expected)} test images; nothing was kept. "
            "models/final holds the model all the same; report this with the name of the backbone"
        )
    return difference
