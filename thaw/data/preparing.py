"""All that `prepare` does with the images, for the stage and for `thaw check --data`."""

from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Literal

from thaw.config.schema import DataParams, Params, PrepareParams
from thaw.data import audit, catalog, decisions, listing, near_copies, neighbours, packed, rare, split
from thaw.data.ingest import ingest
from thaw.pipeline import facts, scratch, tables
from thaw.pipeline.data_facts import Audit
from thaw.progress import progress


def prepare(
    folder: Path,
    data: DataParams,
    settings: PrepareParams,
    *,
    seed: int,
    folds: int | Literal["auto"],
    workers: int | None,
    keep_pixels: bool = True,
) -> Audit:
    """Check every image, reject what is broken, split, write data/prepared into a folder, and return what was decided.

    `folds` is `select.folds`, `workers` the processes that decode. Without `keep_pixels` the tables alone are written.
    Raises: DataError if the images and their labels cannot become a data set.
    """
    listed = listing.read_data(data)
    paths = listed.table["path"].tolist()
    with TemporaryFile(dir=folder) as file:
        spool = packed.Spool(file, settings.size_px)
        found = ingest(listed.root, paths, settings, workers=workers)
        items = progress(found, total=len(paths), label="prepare: images read")
        cataloged = rare.settle(catalog.collect(listed, items, spool, settings, data), data.rare)
        cataloged = neighbours.grouped(cataloged, spool, data.group)
        copies, usable = near_copies.tied(cataloged.usable, spool, settings.near_copies)
        splits, numbered, notes = split.assign(
            usable,
            seed=seed,
            val_fraction=settings.val_fraction,
            test_fraction=settings.test_fraction,
            folds=folds,
        )
        samples = catalog.number(usable, splits, numbered)
        numbers = samples["number"].tolist()
        channels, dtype = spool.num_channels(numbers), spool.dtype(numbers).name
        if keep_pixels:
            packed.write(folder, samples, spool, numbers)
    tables.write(folder / "rejected.csv", cataloged.rejected)
    leaks = near_copies.write(folder, samples, copies, settings)
    said = [*listed.notes, *cataloged.lines, *notes.lines, *decisions.lines(samples, settings, notes), *leaks]
    report = audit.summary(
        samples,
        rejected=cataloged.rejected,
        conflicts=cataloged.conflicts,
        split_notes=notes,
        channels=channels,
        dtype=dtype,
        value_range=settings.value_range,
        near_copies=copies.rows,
        decisions=said,
    )
    facts.write(folder / "audit.json", report)
    facts.write(folder / "settings.json", packed.preprocessing(settings, dtype))
    return report


def look(params: Params) -> list[str]:
    """Return the lines that `prepare` would print, and keep nothing. Raises: DataError as `prepare` does."""
    scratch.folder().mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=scratch.folder(), prefix="check-") as folder:
        return prepare(
            Path(folder),
            params.data,
            params.prepare,
            seed=params.seed,
            folds=params.select.folds,
            workers=params.compute.workers,
            keep_pixels=False,
        ).lines
