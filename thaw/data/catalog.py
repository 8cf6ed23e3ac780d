"""The table behind a prepared data set: from listed files and what became of each, to samples.csv and rejected.csv."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import pandas as pd

from thaw.config.schema import DataParams, PrepareParams
from thaw.data.audit import label_conflicts
from thaw.data.ingest import Ingested
from thaw.data.listing import Listing
from thaw.data.spool import Spool
from thaw.errors import DataError
from thaw.pipeline.data_facts import Conflict

_CONFLICT = "the same image is listed under another label as well"
_MOST_NAMED = 50


@dataclass(frozen=True)
class Catalog:
    """The files that can be used, those that cannot, and the contradictions among them."""

    usable: pd.DataFrame
    """In order of their paths: the listing's columns, number (in the spool), kind, and what `_FROM_ITEM` names."""
    rejected: pd.DataFrame
    """path and reason."""
    conflicts: list[Conflict]
    """Images that were listed under several labels."""
    notes: list[str] = field(default_factory=list)
    """What was decided of contradictions and rare classes, a line each."""

    @property
    def lines(self) -> list[str]:
        """The notes, and a line if files were rejected: how many, the first of them, and where the others are."""
        if self.rejected.empty:
            return self.notes
        number, (path, reason) = len(self.rejected), next(self.rejected.itertuples(index=False, name=None))
        more = f", and {number - 1} more" if number > 1 else ""
        line = (
            f"{number} of {number + len(self.usable)} files rejected ({path}: {reason}{more}); rejected.csv lists them"
        )
        return [*self.notes, f"{line}, and `thaw data diff` tells those that were good before"]


def collect(
    listed: Listing, items: Iterable[Ingested], spool: Spool, settings: PrepareParams, data: DataParams
) -> Catalog:
    """Return the catalog of files whose pixels are in the spool; `items` come in the order of the listing.

    Images with other channels than most have are rejected, but grey goes with RGB; where one value range holds for all,
    so are images of 8 bits among those of 16, or the other way round. Of an image under several labels no copy is used,
    or the first by its path, as data.conflicts says.

    Raises: DataError if more than prepare.max_rejected (a fraction) of the files cannot be used, or none of a class
    can, or if an image is listed under several labels and data.conflicts is `error`.
    """
    rows: list[dict[str, object]] = []
    one_depth = settings.value_range is not None
    rejected = [(link, "symbolic link to a folder; not followed") for link in listed.links]
    columns = [str(column) for column in listed.table.columns]
    for values, item in zip(listed.table.itertuples(index=False), items, strict=True):
        if item.number is None:
            rejected.append((item.path, item.reason))
            continue
        facts = {name: getattr(item, name) for name in (*_FROM_ITEM, "number")}
        channels, dtype = spool.kind(item.number)
        kind = (_family(channels), 8 * dtype.itemsize if one_depth else 0)
        rows.append(dict(zip(columns, values, strict=True)) | {"kind": kind} | facts)
    usable = pd.DataFrame(rows, columns=[*columns, "number", "kind", *_FROM_ITEM])
    usable = _of_one_kind(usable, rejected)
    _check(usable, rejected, listed, settings.max_rejected)
    found = label_conflicts(usable)
    usable, put_aside, notes = _settle(usable, found, data.conflicts)
    table = pd.DataFrame(sorted([*rejected, *put_aside]), columns=["path", "reason"], dtype=object)
    _check_classes(usable, table, listed)
    return Catalog(usable, table, found, notes)


def _settle(
    usable: pd.DataFrame, found: list[Conflict], policy: Literal["error", "drop", "first"]
) -> tuple[pd.DataFrame, list[tuple[str, str]], list[str]]:
    """Return the images to use, those that are put aside with the reason, and a line that says so."""
    if not found:
        return usable, [], []
    shown = "; ".join(
        " and ".join(f"{path} ({label})" for path, label in zip(one.paths, one.labels, strict=True))
        for one in found[:_MOST_NAMED]
    )
    more = f"; and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    said = f"{len(found)} image{'s are' if len(found) > 1 else ' is'} listed under several labels"
    if policy == "error":
        raise DataError(
            f"{said}: {shown}{more}; correct the labels, or set data.conflicts to drop (use no copy) or first (use the "
            "first by its path)"
        )
    contradicted = usable["sha256"].isin({conflict.sha256 for conflict in found})
    kept = contradicted & ~usable["sha256"].duplicated() if policy == "first" else contradicted & False
    aside = contradicted & ~kept
    if policy == "first":  # and its copies under the same label stay with it
        labels = usable.loc[kept].set_index("sha256")["label"]
        aside &= usable["label"] != usable["sha256"].map(labels)
    what = "the first by its path is kept" if policy == "first" else "none of their copies is used"
    put_aside = [(path, _CONFLICT) for path in usable["path"][aside]]
    return (
        usable[~aside].reset_index(drop=True),
        put_aside,
        [f"{said}; {what} (data.conflicts: {policy}): {shown}{more}"],
    )


_FROM_ITEM = ("sha256", "width", "height", "animated", "measured")


def _family(channels: int) -> int:
    """Return with what number of channels images go together: grey ones become RGB among those."""
    return 3 if channels == 1 else channels


def _of_one_kind(usable: pd.DataFrame, rejected: list[tuple[str, str]]) -> pd.DataFrame:
    """Return the images of the kind that most are of, and put the others on the list of the rejected."""
    if usable.empty:
        return usable
    counts = Counter(usable["kind"])
    most = max(counts, key=lambda kind: (counts[kind], kind))
    others = usable["kind"].map(lambda kind: kind != most).astype(bool)
    for path, kind in usable.loc[others, ["path", "kind"]].itertuples(index=False):
        rejected.append((path, f"it has {_in_words(kind)}, most images have {_in_words(most)}; they do not mix"))
    return usable[~others].reset_index(drop=True)


def _in_words(kind: tuple[int, int]) -> str:
    channels, bits = kind
    text = "one channel or three" if channels == _family(1) else f"{channels} channels"
    return f"{text} of {bits} bits" if bits else text


def _check(usable: pd.DataFrame, rejected: list[tuple[str, str]], listed: Listing, max_rejected: float) -> None:
    total = len(usable) + len(rejected)
    named = _first(sorted(rejected))
    if usable.empty:
        raise DataError(f"none of the {total} files in {listed.root} can be used ({named})")
    if len(rejected) > max_rejected * total:
        raise DataError(
            f"{len(rejected)} of {total} files cannot be used, more than prepare.max_rejected ({max_rejected:g}) "
            f"allows: {named}; mend or remove them, or raise prepare.max_rejected"
        )


def _check_classes(usable: pd.DataFrame, rejected: pd.DataFrame, listed: Listing) -> None:
    """Raises: DataError with all classes that no image is left of."""
    if lost := sorted(set(listed.classes) - set(usable["label"])):
        what = f"class {lost[0]!r} has" if len(lost) == 1 else f"the classes {', '.join(map(repr, lost))} have"
        named = _first(list(rejected.itertuples(index=False, name=None)))
        raise DataError(f"{what} no image that can be used ({named}); add some, or remove it")


def _first(rejected: list[tuple[str, str]]) -> str:
    more = f"; and {len(rejected) - 3} more" if len(rejected) > 3 else ""
    return "; ".join(f"{path}: {reason}" for path, reason in rejected[:3]) + more


def number(usable: pd.DataFrame, splits: list[str], folds: list[int]) -> pd.DataFrame:
    """Return the catalog with its split, fold, id and row: exact copies get -1, -2 ... after the first, by path."""
    copy = usable.groupby("sha256", sort=False).cumcount()
    start = usable["sha256"].str[:16]
    ids = [name if again == 0 else f"{name}-{again}" for name, again in zip(start, copy, strict=True)]
    return usable.assign(split=splits, fold=folds, id=ids, row=range(len(usable)))
