"""Check every image, reject what is broken, split, and pack. Run by `dvc repro`, or `python -m stages.prepare`."""

from pathlib import Path
from tempfile import TemporaryFile

from thaw import names
from thaw.config.reader import load_params
from thaw.data import audit, catalog, listing, near_copies, packed, split
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
            found = ingest(listed.root, paths, settings, workers=params.compute.workers)
            items = progress(found, total=len(paths), label="prepare: images read")
            cataloged = catalog.collect(
                listed, items, spool, max_rejected=settings.max_rejected, one_depth=settings.value_range is not None
            )
            copies, usable = near_copies.tied(cataloged.usable, spool, settings.near_copies)
            splits, folds, notes = split.assign(
                usable,
                seed=params.seed,
                val_fraction=settings.val_fraction,
                test_fraction=settings.test_fraction,
                folds=params.select.folds,
            )
            samples = catalog.number(usable, splits, folds)
            channels, dtype = packed.write(folder, samples, listed.classes, spool, samples["number"].tolist())
            tables.write(folder / "rejected.csv", cataloged.rejected)
            report = audit.summary(
                samples,
                rejected=cataloged.rejected,
                conflicts=cataloged.conflicts,
                split_notes=notes,
                channels=channels,
                dtype=dtype,
                value_range=settings.value_range,
                near_copies=copies.rows,
            )
            facts.write(folder / "audit.json", report)
            facts.write(folder / "settings.json", packed.preprocessing(settings, dtype))
            leaks = near_copies.write(folder, samples, copies, settings)
            for line in cataloged.lines + notes.lines + leaks + report.warnings:
                print(f"prepare: {names.on_one_line(line)}")


if __name__ == "__main__":
    guard.main(main)
