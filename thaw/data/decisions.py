"""What `prepare` decided on its own about a data set, in lines that it prints and the report shows."""

import numpy as np
import pandas as pd

from thaw.config.schema import PrepareParams
from thaw.data.split import SplitNotes

_NOTICED = 0.1  # share of the area that may be cut off without a word
_MUCH = 0.5


def lines(samples: pd.DataFrame, settings: PrepareParams, notes: SplitNotes) -> list[str]:
    """Return a line each on frames that were left out, on what cropping cut off, and on images that a repair moved.

    `samples` has the columns of samples.csv, and animated.
    """
    said = []
    if len(animated := samples["path"][samples["animated"]]):
        said.append(
            f"{len(animated)} files hold several frames or pages; the first of each is used ({animated.iloc[0]})"
        )
    said += _of_shapes(samples, settings)
    if moves := notes.moved_by_repair:
        images = sum(move.images for move in moves)
        said.append(f"{images} images are in another split than their hash says, so that each class has its share")
    return said


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
