"""Images that were taken one after another, as frames of a video or a burst: are they to stay together?

Nobody but their owner knows. Where images of one sub-folder look more like each other than like others of their class,
`data.group` has to say it: a split that tears them apart makes any figure too good.
"""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from thaw.data.catalog import Catalog
from thaw.data.looks import SIDE_PX
from thaw.data.near_copies import thumbnails
from thaw.data.spool import Spool
from thaw.errors import DataError
from thaw.pipeline import scratch

SHEET = "neighbours.png"
"""In the scratch folder: a few images, each with the one that looks most like it."""
_ALIKE = 0.5  # of the way from chance to certainty
_FEWEST = 20  # images below which chance decides
_ASKED = 1000  # images of a class whose nearest one is looked for
_SHOWN = 6
_FILENAME = "filename:"


@dataclass(frozen=True)
class Seen:
    """How often the image that looks most like another one is its neighbour."""

    asked: int
    """Images whose nearest one was looked for."""
    found: float
    """Share of them whose nearest one is a neighbour."""
    chance: float
    """That share if looks had nothing to do with it."""
    pairs: list[tuple[int, int]]
    """Rows of the first such images, and of the nearest ones."""

    @property
    def alike(self) -> bool:
        """Whether neighbours look alike."""
        return self.asked >= _FEWEST and self.found - self.chance >= _ALIKE * (1 - self.chance)


def grouped(found: Catalog, spool: Spool, policy: str | None) -> Catalog:
    """Return the catalog with the groups that `data.group` makes of sub-folders or names.

    Where the user gave groups or splits, and says nothing here, nothing is looked at. Raises: DataError where nothing
    is said and images of a sub-folder look alike, with the figures and a picture of some; where a name does not fit the
    pattern; or where a column has groups as well.
    """
    table = found.usable
    if policy not in (None, "none") and table["group"].any():
        raise DataError(f"data.group is {policy}, and the table of images has groups as well; leave one of them out")
    if policy == "none" or (policy is None and (table["group"].any() or table["split"].any())):
        return found
    paths = [PurePosixPath(path) for path in table["path"]]
    if policy is not None and policy.startswith(_FILENAME):
        return _with(found, _by_name(paths, policy.removeprefix(_FILENAME)), policy)
    folders = _sub_folders(paths, table["label"].tolist())
    if policy == "folder":
        return _with(found, folders, policy)
    thumbs = _thumbs(table, spool)
    if (seen := look(table, thumbs, folders)).alike:
        _stop(seen, table, spool)
    if (seen := look(table, thumbs, _next_by_name(table))).alike:
        one, other = (table["path"].iloc[row] for row in seen.pairs[0])
        line = (
            f"{seen.found:.0%} of {seen.asked} images look most like the one before or after them by name, where "
            f"{seen.chance:.0%} would by chance ({one} and {other}); if they are frames or bursts, set data.group: "
            "filename:REGEX, or the figures are too good"
        )
        return dataclasses.replace(found, notes=[*found.notes, line])
    return found


def look(table: pd.DataFrame, thumbs: NDArray[np.float64], near: Sequence[str] | NDArray[np.int64]) -> Seen:
    """Return how often the nearest image of the same class is a neighbour.

    `thumbs` are [images, numbers]; `near` names each image's folder ('' is none), or is its place in the order of
    names. Exact copies are left out.
    """
    first = ~table["sha256"].duplicated().to_numpy()
    places, by_order = np.asarray(near), isinstance(near, np.ndarray)
    hits, chances, pairs = [], [], []
    for label in sorted(set(table["label"])):
        rows = np.flatnonzero(first & (table["label"] == label).to_numpy())
        asked = rows if by_order else rows[places[rows] != ""]
        asked = asked[:: -(-len(asked) // _ASKED)] if len(asked) else asked
        if len(rows) < 2 or not len(asked):
            continue
        distances = np.round(1 - thumbs[asked] @ thumbs[rows].T, 9)  # whatever order sums are made in
        distances[asked[:, None] == rows[None, :]] = np.inf
        nearest = rows[np.argmin(distances, axis=1)]
        if by_order:
            together = np.abs(places[asked][:, None] - places[rows][None, :]) == 1
            hit = np.abs(places[asked] - places[nearest]) == 1
        else:
            together = places[asked][:, None] == places[rows][None, :]
            together[asked[:, None] == rows[None, :]] = False
            hit = places[asked] == places[nearest]
        hits += hit.tolist()
        chances += (together.sum(axis=1) / (len(rows) - 1)).tolist()
        pairs += [(int(one), int(other)) for one, other in zip(asked[hit], nearest[hit], strict=True)]
    found, chance = (float(np.mean(values)) if values else 0.0 for values in (hits, chances))
    return Seen(len(hits), found, chance, pairs[:: -(-len(pairs) // _SHOWN) or 1] if pairs else [])


def _thumbs(table: pd.DataFrame, spool: Spool) -> NDArray[np.float64]:
    """Return a thumbnail of each image as a vector of length 1 about its mean."""
    small = thumbnails(spool, table["number"].to_numpy(np.int64))
    flat = small.reshape(len(small), -1).astype(np.float64)
    flat -= flat.mean(axis=1, keepdims=True)
    thumbs: NDArray[np.float64] = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    return thumbs


def _sub_folders(paths: Sequence[PurePosixPath], labels: Sequence[str]) -> list[str]:
    """Return the folder of each image, '' where that is its class's, the top one, or holds no other image."""
    folders = [
        "" if path.parent.name == label or len(path.parts) < 2 else str(path.parent)
        for path, label in zip(paths, labels, strict=True)
    ]
    counts = pd.Series(folders).value_counts()
    several = sum(name != "" for name in counts.index) > 1
    return [folder if several and counts[folder] > 1 else "" for folder in folders]


def _next_by_name(table: pd.DataFrame) -> NDArray[np.int64]:
    """Return the place of each image among those of its class, in the order of their paths, numbers by value."""
    keys = [
        (label, [part.zfill(20) if part.isdigit() else part for part in re.split(r"(\d+)", path)])
        for label, path in zip(table["label"], table["path"], strict=True)
    ]
    places = np.empty(len(keys), np.int64)
    places[sorted(range(len(keys)), key=keys.__getitem__)] = np.arange(len(keys))
    return places


def _by_name(paths: Sequence[PurePosixPath], pattern: str) -> list[str]:
    try:
        matches = [re.search(pattern, str(path)) for path in paths]
    except re.error as error:
        raise DataError(f"data.group is filename:{pattern}, which is no pattern: {error}") from None
    if without := [str(path) for path, match in zip(paths, matches, strict=True) if match is None]:
        more = f" and {len(without) - 1} more" if len(without) > 1 else ""
        raise DataError(f"data.group is filename:{pattern}, which {without[0]}{more} does not fit; widen the pattern")
    return [match[1] if match.lastindex else match[0] for match in matches if match is not None]


def _with(found: Catalog, groups: Sequence[str], policy: str) -> Catalog:
    number = len({group for group in groups if group})
    line = f"{number} groups of images that stay together (data.group: {policy})"
    return dataclasses.replace(found, usable=found.usable.assign(group=list(groups)), notes=[*found.notes, line])


def _stop(seen: Seen, table: pd.DataFrame, spool: Spool) -> None:
    """Raise a DataError with the figures, and draw a few images with the ones that look most like them."""
    path = scratch.folder() / SHEET
    numbers = table["number"].to_numpy(np.int64)[np.array(seen.pairs)]
    _draw(path, np.concatenate([spool.looks(numbers[:, side]) for side in (0, 1)]), len(seen.pairs))
    one, other = (table["path"].iloc[row] for row in seen.pairs[0])
    raise DataError(
        f"{seen.found:.0%} of {seen.asked} images look most like another one of their own sub-folder, where "
        f"{seen.chance:.0%} would by chance ({one} and {other}; {path} shows some): if a sub-folder's images belong "
        "together, as frames of a video do, set data.group: folder; if each stands for itself, data.group: none"
    )


def _draw(path: Path, looks: NDArray[np.uint8], columns: int) -> None:
    sheet = Image.new("L", (columns * SIDE_PX, 2 * SIDE_PX))
    for number, pixels in enumerate(looks):
        sheet.paste(Image.fromarray(pixels), (number % columns * SIDE_PX, number // columns * SIDE_PX))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
