"""The deliverable: loaded from its folder, it answers for paths and arrays as the network itself does."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from tests import tiny
from thaw.augment.views import render
from thaw.errors import ArtifactError, DataError
from thaw.evaluation import test_answers
from thaw.head.layers import build_head
from thaw.networks import model_files
from thaw.networks.backbone import Backbone
from thaw.pipeline import artifacts, facts
from thaw.pipeline.model_facts import ModelFacts
from thaw.training import model, phase_folder


def write_final(
    folder: Path,
    *,
    channels: int = 3,
    input_px: int = 32,
    temperature: float = 2.0,
    members: int = 1,
    depth: int = 2,
    **changes: Any,
) -> Path:
    """Write models/final as `select` does, with random weights; of several `members` the last blocks differ."""
    network = tiny.backbone(in_channels=channels, input_px=input_px)
    torch.manual_seed(1)
    head = build_head(network.num_features, 3, [], 0.0)
    head.get_parameter("weight").data.mul_(20)
    tensors = {f"backbone.{name}": value for name, value in network.module.state_dict().items()}
    tensors |= {f"head.{name}": value for name, value in head.state_dict().items()}
    others = [others_of(network, head, depth) for _ in range(1, members)]
    changes |= {"members": members} if others else {}
    stored = tiny.changed(
        tiny.start(network, depth_blocks=depth).model, phase="top", temperature=temperature, **changes
    )
    with artifacts.new_folder(folder) as partial:
        save_networks(partial, [tensors, *others])
        facts.write(partial / "model.json", stored)
    return folder


def save_networks(folder: Path, networks: Sequence[Mapping[str, Tensor]]) -> None:
    """Write the tensors of one network, or of several, as `select` does."""
    names = [f"fold-{number:02d}" for number in range(len(networks))] if len(networks) > 1 else ["weights"]
    for name, tensors in zip(names, networks, strict=True):
        model_files.save(tensors, folder / f"{name}.safetensors")


def others_of(network: Backbone, head: nn.Module, depth: int) -> dict[str, Tensor]:
    """Return what a member after the first has in place of its last `depth` blocks and head."""
    above = network.split(depth)[1].state_dict() if depth else {}
    first = {f"backbone.{name}": value for name, value in above.items()} | phase_folder.head_tensors(head)
    return {
        name: value * (1 + 0.2 * torch.rand(value.shape)) if value.ndim else value.clone()
        for name, value in first.items()
    }


def one_by_one(folder: Path, into: Path) -> list[model.Model]:
    """Return the networks of an ensemble, each laid over the first by hand and loaded as a model of one network."""
    networks, stored = model_files.load_networks(folder), facts.read(folder / "model.json", ModelFacts)
    found = []
    for number, own in enumerate(networks):
        with artifacts.new_folder(into / str(number)) as partial:
            save_networks(partial, [networks[0] | own])
            facts.write(partial / "model.json", stored.model_copy(update={"members": None, "temperature": 1.0}))
        found.append(model.load(into / str(number)))
    return found


def mean_answer(singles: list[model.Model], squares: NDArray[np.uint8], temperature: float) -> NDArray[np.float64]:
    """Return the softmax of the mean logits of models of one network and temperature 1, over another temperature."""
    logits = np.log([single.probabilities(squares) for single in singles])  # but for a constant of each image
    answers = np.exp(logits.mean(axis=0) / temperature)
    mean: NDArray[np.float64] = answers / answers.sum(axis=1, keepdims=True)
    return mean


@pytest.fixture(scope="module")
def colour(tmp_path_factory: pytest.TempPathFactory) -> model.Model:
    return model.load(write_final(tmp_path_factory.mktemp("models") / "final"))


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> model.Model:
    return model.load(write_final(tmp_path_factory.mktemp("models") / "final", channels=1))


def image(seed: int = 0, *, height: int = 40, width: int = 40, channels: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def test_probabilities_are_the_softmax_of_the_logits_over_the_temperature(colour: model.Model) -> None:
    squares = np.stack([image(seed) for seed in range(3)])
    spec = colour.backbone.spec
    seen = render(
        squares,
        [""] * 3,
        [0] * 3,
        seed=0,
        augment=tiny.augment(),
        input_px=32,
        channels=3,
        mean=spec.mean,
        std=spec.std,
    )
    with torch.inference_mode():
        logits = colour.members[0].head(colour.backbone(seen)).double()
    assert colour.facts.augment.flip == "none"
    ours = colour.predict(list(squares))
    np.testing.assert_allclose(ours, torch.softmax(logits / 2.0, dim=1).numpy(), atol=1e-6)
    np.testing.assert_allclose(ours.sum(axis=1), 1)
    assert ours.std() > 0.01
    assert colour.classes == tiny.CLASSES


def test_a_path_and_the_array_of_its_pixels_get_the_same_answer(colour: model.Model, tmp_path: Path) -> None:
    pixels = image(height=50, width=61)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    answers = [colour.predict([one])[0] for one in (pixels, tmp_path / "a.png", str(tmp_path / "a.png"))]
    np.testing.assert_array_equal(answers[0], answers[1])
    np.testing.assert_array_equal(answers[0], answers[2])


def test_an_image_is_answered_alike_alone_and_among_many(colour: model.Model) -> None:
    many = [image(seed) for seed in range(40)]  # more than one batch
    np.testing.assert_allclose(colour.predict(many)[35], colour.predict([many[35]])[0], atol=1e-6)


def test_no_images_are_no_answers(colour: model.Model) -> None:
    assert colour.predict([]).shape == (0, 3)


@pytest.mark.parametrize("shape", [(40, 40), (40, 40, 1)])
def test_a_grey_image_is_its_own_colour_copy(colour: model.Model, shape: tuple[int, ...]) -> None:
    single = image(channels=1)
    expected = colour.predict([np.repeat(single, 3, axis=2)])
    np.testing.assert_array_equal(colour.predict([single.reshape(shape)]), expected)


def test_a_grey_model_takes_colour_as_its_luma(grey: model.Model) -> None:
    single = image(channels=1)
    np.testing.assert_array_equal(grey.predict([np.repeat(single, 3, axis=2)]), grey.predict([single]))
    pure = np.zeros((40, 40, 3), np.uint8)
    pure[..., 1] = 200
    np.testing.assert_array_equal(grey.read(pure), np.full((40, 40, 1), 117))  # 0.587 of it


def test_an_image_one_pixel_high_or_wide_is_answered(colour: model.Model) -> None:
    for height, width, channels in ((1, 50, 3), (50, 1, 3), (1, 50, 1), (1, 1, 3)):
        assert colour.predict([image(height=height, width=width, channels=channels)]).shape == (1, 3)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            np.zeros((4, 4, 3), np.float32),
            r"an image array must be uint8 or uint16 \[height, width, channels\], not float32 \[4, 4, 3\]",
        ),
        (np.zeros((4, 4, 4), np.uint8), "an array cannot be used: it has 4 channels, the model takes 3"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"not uint8 \[2, 4, 4, 3\]"),
        (np.zeros((0, 4, 3), np.uint8), r"not uint8 \[0, 4, 3\]"),
        ([[1, 2], [3, 4]], "an image must be a path, bytes, or an array of uint8 or uint16, not a list"),
    ],
)
def test_an_array_that_is_no_image_is_refused_with_what_it_is(colour: model.Model, value: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        colour.predict([value])


def test_one_path_instead_of_a_list_of_them_is_refused(colour: model.Model) -> None:
    with pytest.raises(DataError, match=r"predict takes a list of images, not one; write predict\(\['cell.png'\]\)"):
        colour.predict("cell.png")


def test_files_that_cannot_be_used_are_named_with_the_reason(colour: model.Model, tmp_path: Path) -> None:
    (tmp_path / "page.png").write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"page.png cannot be used: not an image of a format that is read"):
        colour.predict([tmp_path / "page.png"])
    with pytest.raises(DataError, match=r"missing.png cannot be read: No such file or directory"):
        colour.predict([tmp_path / "missing.png"])


@pytest.mark.parametrize("name", ["weights.safetensors", "model.json", artifacts.MANIFEST])
@pytest.mark.parametrize("place", [0.3, 0.9])
def test_one_changed_byte_is_refused(tmp_path: Path, name: str, place: float) -> None:
    path = write_final(tmp_path / "final") / name
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="final"):
        model.load(tmp_path / "final")


@pytest.mark.parametrize("name", ["weights.safetensors", "model.json", artifacts.MANIFEST])
def test_a_missing_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    (write_final(tmp_path / "final") / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name} is missing"):
        model.load(tmp_path / "final")


def test_a_model_that_is_not_there_says_what_writes_it(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is missing; `dvc repro` writes it"):
        model.load(tmp_path / "final")


def test_another_artifact_is_no_classifier(tmp_path: Path) -> None:
    with artifacts.new_folder(tmp_path / "backbone") as folder:
        artifacts.write_json(folder / "model.json", {"backbone": {}})
    with pytest.raises(ArtifactError, match=r"model.json: classes is missing; run `dvc repro`"):
        model.load(tmp_path / "backbone")


def test_rows_of_a_data_set_are_answered_as_their_images_are(colour: model.Model, scratch: Path) -> None:
    images = tiny.packed()
    rows = images.rows("val")
    ours = test_answers.answer({"top": colour}, images, rows, compute=tiny.TORCH, label="test")["top"]
    np.testing.assert_allclose(ours, colour.predict(list(images.read(rows))), atol=1e-3)


def test_an_answer_is_averaged_over_the_mirror_images_in_force(tmp_path: Path, colour: model.Model) -> None:
    augment = {"flip": "horizontal", "tta": True, "accuracy": {}}
    averaging = model.load(write_final(tmp_path / "final", augment=augment, temperature=1.0))
    single = image()
    mirrored = np.ascontiguousarray(single[:, ::-1])
    np.testing.assert_allclose(averaging.predict([single]), averaging.predict([mirrored]), atol=1e-6)
    both = np.log(colour.predict([single, mirrored])) * 2.0  # without the temperature, logits but for a constant
    expected = np.exp(both.mean(axis=0))
    np.testing.assert_allclose(averaging.predict([single])[0], expected / expected.sum(), atol=1e-6)


@pytest.mark.parametrize(("depth", "flip"), [(2, "none"), (2, "horizontal"), (0, "none"), (5, "none")])
def test_an_ensemble_answers_with_the_mean_logits_of_its_networks(tmp_path: Path, depth: int, flip: str) -> None:
    augment = {"flip": flip, "tta": True, "accuracy": {}}
    ours = model.load(write_final(tmp_path / "final", members=3, depth=depth, augment=augment))
    squares = np.stack([image(seed) for seed in range(4)])
    singles = one_by_one(tmp_path / "final", tmp_path)
    found = ours.predict(list(squares))
    np.testing.assert_allclose(found, mean_answer(singles, squares, 2.0), atol=1e-5)
    alone = [mean_answer([single], squares, 2.0) for single in singles]
    assert all(np.abs(found - other).max() > 2e-4 for other in alone)  # so a member alone would not pass


def test_the_blocks_that_the_networks_share_are_run_once_and_held_once(tmp_path: Path) -> None:
    ours = model.load(write_final(tmp_path / "final", members=3))
    ours.predict([image()])  # which cuts the networks, and to cut one is to run it a few times
    runs: dict[str, int] = {}
    shared = ours.facts.cut
    for number, member in enumerate(ours.members):
        for place, path in enumerate(("conv1", "layer4")):
            assert (member.backbone.block_of(f"{path}.weight") < shared) == (place == 0)
            layers = member.backbone.module.get_submodule(path).modules()
            layer = next(part for part in layers if not [*part.children()])
            layer.register_forward_hook(lambda *_, key=f"{path} {number}": runs.update({key: runs.get(key, 0) + 1}))
    ours.predict([image()])
    assert runs == {"conv1 0": 1, "layer4 0": 1, "layer4 1": 1, "layer4 2": 1}
    first, *others = (dict(member.backbone.module.named_parameters()) for member in ours.members)
    same = [{name for name, value in other.items() if value.data_ptr() == first[name].data_ptr()} for other in others]
    assert same == [{name for name in first if ours.backbone.block_of(name) < shared}] * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda networks: networks[2].pop("head.bias"),
            r"head.bias of member 2 is absent, and that of the first ne",
        ),
        (
            lambda networks: networks[1].update({"head.bias": torch.zeros(4)}),
            r"head.bias of member 1 is float32 \[4\], and that of the first network float32 \[3\]; delete it",
        ),
        (
            lambda networks: networks[1].update({"backbone.conv1.0.weight": torch.zeros(4)}),
            r"backbone.conv1.0.weight of member 1 is float32 \[4\], and that of the first network absent",
        ),
        (
            lambda networks: networks.pop(1),
            "holds tensors of 2 networks, and its model.json says 3; delete it and run `dvc repro`",
        ),
        (
            lambda networks: networks.append({"head.bias": torch.zeros(3)}),
            "holds tensors of 4 networks, and its model.json says 3",
        ),
    ],
)
def test_members_that_do_not_fit_are_one_line(tmp_path: Path, change: Any, message: str) -> None:
    whole = write_final(tmp_path / "final", members=3)
    networks, stored = model_files.load_networks(whole), facts.read(whole / "model.json", ModelFacts)
    change(networks)
    with artifacts.new_folder(tmp_path / "odd") as partial:
        save_networks(partial, networks)
        facts.write(partial / "model.json", stored)
    with pytest.raises(ArtifactError, match=message) as error:
        model.load(tmp_path / "odd")
    assert len(str(error.value).splitlines()) == 1
