"""The advice: what trials are made on, when they stop, and what phases make of it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests import tiny
from thaw.activations.prefix import Prefix, Views
from thaw.advice import trials
from thaw.advice.advise import Setting, advise, regime_of, without_trials
from thaw.advice.gradients import relative_gradients
from thaw.advice.ground import Ground, ground_of
from thaw.config.schema import PhaseDefaults
from thaw.data.packed import PackedImages, development_of, folds_of
from thaw.data.units import unit_numbers
from thaw.errors import ArtifactError, TrainingError
from thaw.head import extract, features
from thaw.head.layers import build_head
from thaw.networks.backbone import Backbone
from thaw.pipeline import artifacts, facts, scratch
from thaw.pipeline.advice_facts import Advice, Step, Tried
from thaw.pipeline.model_facts import FeaturesFacts
from thaw.report.advice import outcome
from thaw.training import advised
from thaw.training.parts import Start
from thaw.training.phase_folder import head_tensors

MOST_IMAGES = 640
pytestmark = pytest.mark.usefixtures("scratch")


def features_of(images: PackedImages, network: Backbone) -> features.Features:
    """Return the features of the development images as the stage of that name leaves them."""
    known = extract.Development.of(images)
    prefix = Prefix(
        Views(images, network.spec, 0, tiny.augment()), network.split(0)[0], identity="whole", compute=tiny.TORCH
    )
    with artifacts.new_folder(scratch.folder() / "features") as folder:
        path = features.file_of(folder, "plain", 0)
        plain = extract.examples(images, known.rows, extract.compute(prefix, known.rows, 0, label="plain", path=path))
        model = tiny.model_facts(network.spec, classes=images.classes, blocks=network.blocks)
        stored = {name: getattr(model, name) for name in FeaturesFacts.model_fields}
        features.write(folder, plain, known.rows, known.fold, FeaturesFacts.model_validate(stored))
    return features.read(scratch.folder() / "features")


def ground(images: PackedImages, network: Backbone | None = None) -> Ground | None:
    network = network or tiny.backbone()
    return ground_of(
        images,
        features_of(images, network),
        tiny.start(network, classes=len(images.classes)).model,
        most=MOST_IMAGES,
        seed=0,
    )


def made(images: PackedImages) -> Ground:
    found = ground(images)
    assert found is not None
    return found


def test_images_of_the_single_validation_split_take_no_part_and_those_asked_are_not_trained_on() -> None:
    images = tiny.packed(90)
    found = made(images)
    assert set(found.images.samples["id"]) == set(images.samples.iloc[images.rows("train")]["id"])
    (fold,) = folds_of(found.images)
    assert len(fold.train.rows) == found.num_trained == 36
    assert len(fold.val.rows) == len(found.labels) == 24
    assert set(fold.train.labels) == set(fold.val.labels) == {0, 1, 2}
    np.testing.assert_array_equal(found.images.labels(fold.val.rows), found.labels)
    row = int(fold.val.rows[3])
    place = int(np.flatnonzero(images.samples["id"] == found.images.samples["id"].iloc[row])[0])
    np.testing.assert_array_equal(found.images.read(np.array([row])), images.read(np.array([place])))


def test_with_folds_all_development_images_serve_and_groups_stay_whole() -> None:
    twins = [f"g{row // 6}" for row in range(90)]
    images = tiny.in_folds(tiny.packed(90), 3)
    images = replace(images, samples=images.samples.assign(group=twins))
    found = made(images)
    assert len(found.images) == 90
    units, asked = unit_numbers(found.images.samples), found.images.samples["fold"].to_numpy() == 0
    assert not set(units[asked]) & set(units[~asked])


def test_no_more_than_so_many_images_are_used() -> None:
    found = made(tiny.in_folds(tiny.packed(MOST_IMAGES + 90, size_px=32), 2))
    assert len(found.images) == MOST_IMAGES
    assert (found.num_trained, found.epochs(8)) == (384, 2)


@pytest.mark.parametrize("num_images", [6, 12, 24])
def test_too_few_images_give_no_ground_and_the_head_is_advised(num_images: int) -> None:
    found = ground(tiny.packed(num_images))
    assert found is None
    advice = advise(found, tiny.start(tiny.backbone()).model, setting())
    assert (advice.regime, advice.steps, advice.trials) == ("cannot_tell", [], [])
    assert "too few images" in advice.sentence


def setting(network: Callable[[], Backbone] = tiny.backbone) -> Setting:
    defaults = PhaseDefaults(batch_size=8, epochs=3, views=2)
    return Setting(network, tiny.augment(), defaults, 0, tiny.TORCH)


def test_the_advice_of_real_trials_is_the_same_each_time_and_names_every_block() -> None:
    images = tiny.packed(90)
    first, again = (advise(made(images), tiny.start(tiny.backbone()).model, setting()) for _ in range(2))
    assert first == again
    assert first.trials
    assert {tried.lr for tried in first.trials if tried.start == 0} == set(trials.RATES)
    assert (first.trained, first.asked, first.epochs) == (36, 24, 3)
    network = tiny.backbone()
    with_weights = {network.block_of(name) for name, value in network.module.named_parameters() if value.ndim > 1}
    assert list(first.gradients) == network.blocks
    pulled = {network.blocks.index(name) for name, value in first.gradients.items() if value > 0}
    assert with_weights - pulled <= {network.blocks.index("layer1")}, "its last norm begins at 0"
    path = scratch.folder() / "advice.json"
    facts.write(path, first)
    assert facts.read(path, Advice) == first


def answering(asked: Ground, right: int) -> NDArray[np.float32]:
    """Return answers of which so many are right."""
    wrong = np.arange(len(asked.labels)) >= right
    named = np.where(wrong, (asked.labels + 1) % 3, asked.labels)
    return 3 * np.eye(3, dtype=np.float32)[named]


def searched(outcomes: dict[tuple[int, float], int | None]) -> tuple[trials.Search, list[tuple[int, int, float]]]:
    """Return what a search finds where each trial (depth, rate) leaves so many right answers, and what it tried."""
    network, found = tiny.backbone(), made(tiny.packed(90))
    found = replace(found, logits=answering(found, 12).astype(np.float64))
    ran: list[tuple[int, int, float]] = []

    def run(start: Start, depth: int, lr: float) -> Any:
        ran.append((start.model.depth_blocks, depth, lr))
        right = outcomes[depth, lr]
        if right is None:
            raise TrainingError("it diverges")
        model = tiny.changed(found.start.model, depth_blocks=depth)
        return SimpleNamespace(
            model=model, outcome=SimpleNamespace(tensors={}, answers=SimpleNamespace(logits=answering(found, right)))
        )

    return trials.search(found, network, run, seed=0), ran


def test_each_step_starts_where_the_last_one_ended_and_the_search_stops_where_none_pays() -> None:
    found, ran = searched({(2, 3e-4): 14, (2, 1e-3): 18, (4, 1e-3): 22, (6, 1e-3): 3})
    assert found.steps == [Step(depth_blocks=2, lr=1e-3), Step(depth_blocks=4, lr=1e-3)]
    assert ran == [(0, 2, 3e-4), (0, 2, 1e-3), (2, 4, 1e-3), (4, 6, 1e-3)], "the rate of the step before comes first"
    assert [tried.accepted for tried in found.tried] == [False, True, True, False]
    assert found.tried[1].change < found.tried[0].change < 0 < found.tried[3].change


def test_a_head_that_no_trial_comes_near_is_all_that_is_advised() -> None:
    found, ran = searched({(2, 3e-4): 3, (2, 1e-3): 4})
    assert (found.steps, len(ran)) == ([], 2)
    assert regime_of(found.steps, 6) == "head"


def test_a_rate_that_is_neither_clearly_better_nor_worse_brings_in_the_other() -> None:
    _, ran = searched({(2, 3e-4): 12, (2, 1e-3): 13, (4, 1e-3): 14, (4, 3e-4): 2, (6, 1e-3): 2, (6, 3e-4): 2})
    assert (2, 4, 3e-4) in ran


def test_a_trial_that_diverges_is_no_step_and_ends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    found, _ = searched({(2, 3e-4): 20, (2, 1e-3): None, (4, 3e-4): None, (4, 1e-3): None})
    assert found.steps == [Step(depth_blocks=2, lr=3e-4)]
    assert "2 blocks at 0.001: it diverges" in capsys.readouterr().out


def test_regimes_follow_the_deepest_step() -> None:
    assert regime_of([Step(depth_blocks=2, lr=1e-3)], 6) == "upper"
    assert regime_of([Step(depth_blocks=2, lr=1e-3), Step(depth_blocks=6, lr=1e-3)], 6) == "everything"


def test_gradients_are_those_of_all_images_at_once_relative_to_the_weights() -> None:
    network, images = tiny.backbone(), tiny.packed(24)
    torch.manual_seed(3)
    head = build_head(network.num_features, 3, [], 0.0)
    views = Views(images, network.spec, 0, tiny.augment())
    known = development_of(images)
    device = torch.device("cpu")
    found = relative_gradients(tiny.backbone(), views, known, head_tensors(head), seed=0, device=device)
    whole = network.module.eval()
    logits = head(whole(views.plain(known.rows)))
    torch.nn.functional.cross_entropy(logits, torch.from_numpy(known.labels)).backward()  # type: ignore[no-untyped-call]
    for name, value in found.items():
        own = [
            tensor
            for key, tensor in whole.named_parameters()
            if tensor.ndim > 1 and network.blocks[network.block_of(key)] == name
        ]
        pulled = sum(float(tensor.grad.square().sum()) for tensor in own if tensor.grad is not None) ** 0.5
        held = sum(float(tensor.detach().square().sum()) for tensor in own) ** 0.5
        assert value == pytest.approx(pulled / held if held else 0.0, rel=1e-3)


def advice(*steps: tuple[int, float], refused: int | None = None) -> Advice:
    given = without_trials("not_asked", tiny.start(tiny.backbone()).model)
    vain = {"start": 2, "lr": 1e-3, "accuracy": 0.5, "cost": 0.8, "change": 0.1, "win_rate": 0.1, "accepted": False}
    tried = [Tried.model_validate(vain | {"depth_blocks": refused})] if refused else []
    return given.model_copy(
        update={
            "sentence": "A new head only.",
            "steps": [Step(depth_blocks=depth, lr=lr) for depth, lr in steps],
            "trials": tried,
            "asked": 24,
        }
    )


def auto(**changes: Any) -> Any:
    return tiny.phase(**({"depth": "auto", "lr": "auto"} | changes))


def test_phases_take_step_after_step_and_a_rate_of_their_own_stays() -> None:
    given = advice((2, 1e-3), (4, 3e-4))
    found = [advised.follow(auto(), given, unfrozen_before=before) for before in (0, 2)]
    assert [(phase.depth, phase.lr) for phase in found if not isinstance(phase, str)] == [(2, 1e-3), (4, 3e-4)]
    own = advised.follow(auto(lr=0.01), given, unfrozen_before=0)
    assert not isinstance(own, str)
    assert (own.depth, own.lr) == (2, 0.01)


def test_a_phase_that_does_not_pay_says_why() -> None:
    assert advised.follow(auto(), advice(), unfrozen_before=0) == "A new head only."
    deeper = advised.follow(auto(start="top"), advice((2, 1e-3), refused=4), unfrozen_before=2)
    assert deeper == (
        "4 blocks at 0.001 did not pay in a trial: error rate plus Brier score +0.100, better than before in 10 % of "
        "the bootstrap draws of 24 images that were left out"
    )
    beyond = advised.follow(auto(start="top"), advice((2, 1e-3)), unfrozen_before=6)
    assert beyond == "no step of the advice is deeper than the 6 blocks that top has unfrozen"


@pytest.mark.parametrize("key", ["data", "backbone"])
def test_advice_for_other_data_or_another_backbone_is_refused(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    start = tiny.start(tiny.backbone()).model
    with artifacts.new_folder(advised.ADVICE) as folder:
        facts.write(folder / "advice.json", advice((2, 1e-3)))
    phase = advised.settled(auto(), start)
    assert not isinstance(phase, str)
    other = start.model_copy(update={"lineage": start.lineage.model_copy(update={key: "f" * 64})})
    what = "images" if key == "data" else "backbone"
    with pytest.raises(ArtifactError, match=f"models/advice was made with another {what} .* run `dvc repro`"):
        advised.settled(auto(), other)
    assert advised.settled(tiny.phase(), other) == tiny.phase(), "a phase with a depth of its own asks nobody"


@pytest.mark.parametrize(
    ("steps", "word", "words"),
    [
        (True, "helped", "It was right"),
        (True, "hurt", "It was wrong"),
        (True, "kept", "not shown by the test images"),
        (False, "no_phase", "nothing shows whether it was right"),
        (False, "helped", "It was wrong"),
        (False, "worse", "It was right"),
    ],
)
def test_the_report_says_whether_the_advice_was_right(steps: bool, word: Any, words: str) -> None:
    given = advice((2, 1e-3)) if steps else advice()
    assert words in outcome(given, tiny.verdict().model_copy(update={"word": word}))
