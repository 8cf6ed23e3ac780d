"""The cells of the sample as data sets of other kinds: by type, by how sure the experts were, fewer of them.

Every data set is laid out with the same split, given in its manifest, so that results on it can be compared image by
image. The split is drawn for each seed within each type and defect probability, in the shares of params.yaml.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.accuracy import overlaid
from thaw.augment.draws import generator
from thaw.data import sample
from thaw.data.listing import MANIFEST
from thaw.pipeline import artifacts, scratch

_PHASE = "top"


def cells(seed: int, *, val_fraction: float, test_fraction: float) -> pd.DataFrame:
    """Return file, type (mono or poly), probability, label (as in the sample) and split of each cell."""
    table = sample.read_labels(sample.package_data() / "labels.csv")
    split = np.full(len(table), "train", dtype=object)
    for number, (_, rows) in enumerate(sorted(table.groupby(["type", "probability"]).indices.items())):
        order = generator(seed, "cells", number).permutation(rows)
        num_test, num_val = round(len(rows) * test_fraction), round(len(rows) * val_fraction)
        split[order[:num_test]], split[order[num_test : num_test + num_val]] = "test", "val"
    return table.assign(split=split)[["file", "type", "probability", "label", "split"]]


def split_of(tree: Mapping[str, Any]) -> pd.DataFrame:
    """Return the cells, split by the seed and the shares of these params."""
    shares = {name: tree["prepare"][name] for name in ("val_fraction", "test_fraction")}
    return cells(tree["seed"], **shares)


def part_of(table: pd.DataFrame, part: float, seed: int) -> pd.DataFrame:
    """Return the table with a share of each class's training images, and every other image.

    A smaller share is a part of a larger one.
    """
    dropped: list[int] = []
    training = table[table["split"] == "train"]
    for number, (_, rows) in enumerate(sorted(training.groupby("label").groups.items())):
        order = generator(seed, "part", number).permutation(rows.to_numpy())
        dropped += list(order[max(round(len(order) * part), 1) :])
    return table.drop(index=dropped)


def lay_out(table: pd.DataFrame, folder: Path) -> None:
    """Copy the images of a table to a folder, and list them with label and split in its manifest."""
    source = sample.package_data()
    folder.mkdir(parents=True, exist_ok=True)
    for file in table["file"]:
        shutil.copyfile(source / file, folder / Path(file).name)
    listed = table.assign(path=table["file"].map(lambda file: Path(file).name))
    listed[[name for name in ("path", "label", "split") if name in listed]].to_csv(
        folder / MANIFEST, index=False, lineterminator="\n"
    )


def with_phase(tree: dict[str, Any], **changes: object) -> dict[str, Any]:
    """Return params with the shipped phase `top` alone, changed as given."""
    phase = tree["unfreeze"]["phases"][_PHASE] | changes
    return overlaid(tree, {"unfreeze": {"phases": {_PHASE: phase}}})


def keep_model(name: str) -> Path:
    """Return where a bench keeps a model that later runs start from."""
    return scratch.folder().resolve() / "bench" / f"{name}-final"


def copy_model(source: Path, target: Path) -> None:
    """Copy a model's folder whole, in place of what is there."""
    partial = target.with_name(f".{target.name}.partial")
    artifacts.remove(partial)
    shutil.copytree(source, partial)
    artifacts.remove(target)
    partial.rename(target)


def mean_of(runs: list[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each figure over runs that have the same ones."""
    return {key: round(float(np.mean([run[key] for run in runs])), 4) for key in runs[0]}
