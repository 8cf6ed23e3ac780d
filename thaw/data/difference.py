"""What changed between two prepared data sets: images added, removed, replaced, relabelled, moved, newly rejected.

An image is the same where its bytes are (SHA-256); where they are not, an image at the same path replaces the old one.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from thaw.data.snapshots import Image, Snapshot

DEVELOPMENT = "development"
_SPLITS = ("train", "val", DEVELOPMENT, "test")


@dataclass(frozen=True)
class Pair:
    """An image before and after."""

    before: Image
    after: Image


@dataclass(frozen=True)
class Rejection:
    """A file that is newly rejected."""

    path: str
    reason: str
    before: Image | None
    """The image that was good before; None for a file that was not there."""
    accepted: bool = False
    """Whether data/accepted.csv has it."""


@dataclass(frozen=True)
class Count:
    """Images before and after."""

    before: int
    after: int


@dataclass(frozen=True)
class Difference:
    """What changed between two data sets; every list is in order of the paths."""

    before: str
    """Name of the one."""
    after: str
    """Name of the other."""
    folds: Count
    """Into how many folds the development images are divided."""
    images: Count
    counts: dict[str, dict[str, Count]]
    """Images by class and split; train and val are `development` where either data set has folds."""
    added: list[Image]
    removed: list[Image]
    """Those whose path is newly rejected are under `rejected`."""
    replaced: list[Pair]
    """Other bytes at the same path."""
    relabelled: list[Pair]
    """The same bytes, or the same path, under another label."""
    renamed: list[Pair]
    """The same bytes and label at another path."""
    moved: list[Pair]
    """The same bytes in another split."""
    moved_folds: list[Pair]
    """The same bytes in another fold; none where the number of folds changed."""
    rejected: list[Rejection]
    readmitted: list[Image]
    """Images at the path of a file that was rejected before."""
    alike: list[list[Image]]
    """Groups of images that look alike across splits or folds, and did not before; the first images of each."""
    num_alike: Count
    """How many such groups there are, new or not; of more than 100 groups, `alike` knows the first."""

    @property
    def spoilt(self) -> list[Rejection]:
        """Files that were good images before, and are rejected now."""
        return [rejection for rejection in self.rejected if rejection.before is not None]

    @property
    def is_empty(self) -> bool:
        """Whether no image, label, split or fold changed."""
        changes = (
            self.added, self.removed, self.replaced, self.relabelled, self.renamed, self.moved, self.moved_folds,
            self.rejected, self.readmitted, self.alike,
        )  # fmt: skip
        return not any(changes) and self.folds.before == self.folds.after


def compare(before: Snapshot, after: Snapshot) -> Difference:
    """Return what changed from one data set to the other."""
    pairs, gone, new = _matched(before.images, after.images)
    same = [pair for pair in pairs if pair.before.sha256 == pair.after.sha256]
    gone_by_path = {image.path: image for image in gone}
    rejected = [
        Rejection(path, reason, gone_by_path.get(path), (path, reason) in after.accepted)
        for path, reason in sorted(after.rejected.items())
        if path not in before.rejected
    ]
    spoilt = {rejection.path for rejection in rejected if rejection.before is not None}
    folds = Count(before.num_folds, after.num_folds)
    split = split_by(folds)
    return Difference(
        before=before.name,
        after=after.name,
        folds=folds,
        images=Count(len(before.images), len(after.images)),
        counts=_counts(before, after, split),
        added=[image for image in new if image.path not in before.rejected],
        removed=[image for image in gone if image.path not in spoilt],
        replaced=[pair for pair in pairs if pair.before.sha256 != pair.after.sha256],
        relabelled=[pair for pair in pairs if pair.before.label != pair.after.label],
        renamed=[
            pair for pair in same if pair.before.path != pair.after.path and pair.before.label == pair.after.label
        ],
        moved=[pair for pair in same if split(pair.before) != split(pair.after)],
        moved_folds=[pair for pair in same if folds.before == folds.after > 1 and _refolded(pair)],
        rejected=rejected,
        readmitted=[image for image in new if image.path in before.rejected],
        alike=_new_groups(before, after),
        num_alike=Count(before.num_alike, after.num_alike),
    )


def split_by(folds: Count) -> Callable[[Image], str]:
    """Return what names the split of an image so that both data sets have the same splits."""
    if folds.before == folds.after == 1:
        return lambda image: image.split
    return lambda image: "test" if image.split == "test" else DEVELOPMENT


def place(image: Image, num_folds: int) -> str:
    """Return where an image is looked at: in test, val, a fold such as `fold 2`, or only in training."""
    return f"fold {image.fold}" if num_folds > 1 and image.split == "train" and image.fold >= 0 else image.split


def _matched(before: list[Image], after: list[Image]) -> tuple[list[Pair], list[Image], list[Image]]:
    """Return which image is which, and those that only the first or only the second list has, each by path.

    The best match goes first: the same bytes at the same path, then the same bytes under the same file name, under any
    name, and last other bytes at the same path.
    """
    keys: list[Callable[[Image], Hashable]] = [
        lambda image: (image.sha256, image.path),
        lambda image: (image.sha256, PurePosixPath(image.path).name),
        lambda image: image.sha256,
        lambda image: image.path,
    ]
    pairs: list[Pair] = []
    gone, new = sorted(before), sorted(after)
    for key in keys:
        found, gone, new = _paired(gone, new, key)
        pairs += found
    return sorted(pairs, key=lambda pair: pair.after.path), gone, new


def _paired(
    before: list[Image], after: list[Image], key: Callable[[Image], Hashable]
) -> tuple[list[Pair], list[Image], list[Image]]:
    """Return the pairs of equal keys, in turn where several have one, and what is left of either list."""
    waiting: dict[Hashable, list[Image]] = defaultdict(list)
    for image in reversed(before):
        waiting[key(image)].append(image)
    pairs, rest = [], []
    for image in after:
        if alike := waiting[key(image)]:
            pairs.append(Pair(alike.pop(), image))
        else:
            rest.append(image)
    left = {image for images in waiting.values() for image in images}
    return pairs, [image for image in before if image in left], rest


def _refolded(pair: Pair) -> bool:
    return "test" not in (pair.before.split, pair.after.split) and pair.before.fold != pair.after.fold


def _counts(before: Snapshot, after: Snapshot, split: Callable[[Image], str]) -> dict[str, dict[str, Count]]:
    tallies = [Counter((image.label, split(image)) for image in side.images) for side in (before, after)]
    labels = sorted({label for tally in tallies for label, _ in tally})
    splits = [name for name in _SPLITS if any(name == held for tally in tallies for _, held in tally)]
    return {
        label: {name: Count(tallies[0][label, name], tallies[1][label, name]) for name in splits} for label in labels
    }


def _new_groups(before: Snapshot, after: Snapshot) -> list[list[Image]]:
    """Return the groups of images alike that the first data set does not have, whatever their files are called."""
    known = [{image.sha256 for image in group} for group in _groups(before)]
    return [
        group for group in _groups(after) if not any({image.sha256 for image in group} <= hashes for hashes in known)
    ]


def _groups(side: Snapshot) -> Iterable[list[Image]]:
    by_path = {image.path: image for image in side.images} if side.alike else {}
    return [[by_path[path] for path in group if path in by_path] for group in side.alike]
