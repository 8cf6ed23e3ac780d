"""The exported folder: whole, true to the torch model, the same bytes each time, and refused where it is not."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from tests import tiny
from tests.exports import Twins, write_export
from tests.unit.test_training_model import image, write_final
from thaw.errors import ArtifactError, BackboneError, DataError
from thaw.export import files, parity
from thaw.export.graph import ExportableClassifier
from thaw.networks.backbone import Backbone
from thaw.networks.onnx import runtime
from thaw.networks.together import Member
from thaw.pipeline import artifacts, facts
from thaw.pipeline.model_facts import ExportedFacts
from thaw.serving.explain import occluded, overlay, patch_places
from thaw.serving.exported import CLASS_MAPS, OCCLUSION, Exported
from thaw.training import model


@pytest.fixture(scope="module")
def exported(twins: Twins) -> Exported:
    return Exported.open(twins.exported, threads=1)


def squares(num: int) -> np.ndarray:
    return np.stack([image(seed) for seed in range(num)])


def changed(twins: Twins, folder: Path, **other: object) -> Path:
    """Copy the export with other facts in model.json, under a true manifest."""
    with artifacts.new_folder(folder) as partial:
        for name in ("model.onnx", "model.pt2", "model.json"):
            (partial / name).write_bytes((twins.exported / name).read_bytes())
        artifacts.write_json(partial / "model.json", artifacts.read_json(partial / "model.json") | other)
    return folder


def test_the_exported_model_answers_as_the_torch_model_for_any_number_of_images(
    exported: Exported, twins: Twins
) -> None:
    ours = model.load(twins.final)
    for num in (1, 2, 19):
        np.testing.assert_allclose(exported.probabilities(squares(num)), ours.probabilities(squares(num)), atol=1e-5)
    assert exported.probabilities(squares(1)[:0]).shape == (0, 3)
    assert exported.classes == tiny.CLASSES


def write_large_export(folder: Path, final: Path) -> Path:
    """Export as if the weights were too large for one file."""
    usual = runtime.LARGEST_BYTES
    runtime.LARGEST_BYTES = 1000
    try:
        return write_export(folder, final)
    finally:
        runtime.LARGEST_BYTES = usual


def test_weights_too_large_for_one_onnx_file_lie_beside_it_and_belong_to_the_export(
    exported: Exported, twins: Twins, tmp_path: Path, elsewhere: Callable[..., Any]
) -> None:
    folder = elsewhere(write_large_export, tmp_path / "export", twins.final)
    model_bytes, data_bytes = ((folder / name).stat().st_size for name in ("model.onnx", "model.onnx.data"))
    assert model_bytes + data_bytes < 1.1 * (twins.exported / "model.onnx").stat().st_size
    moved = folder.rename(tmp_path / "moved")
    large = Exported.open(moved, threads=1)
    np.testing.assert_array_equal(large.probabilities(squares(3)), exported.probabilities(squares(3)))
    (moved / "model.onnx.data").write_bytes(bytes(data_bytes))
    with pytest.raises(ArtifactError, match=r"model.onnx.data is not what its manifest says"):
        Exported.open(moved)


def test_bands_of_16_bits_are_exported_as_they_were_learned(tmp_path: Path, elsewhere: Callable[..., Any]) -> None:
    settings = tiny.preprocessing(dtype="uint16", value_range=((0.0, 4095.0),))
    final = write_final(tmp_path / "final", channels=5, input_px=64, preprocessing=settings)
    ours, exported = model.load(final), Exported.open(elsewhere(write_export, tmp_path / "export", final), threads=1)
    bands = np.random.default_rng(0).integers(0, 4096, (40, 40, 5), dtype=np.uint16)
    square = exported.read(bands)
    assert (exported.dtype.name, square.dtype.name, square.shape) == ("uint16", "uint16", (40, 40, 5))
    assert square.max() > 65000  # scaled by the range of the data set
    np.testing.assert_array_equal(square, ours.read(bands))
    np.testing.assert_allclose(exported.probabilities(square[None]), ours.probabilities(square[None]), atol=1e-5)
    assert exported.explain(square, 0).shape == (40, 40, 3)
    with pytest.raises(DataError, match=r"the squares are uint8 .*; this model takes uint16"):
        exported.probabilities(square[None].astype(np.uint8))


def test_bytes_a_path_and_an_array_are_read_alike(exported: Exported, tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(image(height=50, width=61)).save(tmp_path / "a.png")
    given: list[Any] = [tmp_path / "a.png", (tmp_path / "a.png").read_bytes(), image(height=50, width=61)]
    first, *others = [exported.read(one) for one in given]
    assert first.shape == (40, 40, 3)
    assert all((other == first).all() for other in others)
    with pytest.raises(DataError, match=r"^the image cannot be used: not an image of a format that is read"):
        exported.read(b"<html>")


@pytest.mark.parametrize("shape", [(1, 40, 40, 1), (1, 41, 40, 3), (40, 40, 3)])
def test_squares_of_another_shape_are_refused_with_the_one_wanted(exported: Exported, shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"this model takes uint8 \[images, 40, 40, 3\], as read\(\) gives them"):
        exported.probabilities(np.zeros(shape, np.uint8))
    with pytest.raises(DataError, match="the squares are float32"):
        exported.probabilities(np.zeros((1, 40, 40, 3), np.float32))


def test_two_exports_are_the_same_bytes_and_name_no_place_of_this_machine(
    twins: Twins, tmp_path: Path, elsewhere: Callable[..., Any]
) -> None:
    again = elsewhere(write_export, tmp_path / "again", twins.final)
    assert (again / artifacts.MANIFEST).read_bytes() == (twins.exported / artifacts.MANIFEST).read_bytes()
    here = [str(Path(place).resolve()).encode() for place in (tmp_path, Path.cwd(), Path(torch.__file__).parents[1])]
    for path in again.iterdir():
        content = path.read_bytes()
        assert not [place for place in [*here, b"site-packages", b"stack_trace", b'.py"'] if place in content], path


def usual_program(path: Path) -> None:
    torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),)), path)


def test_nothing_in_the_program_is_pickled_and_what_is_would_be_found(
    twins: Twins, tmp_path: Path, elsewhere: Callable[..., Any]
) -> None:
    assert files.pickled(twins.exported / "model.pt2") == []
    with zipfile.ZipFile(twins.exported / "model.pt2") as archive:
        assert not [name for name in archive.namelist() if archive.read(name)[:2] in (b"\x80\x02", b"PK")]
    elsewhere(usual_program, tmp_path / "usual.pt2")
    assert [Path(name).parent.name for name in files.pickled(tmp_path / "usual.pt2")] == ["sample_inputs"]


def without_program(folder: Path, final: Path) -> float:
    classifier = model.load(final)
    write_export(folder, final, torch_program=False)
    return parity.check(folder, squares(5), classifier.probabilities(squares(5)))


def test_the_program_is_written_only_if_asked_for(twins: Twins, tmp_path: Path, elsewhere: Callable[..., Any]) -> None:
    assert elsewhere(without_program, tmp_path / "export", twins.final) < 1e-5
    assert {path.name for path in (tmp_path / "export").iterdir()} == {"model.onnx", "model.json", "manifest.json"}
    assert (tmp_path / "export" / "model.onnx").read_bytes() == (twins.exported / "model.onnx").read_bytes()


def test_the_metadata_hold_what_the_file_needs_elsewhere(twins: Twins) -> None:
    carried = {entry.key: json.loads(entry.value) for entry in onnx.load(twins.exported / "model.onnx").metadata_props}
    assert carried == artifacts.read_json(twins.exported / "model.json")
    assert carried["classes"] == tiny.CLASSES
    assert carried["preprocessing"] == tiny.preprocessing().model_dump() | {"channels": 3}
    assert (carried["flips"], carried["views"], carried["temperature"]) == ("horizontal", 2, 2.0)
    assert carried["explanation"] == CLASS_MAPS


@pytest.mark.parametrize("name", ["model.onnx", "model.json", "model.pt2", artifacts.MANIFEST])
def test_one_changed_byte_is_refused(twins: Twins, tmp_path: Path, name: str) -> None:
    folder = changed(twins, tmp_path / "export")
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(ArtifactError, match="export"):
        Exported.open(folder)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            {"classes": ["dark", "bright", "striped"]},
            r'classes is \["dark", "bright", "striped"\] in model.json and \["bri',
        ),
        ({"classes": ["bright", "dark"]}, "the files do not belong together, run `dvc repro export`"),
        ({"temperature": 1.0}, "temperature is 1.0 in model.json and 2.0 in model.onnx"),
        ({"format": 2}, "has format 2, this version of Thaw reads 1"),
        ({"views": "two"}, r'model.json: views is "two": .*; run `dvc repro`'),
    ],
)
def test_files_that_tell_different_things_are_refused(
    twins: Twins, tmp_path: Path, other: dict[str, object], message: str
) -> None:
    with pytest.raises(ArtifactError, match=message):
        Exported.open(changed(twins, tmp_path / "export", **other))


def test_a_graph_that_cannot_be_loaded_is_an_error_of_the_artifact(twins: Twins, tmp_path: Path) -> None:
    with artifacts.new_folder(tmp_path / "export") as partial:
        (partial / "model.json").write_bytes((twins.exported / "model.json").read_bytes())
        (partial / "model.onnx").write_bytes(b"<html>")
    with pytest.raises(ArtifactError, match=r"model.onnx cannot be loaded: .*; run `dvc repro export`"):
        Exported.open(tmp_path / "export")


def test_heat_lies_where_the_maps_speak_for_the_class(exported: Exported) -> None:
    square = image(3)
    for index in range(3):
        heat = exported.heat(square, index)
        assert heat.shape == (2, 2)
        assert heat.min() >= 0
        assert heat.max() in (0, 1)
    total = sum(exported._run(square[None])[1][0][index] for index in range(3))
    best = int(exported.probabilities(square[None])[0].argmax())
    own = exported._run(square[None])[1][0][best] - total / 3
    assert exported.heat(square, best).argmax() == own.argmax()
    with pytest.raises(DataError, match="class 3 does not exist; there are 3, counted from 0"):
        exported.heat(square, 3)
    assert exported.explain(square, 0).shape == (40, 40, 3)


def test_an_overlay_leaves_cold_places_as_they_were() -> None:
    grey = image(channels=1)
    np.testing.assert_array_equal(overlay(grey, np.zeros((7, 7))), np.repeat(grey, 3, axis=2))
    half = np.zeros((2, 2))
    half[:, 1] = 1
    shown = overlay(grey, half)
    np.testing.assert_array_equal(shown[:, :10], np.repeat(grey, 3, axis=2)[:, :10])
    assert (shown[:, 30:, 0].astype(int) >= shown[:, 30:, 1]).all()


def test_occlusion_covers_each_place_once_with_the_mean_colour() -> None:
    square = image()
    places = patch_places(40)
    copies = occluded(square, places)
    assert copies.shape == (49, 40, 40, 3)
    for copy, (rows, columns) in zip(copies, places, strict=True):
        differs = (copy != square).any(axis=2)
        assert differs.any()
        differs[rows, columns] = False
        assert not differs.any()
        assert (copy[rows, columns] == np.rint(square.mean(axis=(0, 1)))).all()
    assert patch_places(3)[-1] == (slice(2, 3), slice(2, 3))


def test_occlusion_finds_the_place_that_the_answer_hangs_on() -> None:
    class Corner(Exported):
        """Class 1 as far as the upper left corner is bright."""

        def probabilities(self, squares: np.ndarray) -> np.ndarray:
            bright = 0.1 + 0.8 * squares[:, :10, :10].mean(axis=(1, 2, 3)) / 255
            return np.stack([1 - bright, bright], axis=1)

    said = tiny.exported_facts(classes=["a", "b"], explanation=OCCLUSION)
    square = np.zeros((40, 40, 1), np.uint8)
    square[:10, :10] = 255
    heat = Corner(said, "", None).heat(square, 1)
    assert heat.argmax() == 0
    assert heat[3:, 3:].max() < 0.01


def test_the_parity_gate_passes_the_true_one_and_names_the_figure_of_another(twins: Twins, tmp_path: Path) -> None:
    ours = model.load(twins.final)
    expected = ours.probabilities(squares(5))
    assert parity.check(twins.exported, squares(5), expected) < 1e-5
    with pytest.raises(
        ArtifactError, match=r"model.onnx differs from the torch model by up to 2.0e-04 in a probability"
    ):
        parity.check(twins.exported, squares(5), expected + np.array([2e-4, -2e-4, 0]))


@pytest.mark.parametrize("value", [np.nan, 0.501])
def test_the_parity_gate_takes_no_nan_and_no_other_class(value: float) -> None:
    expected = np.array([[0.50001, 0.49999], [0.9, 0.1]])
    found = expected.copy()
    found[0] = [1 - value, value]
    with pytest.raises(ArtifactError, match=r"model\.onnx differs"):
        parity.compare("model.onnx", found, expected)


def test_the_parity_gate_takes_a_tie_that_rounding_decides_either_way() -> None:
    expected = np.array([[0.5000001, 0.4999999], [0.9, 0.1]])
    assert parity.compare("model.onnx", expected[:, ::-1].copy()[:1], expected[:1]) == pytest.approx(2e-7)


def test_the_parity_gate_counts_another_class_that_lies_beyond_the_tolerance() -> None:
    expected = np.array([[0.50008, 0.49992], [0.9, 0.1]])
    found = np.array([[0.49999, 0.50001], [0.9, 0.1]])
    assert np.abs(found - expected).max() < parity.TOLERANCE < expected[0, 0] - expected[0, 1]
    with pytest.raises(ArtifactError, match="in the class of 1 of 2 test images"):
        parity.compare("model.onnx", found, expected)


def test_rows_for_the_gate_are_spread_over_all_classes() -> None:
    rows = np.arange(1000, 2000)
    few = parity.spread(rows)
    assert (len(few), few[0], few[-1]) == (200, 1000, 1999)
    assert np.diff(few).max() <= 6
    assert parity.spread(rows[:7]).tolist() == rows[:7].tolist()


class Branching(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = images.mean((2, 3))
        return features if features.sum() > 0 else -features


def write_branching(folder: Path, stored: ExportedFacts) -> str:
    member = Member(Backbone(Branching(), tiny.backbone().spec), torch.nn.Linear(3, 3))
    whole = ExportableClassifier([member], cut=0, size_px=40, symmetries=[(False, False, False)], temperature=1.0)
    with pytest.raises(BackboneError) as error:
        files.write(folder, whole, stored, torch_program=False)
    return str(error.value)


def test_a_network_that_torch_cannot_export_is_one_line(
    twins: Twins, tmp_path: Path, elsewhere: Callable[..., Any]
) -> None:
    said = elsewhere(write_branching, tmp_path, facts.read(twins.exported / "model.json", ExportedFacts))
    assert said.startswith("test_resnet cannot be exported: ")
    assert said.endswith("stop at `dvc repro evaluate`, or choose another backbone")
    assert len(said.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
