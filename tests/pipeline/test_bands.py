"""Images of four bands through every stage, on a random network: what only the fourth band shows is learned."""

import contextlib
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import tifffile
import yaml
from numpy.typing import NDArray

from stages import advise, backbone, evaluate, features, head, prepare, select, unfreeze
from thaw.config.reader import read_tree
from thaw.data.packed import PackedImages
from thaw.errors import ArtifactError, BackboneError, DataError, ParamsError
from thaw.pipeline import artifacts, code, facts
from thaw.pipeline.data_facts import Audit
from thaw.training import model

ROOT = Path(__file__).resolve().parents[2]
IMAGES_A_CLASS = 30
_CHANGES: dict[str, dict[str, object]] = {
    "data": {"raw": "raw", "labels": "raw"},
    "prepare": {"size_px": 32, "value_range": [0, 4095], "val_fraction": 0.2},
    "backbone": {"source": "timm:test_resnet", "sha256": None, "input_px": 32, "pretrained": False, "in_channels": 4},
    "augment": {"flip": "both", "brightness": 0.1, "contrast": 0.1, "crop_scale": 0.8, "rotate_deg": 5.0},
    "select": {"draws": 100},
    "evaluate": {"draws": 100},
    "compute": {"threads": 1, "workers": 0, "frozen_engine": "torch"},
}


def field(seed: int, *, wet: bool) -> NDArray[np.uint16]:
    """Return [40, 40, 4] of 12 bits in 16; two kinds of field that differ in the fourth band alone."""
    random = np.random.default_rng(seed)
    pixels = random.integers(200, 2000, (40, 40, 4)) + random.integers(0, 1500)
    pixels[:, :, 3] = random.integers(200, 1200, (40, 40)) + (1500 if wet else 0)
    return pixels.clip(0, 4095).astype(np.uint16)


def write(path: Path, pixels: NDArray[np.uint16]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, pixels, photometric="minisblack", planarconfig="contig", compression="lzw", metadata=None)


def change(workspace: Path, **sections: Mapping[str, object]) -> None:
    path = workspace / "params.yaml"
    tree = read_tree(path)
    for name, values in sections.items():
        tree[name] = tree.get(name, {}) | values
    path.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all stages have run on fields of four bands."""
    folder = tmp_path_factory.mktemp("bands")
    tree = read_tree(ROOT / "params.yaml")
    top = tree["unfreeze"]["phases"]["top"] | {"depth": 1, "epochs": 1, "views": 2, "batch_size": 16}
    tree["unfreeze"]["phases"] = {"top": top}
    (folder / "params.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    change(folder, **_CHANGES)
    for index in range(2 * IMAGES_A_CLASS):
        wet = index % 2 == 1
        write(folder / "raw" / ("wet" if wet else "dry") / f"{index:02d}.tif", field(index, wet=wet))
    code.write(folder / code.FOLDER, code.running())
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setenv("THAW_SCRATCH", str(folder / ".thaw"))
        patch.setattr(sys, "argv", ["unfreeze", "top"])
        for stage in (prepare, backbone, features, head, advise, unfreeze, select, evaluate):
            stage.main()
    return folder


def test_what_is_packed_are_sixteen_bits_of_four_bands_in_the_range_asked_for(finished: Path) -> None:
    images = PackedImages.open(finished / "data" / "prepared")
    assert (images.channels, images.dtype.name) == (4, "uint16")
    row = int(np.flatnonzero(images.samples["path"] == "wet/01.tif")[0])
    mean = images.read(np.array([row]))[0].mean(axis=(0, 1)) / 65535
    np.testing.assert_allclose(mean, field(1, wet=True).mean(axis=(0, 1)) / 4095, atol=0.01)
    audit = facts.read(finished / "data" / "prepared" / "audit.json", Audit)
    assert (audit.channels, audit.dtype) == (4, "uint16")
    assert audit.value_range is not None
    assert (audit.value_range.clipped_fraction, audit.value_range.warning) == (0, None)


def test_the_head_on_the_frozen_network_learns_what_only_the_fourth_band_shows(finished: Path) -> None:
    metrics = artifacts.read_json(finished / "reports" / "metrics.json")
    assert metrics["head"]["accuracy"] > 0.9
    assert metrics["majority"]["accuracy"] < 0.7


def test_the_model_answers_for_files_and_for_arrays_by_the_fourth_band(finished: Path, tmp_path: Path) -> None:
    final = model.load(finished / "models" / "final")
    fields = [field(1000 + index, wet=index % 2 == 1) for index in range(20)]
    for index, pixels in enumerate(fields):
        write(tmp_path / f"{index:02d}.tif", pixels)
    answers = final.predict(sorted(tmp_path.glob("*.tif")))
    assert np.mean(answers.argmax(axis=1) == np.arange(20) % 2) > 0.9
    assert np.array_equal(answers, final.predict(fields))
    swapped = [
        np.where(np.arange(4) == 3, other, own) for own, other in zip(fields, fields[1:] + fields[:1], strict=True)
    ]
    assert np.mean(final.predict(swapped).argmax(axis=1) == np.arange(20) % 2) < 0.1


def test_an_image_of_other_channels_or_bits_is_refused_with_the_reason(finished: Path, tmp_path: Path) -> None:
    final = model.load(finished / "models" / "final")
    with pytest.raises(DataError, match="an array cannot be used: it has 3 channels, the model takes 4"):
        final.predict([field(0, wet=True)[:, :, :3]])
    with pytest.raises(DataError, match=r"it has 8 bits, but the model learned prepare\.value_range from .* 16 bits"):
        final.predict([field(0, wet=True).astype(np.uint8)])


def run_in(folder: Path, stage: ModuleType, patch: pytest.MonkeyPatch) -> None:
    patch.chdir(folder)
    patch.setenv("THAW_SCRATCH", str(folder / ".thaw"))
    stage.main()


def test_saturation_of_bands_is_an_error(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (finished / "params.yaml").read_bytes()
    change(finished, augment={"saturation": 0.2})
    with pytest.raises(ParamsError, match=r"augment\.saturation is 0\.2, but images of 4 channels have no colour"):
        run_in(finished, features, monkeypatch)
    (finished / "params.yaml").write_bytes(before)


def test_the_plan_refuses_other_channels_than_the_data_have_and_an_altered_table(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from thaw.config.reader import load_params
    from thaw.training.plan import plan_tables

    monkeypatch.chdir(finished)
    params = load_params()
    wrong = params.model_copy(update={"backbone": params.backbone.model_copy(update={"in_channels": 13})})
    with pytest.raises(BackboneError, match=r"backbone\.in_channels .* is 13, but the images have 4 channels"):
        plan_tables(wrong)
    with (finished / "data" / "prepared" / "samples.csv").open("a") as file:
        file.write("x\n")
    with pytest.raises(ArtifactError, match=r"samples\.csv is not what its manifest says"):
        plan_tables(params)
