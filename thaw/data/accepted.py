"""Rejections that the team has accepted: data/accepted.csv, a file in git with the columns path and reason.

No stage reads it: what `prepare` writes is a function of the images and params alone. `thaw data diff --gate` does, so
that a good image that is rejected now stops a change until someone has looked at it.
"""

import io
from collections.abc import Collection, Mapping
from pathlib import Path

import pandas as pd

from thaw.errors import DataError
from thaw.pipeline import tables
from thaw.pipeline.revisions import Tree

FILE = "data/accepted.csv"
_COLUMNS = ["path", "reason"]

Accepted = frozenset[tuple[str, str]]
"""Path and reason of each: a file that is rejected for another reason is looked at again."""


def read(tree: Tree) -> Accepted:
    """Return what the team has accepted; nothing where there is no such file. Raises: DataError for another table."""
    data = tree.read_if_there(FILE)
    if data is None:
        return frozenset()
    try:
        table = pd.read_csv(io.BytesIO(data), dtype=str, keep_default_na=False, encoding="utf-8")
    except ValueError as error:  # pandas' parser errors and UnicodeDecodeError are ValueErrors
        raise DataError(f"{FILE} of {tree.name} is no CSV in UTF-8 ({' '.join(str(error).split())})") from None
    if list(table.columns) != _COLUMNS:
        raise DataError(
            f"{FILE} of {tree.name} has the columns {', '.join(table.columns)}; it must have {', '.join(_COLUMNS)}, as "
            "`thaw data accept` writes it"
        )
    return frozenset(table.itertuples(index=False, name=None))


def write(accepted: Accepted, added: Collection[tuple[str, str]], rejected: Mapping[str, str]) -> None:
    """Write what was accepted before and now; without what is not rejected any more, by `rejected` (path to reason)."""
    kept = sorted(entry for entry in accepted | set(added) if rejected.get(entry[0]) == entry[1])
    tables.write(Path(FILE), pd.DataFrame(kept, columns=_COLUMNS, dtype=object))
