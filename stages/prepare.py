"""Check every image, reject what is broken, split, and pack. Run by `dvc repro`, or `python -m stages.prepare`."""

from pathlib import Path

from thaw.config.reader import load_params
from thaw.config.schema import Params
from thaw.data import audit, catalog, decisions, decoded, listing, near_copies, neighbours, packed, rare, shards, split
from thaw.data.ingest import ingest
from thaw.data.listing import Listing
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
        before = shards.before("prepare", OUTS[0])
        decoded.with_kept(params.prepare, lambda kept: prepare(listed, params, kept, before))


def prepare(listed: Listing, params: Params, kept: decoded.Decoded, before: list[list[str]]) -> None:
    """Write the out, with the images in the shards of `before` where these can stay."""
    settings, paths = params.prepare, listed.table["path"].tolist()
    with artifacts.new_folder(Path(OUTS[0])) as folder:
        found = ingest(listed.source, paths, settings, workers=params.compute.workers, kept=kept)
        items = progress(found, total=len(paths), label="prepare: images read")
        cataloged = rare.settle(catalog.collect(listed, items, kept, settings, params.data), params.data.rare)
        cataloged = neighbours.grouped(cataloged, kept, params.data.group)
        copies, usable = near_copies.tied(cataloged.usable, kept, settings.near_copies)
        fractions = {"val_fraction": settings.val_fraction, "test_fraction": settings.test_fraction}
        splits, folds, notes = split.assign(usable, seed=params.seed, folds=params.select.folds, **fractions)
        samples = catalog.number(usable, splits, folds)
        channels, dtype = packed.write(folder, samples, kept, samples["number"].tolist(), before=before)
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
