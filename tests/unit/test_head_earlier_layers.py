"""Heads on earlier blocks: what is compared, and that a network whose last block is spoilt shows it."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from tests import tiny
from tests.unit.test_networks_cut import SPEC, Branching
from thaw.activations.prefix import Prefix, Views
from thaw.config.schema import ComputeParams
from thaw.data import sample as cells
from thaw.data.packed import PackedImages
from thaw.evaluation.diagnostics import TrainingRun, findings_of
from thaw.head import earlier_layers, extract
from thaw.head.earlier_layers import MAX_IMAGES, sample, tapped
from thaw.head.examples import FeatureSet, cross_entropy
from thaw.head.extract import Development
from thaw.head.linear import fit_linear
from thaw.networks.backbone import Backbone
from thaw.networks.sources.opening import open_backbone
from thaw.pipeline import artifacts, scratch
from thaw.pipeline.model_facts import EarlierLayers

pytestmark = pytest.mark.usefixtures("scratch")
Found = tuple[FeatureSet, EarlierLayers | None]


def compare(network: Backbone, images: PackedImages, compute: ComputeParams = tiny.TORCH) -> Found:
    seen = tapped(network)
    views = Views(images, network.spec, 0, tiny.augment())
    with artifacts.new_folder(scratch.folder() / "features") as folder:
        prefix = Prefix(views, seen.module, identity="tapped", compute=compute)
        return seen.plain(prefix, images, Development.of(images), 0, folder)


def compared(network: Backbone, images: PackedImages) -> EarlierLayers:
    found = compare(network, images)[1]
    assert found is not None
    return found


def sign_in(layers: EarlierLayers | None) -> list[str]:
    """Return the findings of a head that is right, but for this comparison."""
    labels = np.arange(60) % 2
    return [
        finding.kind
        for finding in findings_of([TrainingRun("head", pd.DataFrame(), 5 * np.eye(2)[labels], labels, layers)])
    ]


def stripes(num_images: int = 450) -> PackedImages:
    """Return noise with faint rows, columns or dots, which a linear head on random convolutions can make out."""
    noise = np.random.default_rng(7).integers(60, 190, (num_images, 40, 40, 3))
    noise[0::3, ::4] += 25
    noise[1::3, :, ::4] += 25
    noise[2::3, ::4, ::2] += 25
    return replace(tiny.packed(num_images), shards=(noise.clip(0, 255).astype(np.uint8),))


def spoilt(network: Backbone) -> Backbone:
    """Return the network with random numbers in its last block."""
    torch.manual_seed(5)
    for name, parameter in network.module.named_parameters():
        if network.block_of(name) == len(network.blocks) - 1:
            parameter.data = 3 * torch.randn_like(parameter)
    return network


def test_a_network_whose_last_block_is_spoilt_shows_that_earlier_layers_do_better() -> None:
    images = stripes()
    whole, broken = (compared(network, images) for network in (tiny.backbone(), spoilt(tiny.backbone())))
    assert whole.images == 300
    assert list(whole.earlier) == list(broken.earlier) == tiny.backbone().blocks[:-1], "each but the last"
    assert whole.earlier != broken.earlier, "each difference is against the last block"
    assert [entry.log_loss for entry in whole.earlier.values()] == [entry.log_loss for entry in broken.earlier.values()]
    assert max(entry.difference for entry in broken.earlier.values()) < min(
        entry.difference for entry in whole.earlier.values() if entry.difference > 0
    )
    assert sign_in(broken) == ["earlier_layers_do_better"]


def test_the_pretrained_network_shows_no_sign_on_a_slice_of_the_sample() -> None:
    source = cells.package_data()
    table = cells.read_labels(source / "labels.csv").query("type == 'mono'")
    few = pd.concat([group.iloc[:90] for _, group in table.groupby("label")]).sample(frac=1, random_state=0)
    squares = [np.asarray(Image.open(source / path).convert("RGB").resize((64, 64))) for path in few["file"]]
    names = few["label"].map({"defective": tiny.CLASSES[0], "functional": tiny.CLASSES[1]}).to_numpy()
    images = replace(tiny.packed(180, classes=2, label=names), shards=(np.stack(squares),), size_px=64)
    network = replace(open_backbone("package:efficientnet_lite0", input_px=64), fingerprint="weights")
    found = compared(network, images)
    assert list(found.earlier) == ["conv_stem", *(f"blocks.{number}" for number in range(7))]
    assert found.last.block == "conv_head"
    assert sign_in(found) == ["cannot_tell"]


def test_features_and_figures_are_those_of_the_plain_network_and_of_its_taps_in_the_fast_engine_as_well() -> None:
    images, network = stripes(90), tiny.backbone()
    whole, found = compare(network, images, tiny.BY_NAME)
    assert found is not None
    development, rows = Development.of(images).rows, (images.rows("train"), images.rows("val"))
    views = Views(images, network.spec, 0, tiny.augment())

    def loss(known: FeatureSet, asked: FeatureSet) -> float:
        return cross_entropy(fit_linear(known, 3).logits(asked.features), asked.labels)

    with torch.inference_mode():
        np.testing.assert_allclose(whole.features, network(views.plain(development)).numpy(), atol=1e-5)
        for name, entry in found.earlier.items():
            spec = network.spec.model_copy(update={"taps": (name,)})
            both = [replace(network, spec=spec)(views.plain(own)).numpy()[:, network.num_features :] for own in rows]
            known, asked = (extract.examples(images, own, values) for own, values in zip(rows, both, strict=True))
            assert entry.log_loss == pytest.approx(loss(known, asked), rel=0.02)
    last = loss(*(whole[np.isin(development, own)] for own in rows))
    assert found.last.log_loss == pytest.approx(last)
    for entry in found.earlier.values():
        assert entry.difference == pytest.approx(entry.log_loss - last)


def test_images_of_one_group_count_once_for_the_standard_error() -> None:
    images = stripes(90)
    alone = compared(tiny.backbone(), images).earlier["bn1"]
    twins = [f"g{row // 9}" for row in range(90)]
    grouped = compared(tiny.backbone(), replace(images, samples=images.samples.assign(group=twins))).earlier["bn1"]
    assert alone.log_loss == grouped.log_loss
    assert alone.standard_error != grouped.standard_error


def test_the_standard_error_is_that_of_the_mean_difference() -> None:
    losses = {"last": (np.array([1.0, 2.0, 4.0, 5.0]), 0.5, 0.5), "early": (np.array([1.5, 1.0, 3.0, 2.5]), 0.75, 0.5)}
    val = pd.DataFrame({"id": ["a", "b", "c", "d"], "group": ["", "", "", ""]})
    difference = losses["early"][0] - losses["last"][0]
    [entry] = earlier_layers._describe(losses, 9, val).earlier.values()
    assert entry.difference == difference.mean() == -1.0
    assert entry.standard_error == pytest.approx(difference.std() / 2)
    [entry] = earlier_layers._describe(losses, 9, val.assign(group=["x", "x", "y", "y"])).earlier.values()
    halves = np.array([difference[:2].sum(), difference[2:].sum()]) - 2 * difference.mean()
    assert entry.standard_error == pytest.approx(np.sqrt((halves**2).sum()) / 4)


def test_the_nearest_images_of_other_folds_decide_and_of_two_classes_as_often_the_nearest() -> None:
    directions = np.array([0.0, 1.0, 2.0, 120.0, 121.0, 60.0])
    features = np.stack([np.cos(np.radians(directions)), np.sin(np.radians(directions))], axis=1).astype(np.float32)
    labels = np.array([0, 0, 0, 1, 1, 0])
    trained, fold = np.array([True] * 5 + [False]), np.array([-1] * 5 + [0])
    assert earlier_layers.nearest_accuracy(features, labels, trained, fold) == 1.0, "three of five"
    few = np.array([True, False, False, True, False, False])
    right = {
        side: earlier_layers.nearest_accuracy(np.vstack([features[:5], features[side]]), labels, few, fold)
        for side in (2, 4)
    }
    assert right == {2: 1.0, 4: 0.0}, "one of each class: the nearer one"
    assert earlier_layers.nearest_accuracy(features, labels, ~np.zeros(6, bool), np.arange(6)) == 4 / 6, (
        "two of a class"
    )


def test_nothing_is_compared_where_the_network_ends_early_has_taps_or_cannot_be_traced() -> None:
    network = tiny.backbone()
    for keep, taps in (("layer4", ()), (None, ("layer2",)), (None, ("all",))):
        seen = tapped(replace(network, spec=network.spec.truncated(keep, taps)))
        assert seen.blocks == []
        with torch.inference_mode():
            assert len(seen.module(network.example(1))) == 1
    seen = tapped(Backbone(Branching().eval(), SPEC))
    assert seen.blocks == []
    images = tiny.packed(24)
    untraceable = replace(Backbone(Branching().eval(), SPEC.with_input_size(32)), fingerprint="weights")
    whole, found = compare(untraceable, images)
    assert found is None
    assert len(whole.features) == len(images)


def test_nothing_is_compared_on_few_images_or_without_one_of_a_class() -> None:
    assert compare(tiny.backbone(), tiny.packed(18))[1] is None
    assert compare(tiny.backbone(), tiny.packed(24))[1] is not None
    images = tiny.packed(24)
    lacking = images.samples.assign(label=images.samples["label"].replace(tiny.CLASSES[2], tiny.CLASSES[0]))
    assert compare(tiny.backbone(), replace(images, samples=lacking))[1] is None


def test_the_sample_of_many_images_has_every_class_and_follows_the_seed() -> None:
    labels: NDArray[np.int64] = (np.arange(5000) == 4321).astype(np.int64)
    chosen = sample(labels, 2, 0)
    assert chosen is not None
    assert len(chosen) == len(set(chosen)) == MAX_IMAGES
    assert 4321 in chosen
    assert (np.diff(chosen) > 0).all()
    again, other = sample(labels, 2, 0), sample(labels, 2, 1)
    assert again is not None
    assert other is not None
    assert np.array_equal(again, chosen)
    assert not np.array_equal(other, chosen)
    assert sample(np.arange(5000) % 121, 121, 0) is None, "fewer than five images a class"


@pytest.mark.parametrize(
    ("difference", "error", "expected"),
    [
        (-0.2, 0.05, ["earlier_layers_do_better"]),
        (-0.2, 0.1, ["cannot_tell"]),
        (-0.01, 0.0001, []),
        (0.2, 0.01, []),
    ],
)
def test_a_gain_that_is_small_is_no_sign_and_one_that_may_be_chance_cannot_be_told(
    difference: float, error: float, expected: list[str]
) -> None:
    entry = {"log_loss": 0.5 + difference, "accuracy": 0.9, "difference": difference, "standard_error": error}
    worse = {"log_loss": 0.9, "accuracy": 0.7, "difference": 0.4, "standard_error": 0.01}
    last = {"block": "layer4", "log_loss": 0.5, "accuracy": 0.8}
    layers = {"images": 600, "last": last, "earlier": {"layer1": worse, "layer2": entry}}
    assert sign_in(EarlierLayers.model_validate(layers)) == expected
