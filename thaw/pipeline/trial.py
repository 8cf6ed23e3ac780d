"""What a running trial tells `thaw sweep`: the answers of a phase, fold by fold, as soon as each fold is trained.

They are written as files into the folder that an environment variable names; without it nothing is written. Images are
told as parcels, in which those of a group stay together, so that parcels are independent of each other.
"""

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thaw.pipeline import artifacts

VARIABLE = "THAW_TRIAL"
NUM_PARCELS = 16
"""Parcels that the images of a fold are divided into; one loss each is what a trial is pruned on."""
_NAME = re.compile(r"(?P<phase>\w+)-fold-(?P<fold>\d+)\.safetensors")


def parcels(ids: Iterable[Any], groups: Iterable[Any]) -> NDArray[np.int64]:
    """Return the parcel of each image, 0 to NUM_PARCELS - 1: a function of its group, or of its id if it has none."""
    units = (str(group) if group else str(name) for name, group in zip(ids, groups, strict=True))
    return np.array([int(hashlib.sha256(unit.encode()).hexdigest()[:8], 16) % NUM_PARCELS for unit in units], np.int64)


def tell(phase: str, fold: int, *, logits: NDArray[np.floating], labels: NDArray[np.int64], images: Any) -> None:
    """Write the answers [images, classes] of a fold, if a sweep listens; `images` are their rows of samples.csv."""
    if not (folder := os.environ.get(VARIABLE)):
        return
    from safetensors.numpy import save_file

    told = {"logits": logits, "labels": labels, "parcels": parcels(images["id"], images["group"])}
    with artifacts.new_file(Path(folder, f"{phase}-fold-{fold:02d}.safetensors")) as partial:
        save_file({name: np.ascontiguousarray(value) for name, value in told.items()}, partial)


def told(folder: Path) -> dict[tuple[str, int], Path]:
    """Return the files that a trial has written so far, by phase and fold."""
    found = ((_NAME.fullmatch(path.name), path) for path in sorted(folder.glob("*.safetensors")))
    return {(match["phase"], int(match["fold"])): path for match, path in found if match}
