"""A phase in folds: what each fold sees and answers, what is computed once, and what is trained on all images."""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests import tiny
from thaw.activations import costs
from thaw.activations import prefix as prefixes
from thaw.activations import sources as activation_sources
from thaw.config.schema import AugmentParams, ComputeParams
from thaw.data.packed import PackedImages
from thaw.data.units import unit_numbers
from thaw.errors import ArtifactError
from thaw.networks import model_files
from thaw.pipeline import artifacts
from thaw.training import phase_folder
from thaw.training.parts import Start, parts_of
from thaw.training.phase import Seen, Trained, run_phase

pytestmark = pytest.mark.usefixtures("scratch")

NUM_FOLDS = 3
MIRRORED = tiny.augment(flip="both", tta=True)
IMAGES = tiny.in_folds(tiny.packed(27), NUM_FOLDS)
Rows = NDArray[np.int64]


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a cache pay even for a network as quick as these, whatever this machine measures."""
    for name in ("_READ_BYTES_S", "_WRITE_BYTES_S"):
        monkeypatch.setattr(costs, name, 1e18)


class InterruptedRunError(Exception):
    """What stands for a killed process."""


def begin(folds: int) -> Start:
    start = tiny.start(tiny.backbone(), folds=folds)
    return replace(start, model=tiny.changed(start.model, augment={"flip": "both", "tta": True}))


def train(
    images: PackedImages,
    start: Start,
    *,
    augment: AugmentParams = MIRRORED,
    compute: ComputeParams = tiny.TORCH,
    on_epoch: Any = lambda _: None,
    **changes: Any,
) -> Trained:
    return run_phase(
        "top", tiny.phase(**{"epochs": 2, "depth": 1, **changes}), images=images, backbone=tiny.backbone(), start=start,
        augment=augment, seed=3, compute=compute, on_epoch=on_epoch,
    )  # fmt: skip


def assert_same(left: Trained, right: Trained) -> None:
    for ours, theirs in zip(
        [left.outcome.tensors, *left.outcome.folds], [right.outcome.tensors, *right.outcome.folds], strict=True
    ):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    np.testing.assert_array_equal(left.outcome.answers.logits, right.outcome.answers.logits)
    assert left.curves == right.curves


@pytest.mark.parametrize(
    ("changes", "augment"),
    [
        ({"norm": "train", "warm_start": True, "average": True}, MIRRORED),
        ({"norm": "stats", "lr": "auto", "depth": 2}, MIRRORED),
        ({"norm": "frozen", "views": 0}, tiny.augment(flip="both", brightness=0.2)),
    ],
)
def test_answers_out_of_fold_are_bit_for_bit_those_of_separate_runs(
    scratch: Path, changes: dict[str, Any], augment: AugmentParams
) -> None:
    start = begin(NUM_FOLDS)
    together = train(IMAGES, start, augment=augment, **changes)
    answers = together.outcome.answers
    assert answers.rows.tolist() == list(range(27))
    assert answers.labels.tolist() == IMAGES.labels(answers.rows).tolist()
    losses = []
    for number in range(NUM_FOLDS):
        artifacts.remove(scratch / "checkpoints")  # they are known by the images' fingerprint, which is one here
        alone = train(
            tiny.one_fold(IMAGES, number), replace(start, tensors=start.folds[number], folds=()), augment=augment,
            **changes,
        )  # fmt: skip
        assert alone.outcome.folds == []
        here = answers.folds == number
        assert answers.rows[here].tolist() == alone.outcome.answers.rows.tolist()
        np.testing.assert_array_equal(answers.logits[here], alone.outcome.answers.logits)
        trained = together.outcome.folds[number]
        assert all(torch.equal(value, trained[name]) for name, value in alone.outcome.tensors.items())
        if together.average is not None:
            assert alone.average is not None
            np.testing.assert_array_equal(together.average.answers.logits[here], alone.average.answers.logits)
        losses.append([row["val_loss"] for row in alone.curves])
    assert [row["val_loss"] for row in together.curves] == pytest.approx(np.mean(losses, axis=0))


def test_what_is_kept_is_trained_on_all_development_images_from_the_start_on_all_of_them(
    scratch: Path,
) -> None:
    start, epochs = begin(NUM_FOLDS), list[tuple[str, float]]()
    trained = train(IMAGES, start, on_epoch=lambda seen: epochs.append((seen.part.label, seen.row["epoch"])))
    labels = [f"fold {number} of 3" for number in (1, 2, 3)] + ["all images"]
    assert epochs == [(label, epoch) for label in labels for epoch in range(3)]
    # The same training, in a data set where all of these are train and some others val.
    artifacts.remove(scratch / "checkpoints")
    more = tiny.packed(36)
    samples = more.samples.assign(split=["train"] * 27 + ["val"] * 9, fold=[-1] * 27 + [0] * 9)
    alone = train(replace(more, samples=samples), replace(start, folds=()))
    assert all(torch.equal(value, alone.outcome.tensors[name]) for name, value in trained.outcome.tensors.items())
    for fold in trained.outcome.folds:
        assert not torch.equal(fold["head.weight"], trained.outcome.tensors["head.weight"])


class Watched:
    """What training and answers asked a source for, in the part that was running."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trained: dict[str, set[int]] = defaultdict(set)
        self.part = ""
        for kind in (activation_sources.Cached, activation_sources.Fresh):
            batch = kind.batch

            def spy(this: Any, rows: Rows, views: Rows, batch: Any = batch) -> list[Tensor]:
                self.asked(rows)
                found: list[Tensor] = batch(this, rows, views)
                return found

            monkeypatch.setattr(kind, "batch", spy)
        self._pending: set[int] = set()

    def asked(self, rows: Rows) -> None:
        self._pending |= set(rows.tolist())

    def on_epoch(self, seen: Seen) -> None:
        """After an epoch: everything asked for since the last one, but for what was only validated on."""
        val = set() if seen.part.val is None else set(seen.part.val.rows.tolist())
        self.trained[seen.part.label] |= self._pending - val
        if seen.row["epoch"] > 0 and seen.part.val is not None:
            assert not val & set(seen.part.train.rows.tolist())
        self._pending = set()


def test_no_image_is_answered_by_a_model_that_trained_on_it_its_copy_or_its_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = np.arange(36)
    sha256 = [f"{row:064x}" for row in rows]
    for copy, original in ((30, 0), (31, 1), (32, 2)):
        sha256[copy] = sha256[original]
    group = ["patient" if row in (3, 4, 5, 21, 22) else "" for row in rows]
    images = tiny.packed(36, sha256=sha256, group=group)
    units = unit_numbers(images.samples)
    images = tiny.in_folds(images, NUM_FOLDS, units % NUM_FOLDS)
    fold = images.samples["fold"].to_numpy()
    assert fold[30] == fold[0]
    assert len(set(fold[[3, 4, 5, 21, 22]])) == 1
    seen = Watched(monkeypatch)
    trained = train(images, begin(NUM_FOLDS), augment=tiny.augment(flip="both", brightness=0.1), on_epoch=seen.on_epoch)
    answers = trained.outcome.answers
    assert answers.rows.tolist() == rows.tolist(), "each development image is answered once"
    for number in range(NUM_FOLDS):
        known = seen.trained[f"fold {number + 1} of 3"]
        answered = answers.rows[answers.folds == number]
        assert known == set(rows.tolist()) - set(answered.tolist())
        assert not set(units[sorted(known)]) & set(units[answered])
    assert seen.trained["all images"] == set(rows.tolist())


def test_test_images_are_in_no_part() -> None:
    split = ["test" if row < 6 else "train" for row in range(27)]
    images = tiny.in_folds(tiny.packed(27, split=split), NUM_FOLDS)
    parts = parts_of(images, begin(NUM_FOLDS))
    for part in parts:
        assert min(part.train.rows) >= 6
    assert parts[-1].val is None
    assert parts[-1].train.rows.tolist() == list(range(6, 27))
    validated = [part.val.rows for part in parts if part.val is not None]
    assert sorted(np.concatenate(validated).tolist()) == list(range(6, 27))


@pytest.mark.parametrize("num_folds", [2, 3, 5])
def test_the_passes_of_the_prefix_are_those_of_one_fold(
    num_folds: int, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[tuple[int, int]] = []
    call = prefixes.Prefix.__call__

    def spy(self: prefixes.Prefix, rows: Rows, views: Rows) -> Any:
        computed.extend(zip(rows.tolist(), views.tolist(), strict=True))
        return call(self, rows, views)

    monkeypatch.setattr(prefixes.Prefix, "__call__", spy)
    images = tiny.packed(30)
    usual: dict[str, Any] = {"views": 4, "epochs": 4}
    train(images, begin(1), **usual)
    one = len(computed)
    assert len(set(computed)) == 4 * 30, "four mirror images of each, in training and in answers"
    computed.clear()
    for part in ("cache", "checkpoints"):
        artifacts.remove(scratch / part)
    train(tiny.in_folds(images, num_folds), begin(num_folds), **usual)
    assert len(computed) == one
    assert len(set(computed)) == 4 * 30


@pytest.mark.parametrize(("part", "epoch"), [("fold 3 of 3", 1), ("fold 3 of 3", 0), ("all images", 1)])
def test_a_run_that_is_killed_inside_a_fold_goes_on_there_and_ends_as_one_that_was_not(
    scratch: Path, part: str, epoch: int
) -> None:
    changes: dict[str, Any] = {"warm_start": True, "epochs": 3}
    whole = train(IMAGES, begin(NUM_FOLDS), **changes)
    artifacts.remove(scratch / "checkpoints")
    stepped: list[str] = []

    def killed(seen: Seen) -> None:
        if (seen.part.label, seen.row["epoch"]) == (part, epoch):
            raise InterruptedRunError

    with pytest.raises(InterruptedRunError):
        train(IMAGES, begin(NUM_FOLDS), on_epoch=killed, **changes)
    states = {path.name: artifacts.read_json(path / "state.json") for path in scratch.glob("checkpoints/*/part-*")}
    done = {"fold 3 of 3": ["part-00", "part-01"], "all images": ["part-00", "part-01", "part-02"]}[part]
    assert [states[name]["epoch"] for name in done] == [3] * len(done)
    inside = states.get(f"part-{len(done):02d}")
    assert (inside["epoch"] if inside else 0) == epoch
    take = Taken(stepped)
    resumed = train(IMAGES, begin(NUM_FOLDS), on_epoch=take, **changes)
    assert_same(whole, resumed)
    assert take.computed(part) == 3 - epoch


class Taken:
    """How many epochs of each part were trained, and not read back: the optimizer has taken steps since the last."""

    def __init__(self, labels: list[str]) -> None:
        self._labels = labels
        self._steps: dict[int, int] = {}
        self._hooked: set[int] = set()

    def __call__(self, seen: Seen) -> None:
        own = id(seen.phase)
        if own not in self._hooked:
            self._hooked.add(own)
            self._phases = [*getattr(self, "_phases", []), seen.phase]  # kept, so that no other gets its id
            seen.phase.stepper.optimizer.register_step_post_hook(lambda *_: self._count(own))
        if self._steps.pop(own, 0):
            self._labels.append(seen.part.label)

    def _count(self, own: int) -> None:
        self._steps[own] = self._steps.get(own, 0) + 1

    def computed(self, label: str) -> int:
        return self._labels.count(label)


def test_a_start_that_was_trained_in_another_number_of_folds_is_refused() -> None:
    for images, start, words in (
        (IMAGES, begin(1), "head was trained in 1 folds, and the images have 3; run `dvc repro`, which trains it anew"),
        (tiny.packed(27), begin(3), "head was trained in 3 folds, and the images have 1; run `dvc repro`"),
    ):
        with pytest.raises(ArtifactError, match=words) as refused:
            train(images, start)
        assert "\n" not in str(refused.value)


def test_the_folder_of_a_phase_holds_what_each_fold_trained_and_the_next_phase_starts_from_it(tmp_path: Path) -> None:
    top = train(IMAGES, begin(NUM_FOLDS), average=True)
    with artifacts.new_folder(tmp_path / "top") as folder:
        top.write(folder)
    tensors, model = phase_folder.read(tmp_path / "top")
    folds = model_files.load_folds(tmp_path / "top")
    for ours, theirs in zip([tensors, *folds], [top.outcome.tensors, *top.outcome.folds], strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert len(model_files.load_folds(tmp_path / "top" / "average")) == NUM_FOLDS
    deeper = run_phase(
        "mid", tiny.phase(start="top", depth=3, epochs=1), images=IMAGES, backbone=tiny.backbone(),
        start=Start(tensors, model, folds), augment=MIRRORED, seed=3, compute=tiny.TORCH,
    )  # fmt: skip
    # The other cut rounds other activations to float16.
    assert deeper.curves[0]["val_loss"] == pytest.approx(top.curves[-1]["val_loss"], abs=5e-3)
