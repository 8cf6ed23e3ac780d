"""Is the choice right on small data? Head, phases and every epoch of theirs, scored on test images, over many draws.

    python -m bench.small                                             every set and size, ten draws: days on two cores
    python -m bench.small --sets digits emoji --sizes 120 240 --draws 2

Each draw takes development images out of a set (bench/_sets.py, and the sample) and divides them into five folds. Head
and phases of the shipped params are trained by the shipped code, at 112 px, and `choose` keeps one. The test images are
the same ones in every draw of a set, and nothing is chosen on them: they say what the choice was worth, beside the head
alone, the deepest phase, the best of all candidates and epochs in hindsight, and the rule of before 0.2.0: the epoch
with the lowest loss on one validation part, kept by the loss at a temperature that was fitted there.

A draw that is done is read back from .thaw/bench/small/; delete that folder to measure anew.
"""

import argparse
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench import _sets, _tools
from thaw.activations.prefix import Prefix, Views
from thaw.activations.sources import Cached
from thaw.augment.draws import generator
from thaw.augment.views import num_answers, still
from thaw.config.reader import load_params
from thaw.config.schema import AugmentParams, ComputeParams, Params
from thaw.data import listing, sample, split, units
from thaw.data.packed import COLUMNS, LabelledRows, PackedImages, labelled
from thaw.data.square import read_square
from thaw.evaluation.bootstrap import bootstrap_weights
from thaw.evaluation.calibration import fit_temperature, sample_losses
from thaw.evaluation.comparison import Candidate, choose
from thaw.head import earlier_layers, extract, features
from thaw.head.fit import Fitted, fit_head
from thaw.head.flips import asked_of, choose_flip
from thaw.head.layers import logits_of
from thaw.networks.backbone import Backbone
from thaw.networks.sources.opening import open_backbone
from thaw.pipeline import artifacts, scratch
from thaw.pipeline.data_facts import Preprocessing
from thaw.pipeline.model_facts import FeaturesFacts, Lineage, ModelFacts
from thaw.training import phase_folder
from thaw.training.parts import Start
from thaw.training.phase import Seen, run_phase

SIZES = (60, 120, 240, 480, 1000)
SETS = ("sample", *_sets.SETS)
SIZE_PX = 112
NUM_TEST = 600
_PREPARED = Preprocessing(size_px=SIZE_PX, fit="crop", max_megapixels=100.0, background=255)
COMPUTE = ComputeParams(threads=1)

Logits = NDArray[np.float32]


def main() -> None:
    """Take the draws that are not there yet, and print one JSON line: what each rule is worth, overall and by size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES), help="development images")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--read", action="store_true", help="take no draw, sum up those that are there")
    arguments = parser.parse_args()
    params = load_params()
    wanted = [
        (name, size, draw)
        for draw in range(arguments.draws)
        for size in arguments.sizes
        for name in arguments.sets
        if not arguments.read or kept(name, size, draw).exists()
    ]
    _tools.report("small", lambda: summary([outcome(params, *one) for one in wanted]))


def kept(name: str, size: int, draw: int) -> Path:
    """Return the file in which a draw's answers are kept."""
    return scratch.folder() / "bench" / "small" / f"{name}-{size}-{draw}.npz"


def outcome(params: Params, name: str, size: int, draw: int) -> dict[str, Any]:
    """Return what each rule makes of a draw, which is taken unless its answers are kept."""
    path = kept(name, size, draw)
    if not path.exists():
        answers = take(params, name, size, draw)
        path.parent.mkdir(parents=True, exist_ok=True)
        with artifacts.new_file(path) as partial, partial.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **answers)
    with np.load(path, allow_pickle=False) as stored:
        return {"set": name, "size": size, "draw": draw} | judged(dict(stored), params)


# --- the images ------------------------------------------------------------------------------------------------------


@cache
def whole_set(name: str) -> tuple[PackedImages, NDArray[np.int64]]:
    """Return a set, its images packed, and the unit of each: what must be in one split."""
    folder = scratch.folder() / "bench" / "sets" / name
    if name == "sample":
        table = sample.read_labels(sample.package_data() / "labels.csv")
        paths = [sample.package_data() / file for file in table["file"]]
        table = table.assign(path=table["file"], group="")
    else:
        if not folder.exists():
            _sets.write(name, folder)
        table = listing.read(folder).table
        paths = [folder / path for path in table["path"]]
    squares = np.stack([read_square(path, _PREPARED, channels=3) for path in paths])
    rows = np.arange(len(table))
    own = {
        "id": [artifacts.sha256_of_bytes(square.tobytes())[:16] + f"-{row}" for row, square in enumerate(squares)],
        "sha256": [artifacts.sha256_of(path) for path in paths],
    }
    samples = table.assign(split="", width=SIZE_PX, height=SIZE_PX, row=rows, confidence=1.0, fold=-1, look="", **own)
    samples = samples[list(COLUMNS)].reset_index(drop=True)
    images = PackedImages(samples, sorted(set(samples["label"])), SIZE_PX, 3, name, (squares,))
    return images, units.unit_numbers(samples)


def drawn(name: str, size: int, draw: int) -> PackedImages:
    """Return development images of a draw, in five folds, and the test images of the set."""
    images, units = whole_set(name)
    order = generator(0, "small", name).permutation(np.unique(units))  # the test images: the first units of it
    sizes = np.bincount(units)
    num_test = int(np.searchsorted(np.cumsum(sizes[order]), NUM_TEST)) + 1
    test, dev = np.isin(units, order[:num_test]), _development(images, units, order[num_test:], name, size, draw)
    rows = np.flatnonzero(test | dev)
    samples = images.samples.iloc[rows].assign(split=np.where(test[rows], "test", "train"), row=np.arange(len(rows)))
    samples = samples.reset_index(drop=True)
    splits, folds, _ = split.assign(samples, seed=draw, val_fraction=0.1, test_fraction=0.25, folds=5)
    return PackedImages(
        samples.assign(split=splits, fold=folds),
        images.classes,
        images.size_px,
        images.channels,
        artifacts.digest([name, size, draw]),
        (images.read(rows),),
    )


def _development(
    images: PackedImages, units: NDArray[np.int64], left: NDArray[np.int64], name: str, size: int, draw: int
) -> NDArray[np.bool_]:
    """Return a mask of as many images, whole units of those left, each class in the share that it has of them."""
    sizes, random = np.bincount(units), generator(draw, "small", name, size)
    label_of = np.zeros(len(sizes), dtype=object)
    label_of[units] = images.samples["label"].to_numpy()
    place = np.zeros(len(left))
    for label in images.classes:
        own = np.flatnonzero(label_of[left] == label)
        place[random.permutation(own)] = (np.arange(len(own)) + 0.5) / len(own)
    drawn = left[np.argsort(place, kind="stable")]
    return np.isin(units, drawn[: int(np.searchsorted(np.cumsum(sizes[drawn]), size)) + 1])


# --- one draw --------------------------------------------------------------------------------------------------------


def take(params: Params, name: str, size: int, draw: int) -> dict[str, NDArray[Any]]:
    """Return the answers of a draw: out of fold and on test, of head and phases, and of every epoch on test."""
    images = drawn(name, size, draw)
    with _tools.empty_scratch() as folder:
        test = labelled(images, "test")
        head, start, augment, on_test = head_of(params, images, folder / "features", test)
        scored = [on_test]
        out_of_fold, first_part, starts = [head.val_logits], list[Logits](), {"head": start}
        for phase, settings in params.unfreeze.phases.items():
            watch = Watch(test)
            trained = run_phase(
                phase,
                settings,
                images=images,
                backbone=network(),
                start=starts[settings.start],
                augment=augment,
                seed=draw,
                compute=COMPUTE,
                on_epoch=watch,
            )
            starts[phase] = Start(trained.outcome.tensors, trained.model, trained.outcome.folds)
            out_of_fold.append(trained.outcome.answers.logits)
            scored += watch.test
            first_part += watch.first
        answers = trained.outcome.answers
    return {
        "names": np.array(["head", *params.unfreeze.phases]),
        "labels": answers.labels,
        "folds": answers.folds,
        "units": units.unit_numbers(images.samples)[answers.rows],
        "out_of_fold": np.stack(out_of_fold),
        "first_part": np.stack([head.val_logits[answers.folds == 0], *first_part]),
        "test_labels": test.labels,
        "test": np.stack(scored),
    }


class Watch:
    """Answers of a phase after each epoch: on test, of what trains on all images, and on the first fold's part."""

    def __init__(self, test: LabelledRows) -> None:
        self.test: list[Logits] = []
        self.first: list[Logits] = []
        self._rows = test
        self._source: Cached | None = None

    def __call__(self, seen: Seen) -> None:
        """Look at a phase after an epoch; the epoch 0 is its start."""
        if seen.row["epoch"] == 0:
            return
        if seen.part.label in ("", "all images"):  # what is kept
            if self._source is None:
                augment = seen.prefix.views.augment
                prefix = seen.prefix.seen_as(still(augment))
                self._source = Cached(prefix, self._rows.rows, num_answers(augment), label="test")
            self.test.append(seen.phase.evaluate(self._source, self._rows, seen.phase.task.num_answers)[2])
        elif seen.part.val is not None and seen.part.label.startswith("fold 1 "):
            self.first.append(seen.phase.evaluate(seen.answers, seen.part.val, seen.phase.task.num_answers)[2])


def network() -> Backbone:
    """Return the backbone of a draw, a new one on each call."""
    return open_backbone("package:efficientnet_lite0", in_channels=3, input_px=SIZE_PX)


def head_of(
    params: Params, images: PackedImages, folder: Path, test: LabelledRows
) -> tuple[Fitted, Start, AugmentParams, Logits]:
    """Return the head, what phases start from, the augmentation with the flips found, and the head's test logits."""
    backbone, known = network(), extract.Development.of(images)
    whole = earlier_layers.tapped(backbone)
    views = Views(images, backbone.spec, params.seed, params.augment.model_copy(update={"flip": "none"}))
    prefix = Prefix(views, whole.module, identity="small", compute=COMPUTE)
    augment = params.augment
    with artifacts.new_folder(folder) as partial:
        plain, _ = whole.plain(prefix, images, known, params.seed, partial)
        asked = asked_of(plain.labels, params.seed)
        mirrored = extract.compute_mirrored(prefix, augment, known.rows[asked], partial)
        choice = choose_flip(plain, asked, *mirrored, num_classes=len(images.classes))
        augment = choice.put_into(augment)
        extract.add_views(partial, prefix, augment, known, params.features.views)
        stored = FeaturesFacts(
            classes=images.classes,
            backbone=backbone.spec,
            blocks=backbone.blocks,
            preprocessing=_PREPARED,
            lineage=Lineage(data=images.fingerprint, backbone=backbone.fingerprint),
            augment=choice.facts(tta=augment.tta),
        )
        features.write(partial, plain, known.rows, known.fold, stored)
    data = features.read(folder)
    fitted = fit_head(params.head, data, seed=params.seed)
    model = ModelFacts(
        **dict(data.facts), phase="head", start=None, depth_blocks=0, cut=len(backbone.blocks), head=fitted.facts
    )
    start = Start(
        phase_folder.head_tensors(fitted.head), model, [phase_folder.head_tensors(one) for one in fitted.folds]
    )
    answers = prefix.seen_as(still(augment))
    logits = [
        logits_of(fitted.head, answers(test.rows, np.full(len(test.rows), view))[0])
        for view in range(num_answers(augment))
    ]
    return fitted, start, augment, np.mean(logits, axis=0)


# --- what each rule makes of it --------------------------------------------------------------------------------------


def judged(found: Mapping[str, NDArray[Any]], params: Params) -> dict[str, Any]:
    """Return the test accuracy of what each rule keeps, of the head, of the deepest phase, and of the best of all."""
    names, scored = [str(name) for name in found["names"]], found["test"]
    epochs = (len(scored) - 1) // (len(names) - 1)
    accuracy = (scored.argmax(axis=2) == found["test_labels"]).mean(axis=1)
    last = {name: number * epochs for number, name in enumerate(names)}
    candidates = [Candidate(name, None, logits) for name, logits in zip(names, found["out_of_fold"], strict=True)]
    settings = params.select

    def kept(metric: str) -> str:
        results = choose(
            candidates,
            found["labels"],
            min_win_rate=settings.min_win_rate,
            draws=settings.draws,
            seed=params.seed,
            metric=metric,
            folds=found["folds"],
            groups=found["units"],
        )
        return [result.name for result in results if result.replaced_best][-1]

    before = before_folds(found, epochs, settings.min_win_rate)
    return {
        "chosen": kept("accuracy"),
        "accuracy": {
            "chosen": float(accuracy[last[kept("accuracy")]]),
            "chosen by log loss": float(accuracy[last[kept("log_loss")]]),
            "one part, as before": float(accuracy[before]),
            "head": float(accuracy[0]),
            "deepest": float(accuracy[-1]),
            "hindsight": float(accuracy.max()),
        },
    }


def before_folds(found: Mapping[str, NDArray[Any]], epochs: int, min_win_rate: float) -> int:
    """Return which row of the test answers the rule of before 0.2.0 keeps, on the first fold's validation images."""
    here = found["folds"] == 0
    labels, logits = found["labels"][here], found["first_part"]
    raw = np.array([sample_losses(answers, labels).mean() for answers in logits])
    calibrated = [sample_losses(answers, labels, fit_temperature(answers, labels)) for answers in logits]
    (draws,) = bootstrap_weights(np.arange(len(labels)), 1000, 0)
    best = 0
    for first in range(1, len(logits), epochs):
        row = min((0, *range(first, first + epochs)), key=lambda number: raw[number])
        if row:
            wins = (calibrated[row] - calibrated[best]) @ draws < 0
            best = row if wins.mean() >= min_win_rate else best
    return best


def figures(part: pd.DataFrame) -> dict[str, Any]:
    """Return the mean of each column over draws, and its standard error; `set` and `size` are left out."""
    numbers = part.drop(columns=["set", "size"])
    error = numbers.std(ddof=1) / len(part) ** 0.5
    return {"draws": len(part)} | {
        name: [round(float(numbers[name].mean()), 4), round(float(error[name]), 4)] for name in numbers.columns
    }


def summary(outcomes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return mean accuracies and regrets with their standard errors over draws: overall, by size and by set."""
    table = pd.DataFrame([{**one["accuracy"], "set": one["set"], "size": one["size"]} for one in outcomes])
    rules = [name for name in table.columns if name not in ("set", "size")]
    for rule in rules:
        table[f"regret of {rule}"] = table["hindsight"] - table[rule]
    table["gain over head"] = table["chosen"] - table["head"]
    table["gain over before"] = table["chosen"] - table["one part, as before"]

    return {
        "all": figures(table),
        "sizes": {int(str(size)): figures(part) for size, part in table.groupby("size")},
        "sets": {str(name): figures(part) for name, part in table.groupby("set")},
    }


if __name__ == "__main__":
    main()
