"""Check every image, reject what is broken, split, and pack. Run by `dvc repro`, or `python -m stages.prepare`."""

from pathlib import Path
from tempfile import TemporaryFile

from thaw.config.reader import load_params
from thaw.data import audit, catalog, decisions, listing, near_copies, neighbours, packed, rare, split
from thaw.data.ingest import ingest
from thaw.pipeline import artifacts, facts, guard, tables
from thaw.progress import progress

SECTIONS = ("seed", "data", "prepare", "select.folds")
INPUTS = ("${data.raw}", "${data.labels}")  # known only once params.yaml is read; often the same path
OUTS = ("data/prepared",)


def main() -> None:
    """Write data/prepared: packed images, samples.csv, classes.json, rejected.csv and audit.json."""
    inputs = listing.inputs(load_params().data)
    with guard.stage("prepare", sections=SECTIONS, inputs=inputs, outs=OUTS) as params:
        listed = listing.read_data(params.data)
        settings, paths = params.prepare, listed.table["path"].tolist()
        with artifacts.new_folder(Path(OUTS[0])) as folder, TemporaryFile(dir=folder) as file:
            spool = packed.Spool(file, settings.size_px)
            found = ingest(listed.source, paths, settings, workers=params.compute.workers)
            items = progress(found, total=len(paths), label="prepare: images read")
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
            channels, dtype = packed.write(folder, samples, spool, samples["number"].tolist())
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
            for line in report.lines:
                print(f"prepare: {line}")


if __name__ == "__main__":
    guard.main(main)
