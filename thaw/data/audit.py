"""What there is to know about a data set before trusting a figure from it: counts, copies, contradictions."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from typing import TypeVar

import pandas as pd

from thaw import names
from thaw.config.schema import PrepareParams
from thaw.data import pixel_values
from thaw.data.folds import places
from thaw.data.split import SPLITS, SplitNotes
from thaw.data.units import connected
from thaw.pipeline.data_facts import Audit, Conflict, Group, Listed, NearDuplicates, SplitCounts

Item = TypeVar("Item")

_MOST_LISTED = 100
_MOST_IN_A_GROUP = 10


def label_conflicts(table: pd.DataFrame) -> list[Conflict]:
    """Return the images (by content) that are listed under more than one label, with their paths and labels."""
    found = []
    for sha256, rows in table[table["sha256"].duplicated(keep=False)].groupby("sha256", sort=True):
        if rows["label"].nunique() > 1:
            found.append(Conflict(sha256=str(sha256), paths=rows["path"].tolist(), labels=rows["label"].tolist()))
    return found


def summary(
    samples: pd.DataFrame,
    *,
    rejected: pd.DataFrame,
    conflicts: list[Conflict],
    split_notes: SplitNotes,
    channels: int,
    dtype: str,
    settings: PrepareParams,
    near_copies: Sequence[tuple[int, int]],
    decisions: Sequence[str] = (),
) -> Audit:
    """Return audit.json: `samples` has the columns of samples.csv, and planes, measured; near copies are rows."""
    copies = [_shown(samples, rows) for rows in _same(samples["sha256"].tolist())]
    return Audit(
        images=len(samples),
        channels=channels,
        dtype="uint16" if dtype == "uint16" else None,
        value_range=pixel_values.report(samples["measured"], settings.value_range),
        folds=split_notes.num_folds,
        classes=_counts(samples, split_notes.num_folds),
        rejected=len(rejected),
        label_conflicts=_listed(conflicts),
        exact_duplicates=_listed(copies),
        near_duplicates=near_duplicates(samples, near_copies),
        first_frame_only=_listed(samples["path"][(samples["planes"] > 1) & (settings.plane in ("first", 0))].tolist()),
        moved_by_repair=_listed(split_notes.moved_by_repair),
        given_split_changed=_listed(split_notes.given_split_changed),
        missing=_listed(split_notes.missing),
        never_validated=_listed(split_notes.never_validated),
        units_of_tied_groups=split_notes.units_of_tied_groups,
        decisions=[names.on_one_line(line) for line in decisions],
    )


def _counts(samples: pd.DataFrame, num_folds: int) -> dict[str, SplitCounts]:
    """Return how many images of each class are in each split, and in each fold where there are several."""
    in_split = Counter(zip(samples["label"], samples["split"], strict=True))
    in_fold = Counter(zip(samples["label"], samples["fold"].tolist(), strict=True))
    return {
        label: SplitCounts(
            **{split: in_split[label, split] for split in SPLITS},
            folds=[in_fold[label, fold] for fold in range(num_folds)] if num_folds > 1 else None,
        )
        for label in sorted(set(samples["label"]))
    }


def near_duplicates(samples: pd.DataFrame, pairs: Sequence[tuple[int, int]]) -> NearDuplicates:
    """Return the groups of images that look alike, tied by pairs of rows; those with several labels come first."""
    tied = [rows for rows in connected(len(samples), pairs) if len(rows) > 1]
    labels, places_of = samples["label"].tolist(), places(samples)
    several = [
        (len({labels[row] for row in rows}) > 1, len({places_of[row] for row in rows}) > 1, rows) for rows in tied
    ]
    ordered = sorted(several, key=lambda found: (not found[0], not found[1], found[2]))
    return NearDuplicates(
        count=len(ordered),
        first=[_shown(samples, rows) for _, _, rows in ordered[:_MOST_LISTED]],
        groups_across_splits=sum(across for _, across, _ in ordered),
        contradictory=sum(contradictory for contradictory, _, _ in ordered),
    )


def _same(keys: Sequence[Hashable]) -> list[list[int]]:
    rows: dict[Hashable, list[int]] = defaultdict(list)
    for row, key in enumerate(keys):
        rows[key].append(row)
    return [places for places in rows.values() if len(places) > 1]


def _shown(samples: pd.DataFrame, rows: list[int]) -> Group:
    """Return a group's size and splits, and its first images."""
    first = samples.iloc[rows[:_MOST_IN_A_GROUP]]
    splits = sorted(set(places(samples.iloc[rows])))
    return Group(images=len(rows), splits=splits, paths=first["path"].tolist(), labels=first["label"].tolist())


def _listed(items: list[Item]) -> Listed[Item]:
    """Return how many items there are and the first of them."""
    return Listed[Item](count=len(items), first=items[:_MOST_LISTED])
