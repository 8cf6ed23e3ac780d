"""All that `prepare` does with the images, for the stage and for `thaw check --data`."""

from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

from thaw.config.schema import Params
from thaw.data import audit, catalog, decisions, listing, near_copies, neighbours, packed, rare, split
from thaw.data.ingest import ingest
from thaw.pipeline import facts, scratch, tables
from thaw.pipeline.data_facts import Audit
from thaw.progress import progress


def prepare(folder: Path, params: Params, *, label: str = "prepare", keep_pixels: bool = True) -> Audit:
    """Check every image, reject what is broken, split, write data/prepared into a folder, and return what was decided.

    `label` names the work in its progress. Without `keep_pixels` the tables alone are written.
    Raises: DataError if the images and their labels cannot become a data set.
    """
    listed = listing.read_data(params.data)
    settings, paths = params.prepare, listed.table["path"].tolist()
    with TemporaryFile(dir=folder) as file:
        spool = packed.Spool(file, settings.size_px)
        found = ingest(listed.root, paths, settings, workers=params.compute.workers)
        items = progress(found, total=len(paths), label=f"{label}: images read")
        cataloged = rare.settle(catalog.collect(listed, items, spool, settings, params.data), params.data.rare)
        cataloged = neighbours.grouped(cataloged, spool, params.data.group)
        copies, usable = near_copies.tied(cataloged.usable, spool, settings.near_copies)
        splits, folds, notes = split.assign(
            usable,
            seed=params.seed,
            val_fraction=settings.val_fraction,
            test_fraction=settings.test_fraction,
            folds=params.select.folds,
        )
        samples = catalog.number(usable, splits, folds)
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
        return prepare(Path(folder), params, label="check", keep_pixels=False).lines
