"""The table behind a prepared data set: from listed files and what became of each, to samples.csv and rejected.csv."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from thaw.data.audit import label_conflicts
from thaw.data.ingest import Ingested
from thaw.data.listing import Listing
from thaw.data.packed import Spool
from thaw.errors import DataError
from thaw.pipeline.data_facts import Conflict

_CONFLICT = "the same image is listed under another label as well"


@dataclass(frozen=True)
class Catalog:
    """The files that can be used, those that cannot, and the contradictions among them."""

    usable: pd.DataFrame
    """In order of their paths: the listing's columns, number (in the spool), kind, and what `_FROM_ITEM` names."""
    rejected: pd.DataFrame
    """path and reason."""
    conflicts: list[Conflict]
    """Images that were listed under several labels; all their copies are rejected, since none can be trusted."""

    @property
    def lines(self) -> list[str]:
        """A line for the user if files were rejected: how many, the first of them, and where the others are."""
        if self.rejected.empty:
            return []
        number, (path, reason) = len(self.rejected), next(self.rejected.itertuples(index=False, name=None))
        more = f", and {number - 1} more" if number > 1 else ""
        line = (
            f"{number} of {number + len(self.usable)} files rejected ({path}: {reason}{more}); rejected.csv lists them"
        )
        return [f"{line}, and `thaw data diff` tells those that were good before"]


def collect(
    listed: Listing, items: Iterable[Ingested], spool: Spool, *, max_rejected: float, one_depth: bool = False
) -> Catalog:
    """Store the pixels in the spool and return the catalog; `items` come in the order of the listing.

    Images with other channels than most have are rejected, but grey goes with RGB; with `one_depth` so are images of 8
    bits among those of 16, or the other way round.

    Raises: DataError if more than `max_rejected` (a fraction) of the files cannot be used, or none of a class can.
    """
    rows: list[dict[str, object]] = []
    rejected = [(link, "symbolic link to a folder; not followed") for link in listed.links]
    columns = [str(column) for column in listed.table.columns]
    for values, item in zip(listed.table.itertuples(index=False), items, strict=True):
        if item.pixels is None:
            rejected.append((item.path, item.reason))
            continue
        number = spool.append(item.pixels, item.look)
        facts = {name: getattr(item, name) for name in _FROM_ITEM}
        kind = (_family(item.pixels.shape[2]), 8 * item.pixels.itemsize if one_depth else 0)
        rows.append(dict(zip(columns, values, strict=True)) | {"number": number, "kind": kind} | facts)
    usable = pd.DataFrame(rows, columns=[*columns, "number", "kind", *_FROM_ITEM])
    usable = _of_one_kind(usable, rejected)
    conflicts = label_conflicts(usable)
    contradicted = usable["sha256"].isin({conflict.sha256 for conflict in conflicts})
    rejected += [(path, _CONFLICT) for path in usable["path"][contradicted]]
    usable = usable[~contradicted].reset_index(drop=True)
    table = pd.DataFrame(sorted(rejected), columns=["path", "reason"], dtype=object)
    _check(usable, table, listed, max_rejected)
    return Catalog(usable, table, conflicts)


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


def _check(usable: pd.DataFrame, rejected: pd.DataFrame, listed: Listing, max_rejected: float) -> None:
    total = len(usable) + len(rejected)
    first = "; ".join(f"{path}: {reason}" for path, reason in rejected.head(3).itertuples(index=False))
    more = f"; and {len(rejected) - 3} more" if len(rejected) > 3 else ""
    if usable.empty:
        raise DataError(f"none of the {total} files in {listed.root} can be used ({first}{more})")
    if len(rejected) > max_rejected * total:
        raise DataError(
            f"{len(rejected)} of {total} files cannot be used, more than prepare.max_rejected ({max_rejected:g}) "
            f"allows: {first}{more}; mend or remove them, or raise prepare.max_rejected"
        )
    if lost := sorted(set(listed.classes) - set(usable["label"])):
        raise DataError(f"class {lost[0]!r} has no image that can be used ({first}{more}); add some, or remove it")


def number(usable: pd.DataFrame, splits: list[str], folds: list[int]) -> pd.DataFrame:
    """Return the catalog with its split, fold, id and row: exact copies get -1, -2 ... after the first, by path."""
    copy = usable.groupby("sha256", sort=False).cumcount()
    start = usable["sha256"].str[:16]
    ids = [name if again == 0 else f"{name}-{again}" for name, again in zip(start, copy, strict=True)]
    return usable.assign(split=splits, fold=folds, id=ids, row=range(len(usable)))
