"""All that `prepare` does with the images, for the stage and for `thaw check --data`."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from thaw.config.schema import DataParams, PrepareParams
from thaw.data import (
    audit,
    catalog,
    decisions,
    decoded,
    links,
    listing,
    near_copies,
    neighbours,
    packed,
    rare,
    shards,
    split,
)
from thaw.data.decoded import Decoded
from thaw.data.ingest import ingest
from thaw.pipeline import artifacts, facts, tables
from thaw.pipeline.data_facts import Audit
from thaw.progress import progress


@dataclass(frozen=True)
class Task:
    """What decides what becomes of the images."""

    data: DataParams
    settings: PrepareParams
    seed: int
    folds: int | Literal["auto"]
    """Parts of the development images, as `select.folds` has it."""
    workers: int | None
    """Processes that decode, which change no result; None is one a core, 0 none."""


def prepare(out: Path, task: Task, *, stage: str) -> Audit:
    """Check every image, reject what is broken, split, write data/prepared, and return what was decided.

    Images lie in the shards in which dvc.lock says that this stage put them, where these can stay.
    Raises: DataError if the images and their labels cannot become a data set.
    """
    before = shards.before(stage, out.as_posix())
    # Outermost, so that no file is open any more when a folder that was begun is removed: that takes handles itself.
    with artifacts.new_folder(out) as folder:

        def work(kept: Decoded) -> Audit:
            for begun in folder.iterdir():  # by a try that found damage
                artifacts.remove(begun)
            return _prepare(folder, task, kept, before)

        return decoded.with_kept(task.settings, work)


def look(task: Task) -> list[str]:
    """Return the lines that `prepare` would print, and keep no out. Raises: DataError as `prepare` does.

    The decoded images are kept for `prepare`.
    """

    def work(kept: Decoded) -> list[str]:
        with TemporaryDirectory(dir=kept.folder, prefix="check-") as folder:
            return _prepare(Path(folder), task, kept, None).lines

    return decoded.with_kept(task.settings, work)


def _prepare(folder: Path, task: Task, kept: Decoded, before: list[list[str]] | None) -> Audit:
    """Write data/prepared into a folder; where `before` is None its tables alone."""
    settings, data = task.settings, task.data
    listed = listing.read_data(data)
    paths = listed.table["path"].tolist()
    found = ingest(listed.source, paths, settings, workers=task.workers, links=links.followed(data), kept=kept)
    items = progress(found, total=len(paths), label="prepare: images read")
    cataloged = rare.settle(catalog.collect(listed, items, kept, settings, data), data.rare)
    cataloged = neighbours.grouped(cataloged, kept, data.group)
    copies, usable = near_copies.tied(cataloged.usable, kept, settings.near_copies)
    splits, folds, notes = split.assign(
        usable,
        seed=task.seed,
        val_fraction=settings.val_fraction,
        test_fraction=settings.test_fraction,
        folds=task.folds,
    )
    samples = catalog.number(usable, splits, folds)
    numbers = samples["number"].tolist()
    if before is not None:
        packed.write(folder, samples, kept, numbers, before=before)
    tables.write(folder / "rejected.csv", cataloged.rejected)
    leaks = near_copies.write(folder, samples, copies, settings)
    said = [*listed.notes, *cataloged.lines, *notes.lines, *decisions.lines(samples, settings, notes), *leaks]
    dtype = kept.dtype(numbers).name
    report = audit.summary(
        samples,
        rejected=cataloged.rejected,
        conflicts=cataloged.conflicts,
        split_notes=notes,
        channels=kept.num_channels(numbers),
        dtype=dtype,
        settings=settings,
        near_copies=copies.rows,
        decisions=said,
    )
    facts.write(folder / "audit.json", report)
    facts.write(folder / "settings.json", packed.preprocessing(settings, dtype))
    return report
