"""The whole classifier as one network answers as the model does, and its class maps add up to the answer."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import tiny
from tests.exports import whole_of, write_export
from tests.unit.test_training_model import image, mean_answer, one_by_one, write_final
from thaw.augment.views import symmetry_of
from thaw.export import parity
from thaw.export.graph import ExportableClassifier, mirrored, pooled_layer, resize_weights, restored
from thaw.head.layers import build_head
from thaw.networks.backbone import Backbone
from thaw.networks.together import Member
from thaw.pipeline import facts
from thaw.pipeline.model_facts import ExportedFacts
from thaw.serving.exported import Exported
from thaw.training import model


def classifier(
    folder: Path, *, flip: str = "none", channels: int = 3, input_px: int = 64, **members: int
) -> model.Model:
    augment = {"flip": flip, "tta": True, "accuracy": {}}
    return model.load(write_final(folder / "final", channels=channels, input_px=input_px, augment=augment, **members))


def squares(num: int, *, channels: int = 3, size_px: int = 40) -> np.ndarray:
    return np.stack([image(seed, height=size_px, width=size_px, channels=channels) for seed in range(num)])


@pytest.mark.parametrize("flip", ["none", "horizontal", "vertical", "both", "square"])
@pytest.mark.parametrize("channels", [1, 3])
def test_one_graph_gives_the_probabilities_of_the_model(tmp_path: Path, flip: str, channels: int) -> None:
    ours = classifier(tmp_path, flip=flip, channels=channels)
    given = squares(3, channels=channels)
    with torch.inference_mode():
        probabilities, maps = whole_of(ours)(torch.from_numpy(given))
    np.testing.assert_allclose(probabilities.numpy(), ours.probabilities(given), atol=2e-6)
    assert ours.probabilities(given).std() > 0.01
    # Class activation mapping is exact: the logits are what the places add up to.
    np.testing.assert_allclose(torch.softmax(maps.mean((2, 3)), 1).numpy(), probabilities.numpy(), atol=2e-6)
    assert maps.shape[2] * maps.shape[3] > 1


@pytest.mark.parametrize(("depth", "flip"), [(2, "both"), (5, "none"), (0, "horizontal")])
def test_class_maps_of_an_ensemble_average_to_the_mean_of_the_logits(tmp_path: Path, depth: int, flip: str) -> None:
    ours, given = classifier(tmp_path, flip=flip, members=3, depth=depth), squares(3)
    with torch.inference_mode():
        probabilities, maps = whole_of(ours)(torch.from_numpy(given))
    singles = one_by_one(tmp_path / "final", tmp_path)
    np.testing.assert_allclose(probabilities.numpy(), mean_answer(singles, given, 2.0), atol=1e-5)
    np.testing.assert_allclose(torch.softmax(maps.mean((2, 3)), 1).numpy(), probabilities.numpy(), atol=2e-6)
    with torch.inference_mode():  # temperature 1, so the maps are twice as large before they are averaged
        each = [whole_of(single)(torch.from_numpy(given))[1] for single in singles]
    torch.testing.assert_close(maps, torch.stack(each).mean(0) / 2.0, rtol=0, atol=1e-5)


def test_an_ensemble_costs_what_its_networks_do_not_share(tmp_path: Path) -> None:
    costs = [whole_of(classifier(tmp_path, members=3, depth=depth)).cost for depth in (0, 2, 6)]
    assert 1 < costs[0] < 1.01  # three heads
    assert costs[0] < costs[1] < costs[2]
    assert costs[2] == pytest.approx(3, abs=0.01)
    assert whole_of(classifier(tmp_path)).cost == 1


def exported(folder: Path) -> tuple[np.ndarray, float]:
    """Export an ensemble of three and return what its ONNX file answers, after the gate of the export."""
    given = squares(4)
    ours = classifier(folder, flip="horizontal", members=3)
    write_export(folder / "export", folder / "final")
    difference = parity.check(folder / "export", given, ours.probabilities(given))
    return Exported.open(folder / "export").probabilities(given), difference


def test_the_files_of_an_ensemble_answer_as_its_networks_do(tmp_path: Path, elsewhere: Callable[..., Any]) -> None:
    found, difference = elsewhere(exported, tmp_path)
    np.testing.assert_allclose(found, mean_answer(one_by_one(tmp_path / "final", tmp_path), squares(4), 2.0), atol=1e-5)
    assert difference < parity.TOLERANCE
    stored = facts.read(tmp_path / "export" / "model.json", ExportedFacts)
    assert stored.members == 3
    assert stored.cost is not None
    assert 1 < stored.cost < 3
    with torch.inference_mode():
        maps = whole_of(model.load(tmp_path / "final"))(torch.from_numpy(squares(1)))[1][0, 1]
    heat = Exported.open(tmp_path / "export").heat(squares(1)[0], 1)
    assert heat.shape == maps.shape


@pytest.mark.parametrize("sizes", [(256, 224), (40, 64), (64, 17), (257, 256), (512, 64), (33, 33)])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_view_in_the_graph_is_that_of_the_model_to_the_grey_level(sizes: tuple[int, int], channels: int) -> None:
    size_px, input_px = sizes
    network = tiny.backbone(in_channels=channels, input_px=input_px)
    stored = tiny.changed(tiny.start(network).model, augment={"flip": "none", "tta": False})
    ours = model.Model([Member(network, build_head(network.num_features, 3, [], 0.0))], stored, "")
    whole = ExportableClassifier(ours.members, cut=0, size_px=size_px, symmetries=ours.symmetries, temperature=1.0)
    given = squares(2, channels=channels, size_px=size_px)
    spec = network.spec
    levels = [
        seen * torch.tensor(spec.input_std).view(-1, 1, 1) * 255 + torch.tensor(spec.input_mean).view(-1, 1, 1) * 255
        for seen in (whole.look(torch.from_numpy(given)), ours.look(given, 0))
    ]
    torch.testing.assert_close(levels[0].round(), levels[1].round(), rtol=0, atol=0)
    torch.testing.assert_close(levels[0], levels[1], rtol=0, atol=1e-3)


@pytest.mark.parametrize("changes", [(None, [], "max"), (None, [], "both"), (None, ["layer1"], "avg")])
def test_taps_and_another_pooling_are_in_the_graph(changes: tuple[None, list[str], str]) -> None:
    keep, taps, pool = changes
    plain = tiny.backbone(input_px=64)
    network = replace(plain, spec=plain.spec.truncated(keep, taps, "own" if taps else pool))
    torch.manual_seed(1)
    head = build_head(network.num_features, 3, [], 0.0)
    flips = {"flip": "horizontal", "tta": True}
    stored = tiny.changed(tiny.start(network).model, augment=flips, temperature=1.0)
    ours, given = model.Model([Member(network, head)], stored, ""), squares(2)
    whole = ExportableClassifier(ours.members, cut=0, size_px=40, symmetries=ours.symmetries, temperature=1.0)
    with torch.inference_mode():
        np.testing.assert_allclose(whole(torch.from_numpy(given))[0].numpy(), ours.probabilities(given), atol=2e-6)


def test_the_weights_of_a_resize_sum_to_one() -> None:
    torch.testing.assert_close(resize_weights(256, 224).sum(1), torch.ones(224), rtol=0, atol=2e-4)


@pytest.mark.parametrize("view", range(8))
def test_a_mirror_image_is_undone(view: int) -> None:
    pixels = torch.arange(2 * 3 * 4 * 4).view(2, 3, 4, 4)
    symmetry = symmetry_of("", view, seed=0, flip="square")
    torch.testing.assert_close(restored(mirrored(pixels, symmetry), symmetry), pixels)
    assert view == 0 or not torch.equal(mirrored(pixels, symmetry), pixels)


def test_the_layer_that_features_pool_is_found_by_what_it_gives() -> None:
    resnet = tiny.backbone(input_px=64)
    found = pooled_layer(resnet.module, resnet.example(2))
    assert found == ("layer4", (0, 1, 2, 3))
    swin = _layers_last()
    found = pooled_layer(swin.module, swin.example(2))
    assert found == ("last", (0, 3, 1, 2))


def test_a_class_token_pools_no_layer_and_so_has_no_maps() -> None:
    token = tiny.backbone("test_vit", input_px=160)
    assert pooled_layer(token.module, token.example(2)) is None
    member = Member(token, build_head(token.num_features, 3, [], 0.0))
    whole = ExportableClassifier([member], cut=0, size_px=40, symmetries=_PLAIN, temperature=1.0)
    assert not whole.has_maps
    assert [value.shape for value in whole(torch.from_numpy(squares(2)))] == [(2, 3)]


def test_a_head_with_hidden_layers_has_no_maps() -> None:
    network = tiny.backbone(input_px=64)
    head = build_head(network.num_features, 3, [8], 0.0).eval()
    member = Member(network, head)
    assert not ExportableClassifier([member], cut=0, size_px=40, symmetries=_PLAIN, temperature=1.0).has_maps


_PLAIN = [(False, False, False)]


class _Last(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = torch.nn.Linear(3, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.last(images.permute(0, 2, 3, 1)[:, ::8, ::8]).mean((1, 2))
        return features


def _layers_last() -> Backbone:
    return Backbone(_Last(), tiny.backbone(input_px=32).spec)
