"""What `prepare` decided on its own about a data set, in lines that it prints and the report shows."""

from collections import defaultdict

import numpy as np
import pandas as pd

from thaw.config.schema import PrepareParams
from thaw.data.split import SplitNotes

_NOTICED = 0.1  # share of the area that may be cut off without a word
_MUCH = 0.5


def lines(samples: pd.DataFrame, settings: PrepareParams, notes: SplitNotes) -> list[str]:
    """Return a line each on the planes of stacks, on what cropping cut off, and on images that a repair moved.

    `samples` has the columns of samples.csv, planes and notes.
    """
    said = [*_of_planes(samples, settings), *_of_files(samples), *_of_shapes(samples, settings)]
    if moves := notes.moved_by_repair:
        images = sum(move.images for move in moves)
        said.append(f"{images} images are in another split than their hash says, so that each class has its share")
    return said


def _of_planes(samples: pd.DataFrame, settings: PrepareParams) -> list[str]:
    """Return a line if files hold several pages or frames: how many, and which of them is the picture."""
    several = samples[samples["planes"] > 1]
    if several.empty:
        return []
    fewest, most, plane = int(several["planes"].min()), int(several["planes"].max()), settings.plane
    planes = f"{fewest} planes (pages, frames)" if fewest == most else f"{fewest} to {most} planes (pages, frames)"
    used = {
        "first": "the first of each is used",
        "middle": "the middle one of each is used",
        "max": "the largest value at each place is used",
        "mean": "the mean at each place is used",
    }.get(str(plane), f"plane {plane} of each is used, counted from 0")
    return [f"{len(several)} files hold {planes} ({several['path'].iloc[0]}); prepare.plane is {plane}: {used}"]


def _of_files(samples: pd.DataFrame) -> list[str]:
    """Return a line for each thing that is worth knowing of files: how many, and the first."""
    paths: dict[str, list[str]] = defaultdict(list)
    for path, notes in zip(samples["path"], samples["notes"], strict=True):
        for note in notes:
            paths[note].append(path)
    return [
        f"{'1 file' if len(of) == 1 else f'{len(of)} files'} ({of[0]}): {note}" for note, of in sorted(paths.items())
    ]


def _of_shapes(samples: pd.DataFrame, settings: PrepareParams) -> list[str]:
    """Return a line if making images square cuts off, or distorts, more than a little."""
    sides = samples[["width", "height"]].to_numpy(np.float64)
    lost = 1 - sides.min(axis=1) / sides.max(axis=1)
    if settings.fit == "pad" or float(lost.max(initial=0)) <= _NOTICED:
        return []
    much, worst = int((lost > _MUCH).sum()), samples["path"].iloc[int(lost.argmax())]
    shares = f"{np.median(lost):.0%} in the middle, {lost.max():.0%} at most ({worst}), more than half of {much} images"
    if settings.fit == "squash":
        return [f"prepare.fit is squash: the longer side of images is shortened, by {shares}"]
    return [f"prepare.fit is crop: it cuts off the ends of images, {shares}; pad keeps them"]
