"""The benches: what they generate, how they sum up, and that the loops which Thaw is held against are true ones."""

import json
import math
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from bench import _tools, floor, head, install, phase, prefix
from bench._loop import ImageFiles, Loop, loader
from bench._photos import CLASSES, photo, write_photos
from bench._workspace import Workspace, even_part
from tests import tiny
from thaw.activations.prefix import Views
from thaw.config.reader import load_params
from thaw.data import listing
from thaw.data.packed import PackedImages
from thaw.errors import ArtifactError, ParamsError
from thaw.networks.backbone import Backbone
from thaw.pipeline import scratch

pytestmark = pytest.mark.usefixtures("scratch")

BENCHES = (
    "prefix", "head", "phase", "views", "scale", "noop", "remotes", "floor", "accuracy", "foreign", "memory", "chain",
    "decoding", "grow", "scratch", "predict", "install", "small", "null", "folds", "trials", "uploads",
    "near_copies", "volume", "overhead", "advise",
)  # fmt: skip


@pytest.fixture
def tiny_workspace(tmp_path: Path, root: Path) -> Workspace:
    """A tiny data set with its files, an untrained head, and the shipped params with a phase to match."""
    images = tiny.packed(24)
    for path, pixels in zip(images.samples["path"], images.shards[0], strict=True):
        Image.fromarray(pixels).save(tmp_path / path)
    params = load_params(root / "params.yaml")
    top = tiny.phase(epochs=2, views=2, warm_start=True)
    params = params.model_copy(
        update={
            "compute": tiny.TORCH,
            "augment": tiny.augment(flip="auto", tta=True),
            "unfreeze": params.unfreeze.model_copy(update={"phases": {"top": top, "mid": tiny.phase(start="top")}}),
        }
    )
    start = tiny.start(tiny.backbone())
    model = tiny.changed(start.model, augment={"flip": "both", "tta": False})
    return Workspace(params, images, tmp_path, _network, replace(start, model=model))


def _network(channels: int) -> Backbone:
    return tiny.backbone(in_channels=channels)


def test_every_bench_says_how_to_run_it(root: Path) -> None:
    assert {path.stem for path in (root / "bench").glob("[a-z]*.py")} == set(BENCHES)
    for name in BENCHES:
        assert f"python -m bench.{name}" in (root / "bench" / f"{name}.py").read_text(encoding="utf-8")


def test_a_report_is_one_line_of_json_and_all_else_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    def measure() -> _tools.Facts:
        print("on the way")
        return {"ratio": 2.0}

    _tools.report("sample", measure)
    seen = capsys.readouterr()
    assert seen.err == "on the way\n"
    (line,) = seen.out.splitlines()
    facts = json.loads(line)
    assert facts["bench"] == "sample"
    assert facts["ratio"] == 2.0
    assert facts["machine"]["cores"] >= 1
    assert facts["machine"]["torch"]


def test_a_mistake_of_the_user_ends_a_bench_with_one_line() -> None:
    def measure() -> _tools.Facts:
        raise ArtifactError("data/prepared is missing")

    with pytest.raises(SystemExit, match="data/prepared is missing"):
        _tools.report("sample", measure)


def test_rounds_of_an_interrupted_run_are_read_back_and_those_of_a_finished_one_are_not() -> None:
    measured: list[int] = []

    def measure(number: int) -> _tools.Facts:
        if number == 2 and len(measured) == 2:
            raise KeyboardInterrupt
        measured.append(number)
        return {"seconds": float(number)}

    with pytest.raises(KeyboardInterrupt):
        _tools.rounds("sample", {"size": 1}, 3, measure)
    measured.append(-1)
    assert _tools.rounds("sample", {"size": 1}, 3, measure) == [{"seconds": value} for value in (0.0, 1.0, 2.0)]
    assert measured == [0, 1, -1, 2]
    _tools.rounds("sample", {"size": 1}, 1, measure)
    assert measured == [0, 1, -1, 2, 0]
    assert not list((scratch.folder() / "bench").iterdir())


def test_sides_take_turns_at_being_first() -> None:
    order: list[str] = []
    sides = {name: lambda name=name: order.append(name) for name in "abc"}
    for number in range(4):
        assert set(_tools.in_turn(sides, number)) == set("abc")
    assert "".join(order) == "abcbcacababc"


def test_an_empty_scratch_folder_is_there_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    before = scratch.folder()
    with _tools.empty_scratch() as folder:
        assert scratch.folder() == folder != before
        assert list(folder.iterdir()) == []
    assert scratch.folder() == before
    assert not folder.exists()
    monkeypatch.delenv("THAW_SCRATCH")
    monkeypatch.chdir(before)
    with _tools.empty_scratch():
        pass
    assert "THAW_SCRATCH" not in os.environ


def test_the_peak_of_a_process_counts_what_its_child_holds() -> None:
    child = "import time; held = bytearray(b'1' * 80_000_000); time.sleep(0.5)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    peak, seconds = _tools.peak_of([sys.executable, "-c", parent], cwd=Path(), environment=os.environ)
    assert peak > 76
    assert seconds > 0.4
    with pytest.raises(SystemExit, match="exit code 3; nothing was measured"):
        _tools.peak_of([sys.executable, "-c", "import sys; sys.exit(3)"], cwd=Path(), environment=os.environ)


def test_photos_are_the_same_each_time_and_no_two_are_alike() -> None:
    assert photo(3, 32).shape == (32, 32, 3)
    np.testing.assert_array_equal(photo(3, 32), photo(3, 32))
    seen = [photo(number, 32).astype(float) for number in range(12)]
    gaps = [np.abs(one - other).mean() for one in seen for other in seen if one is not other]
    assert min(gaps) > 10
    assert all(20 < picture.std() < 90 for picture in seen), "neither flat nor noise at full swing"


def test_photos_of_two_classes_are_a_data_set_with_classes_that_differ_a_little(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", 7, 32)
    table = listing.read(tmp_path / "photos").table
    assert table["label"].value_counts().to_dict() == {CLASSES[0]: 4, CLASSES[1]: 3}
    pictures = np.stack([photo(number, 64).astype(float) for number in range(60)])
    rows, columns = pictures.mean((2, 3)), pictures.mean((1, 3))
    stripes = 1 - 2 * (np.arange(64) // 4 % 2)
    guessed_across = np.abs(rows @ stripes) > np.abs(columns @ stripes)
    right = float((guessed_across == (np.arange(60) % 2 == 0)).mean())
    assert 0.8 < right < 1


def test_an_even_part_keeps_classes_splits_and_pixels() -> None:
    images = tiny.packed(24)
    part = even_part(images, 12)
    assert len(part) == 12
    assert part.samples["row"].tolist() == list(range(12))
    assert set(part.samples["label"]) == set(tiny.CLASSES)
    assert len(part.rows("train")) > len(part.rows("val")) > 0
    assert part.fingerprint != images.fingerprint
    for row, name in enumerate(part.samples["id"]):
        source = images.samples.index[images.samples["id"] == name].to_numpy()
        np.testing.assert_array_equal(part.read(np.array([row])), images.read(source))
    assert even_part(images, None) is images
    assert even_part(images, 100) is images


def test_an_even_part_is_written_as_prepare_writes_a_data_set(tmp_path: Path) -> None:
    part = even_part(tiny.packed(24), 9)
    (tmp_path / "settings.json").write_text("{}", encoding="utf-8")
    head.write_prepared(tmp_path / "prepared", part, tmp_path / "settings.json")
    opened = PackedImages.open(tmp_path / "prepared")
    np.testing.assert_array_equal(opened.shards[0], part.shards[0])
    assert opened.samples["id"].tolist() == part.samples["id"].tolist()


def test_a_phase_of_a_bench_is_that_of_the_params_with_what_was_asked_for(tiny_workspace: Workspace) -> None:
    assert tiny_workspace.phase("top", depth=None, epochs=7).model_dump() == {
        **tiny_workspace.params.unfreeze.phases["top"].model_dump(), "epochs": 7,
    }  # fmt: skip
    for name in ("mid", "none"):
        with pytest.raises(ParamsError, match=f"'{name}' is no phase that starts from the head; .* these do: top"):
            tiny_workspace.phase(name)


def test_files_become_batches_as_every_common_tool_makes_them(tiny_workspace: Workspace) -> None:
    rows = tiny_workspace.images.rows("train")
    spec, labels = tiny_workspace.spec, tiny_workspace.images.labels(rows)
    images = ImageFiles(tiny_workspace.files(rows), labels, spec)
    (seen, targets), *_ = loader(images, batch_size=64, workers=0, train=False)
    assert seen.shape == (len(rows), 3, spec.input_px, spec.input_px)
    assert targets.tolist() == labels.tolist()
    own = Views(tiny_workspace.images, spec, 0, tiny_workspace.augment).plain(rows)
    assert float((seen - own).abs().mean()) < 0.02, "what Thaw shows the network, but for the rounding of the resizing"
    mirrored = ImageFiles(tiny_workspace.files(rows), labels, spec, flip="horizontal")
    torch.manual_seed(0)
    drawn = torch.stack([mirrored[row][0] for row in range(len(rows))])
    turned = [torch.equal(one, other.flip(2)) for one, other in zip(drawn, seen, strict=True)]
    assert 0 < sum(turned) < len(rows)
    assert all(turn or torch.equal(*pair) for turn, *pair in zip(turned, drawn, seen, strict=True))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_plain_loop_trains_what_is_above_the_cut_and_nothing_below_in_either_layout(
    tiny_workspace: Workspace, memory_format: torch.memory_format
) -> None:
    loop = phase.network(tiny_workspace, tiny_workspace.phase("top"), 3, memory_format, fused=False)
    frozen, trained = ([value.clone() for value in part.parameters()] for part in (loop.frozen, loop.trained))
    assert all(value.is_contiguous(memory_format=memory_format) for value in trained if value.ndim == 4)
    batch = torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 2, 0])
    accuracy = loop.epoch([batch, batch], [batch])
    assert 0 <= accuracy <= 1
    assert all(torch.equal(before, after) for before, after in zip(frozen, loop.frozen.parameters(), strict=True))
    assert not any(torch.equal(before, after) for before, after in zip(trained, loop.trained.parameters(), strict=True))


def test_a_plain_loop_takes_the_steps_of_textbook_code() -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Linear(6, 3), nn.Linear(6, 3)
    theirs.load_state_dict(ours.state_dict())
    batches = [(torch.rand(4, 6), torch.tensor([0, 1, 2, 0])) for _ in range(3)]
    loop = Loop(_Tuple(), ours, torch.optim.SGD(ours.parameters(), 0.1), nn.Module.train, torch.contiguous_format)
    loop.train(batches)
    optimizer = torch.optim.SGD(theirs.parameters(), 0.1)
    for images, labels in batches:
        optimizer.zero_grad()
        nn.CrossEntropyLoss()(theirs(images), labels).backward()
        optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight)


class _Tuple(nn.Module):
    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (images,)


def test_the_phase_bench_measures_three_sides_of_a_tiny_phase(tiny_workspace: Workspace) -> None:
    facts = phase.measure(tiny_workspace, tiny_workspace.phase("top", epochs=1), num_rounds=2, workers=0)
    json.dumps(facts)
    assert facts["images"] == {"train": 18, "val": 6}
    assert facts["epochs_measured"] == {"thaw": 2, "default": 2, "packed": 2}
    assert set(facts["ratio"]) == {"default", "packed"}
    for entry in facts["each_round"]:
        parts = {name: spent for name, spent in entry["thaw"].items() if name != "total"}
        assert sum(parts.values()) == pytest.approx(entry["thaw"]["total"], abs=0.05)
    assert not list(scratch.folder().glob("bench-*")), "the phase ran in a folder of its own, which is gone"


def test_the_floor_of_a_tiny_phase_is_below_its_real_time(tiny_workspace: Workspace) -> None:
    facts = floor.measure(tiny_workspace, tiny_workspace.phase("top", epochs=1), num_rounds=1, num_batches=2)
    json.dumps(facts)
    assert facts["engine"] == "torch"
    assert 0 < facts["ratio_training_only"] < facts["ratio"]
    assert set(facts["each_round"][0]) == {"prefix", "step", "forward", "run"}


def test_the_floor_counts_every_batch_that_a_phase_cannot_do_without() -> None:
    params = tiny.phase(epochs=6, batch_size=32)
    assert floor.counts(params, 320, 128, num_views=4, num_answers=2) == {
        "training": {"prefix": 40, "step": 60},
        "validation": {"prefix": 8, "forward": 18},
    }
    short = tiny.phase(epochs=2, batch_size=32)
    assert floor.counts(short, 320, 128, num_views=4, num_answers=2)["training"] == {"prefix": 20, "step": 20}


def test_the_floor_is_the_best_rates_over_the_median_run() -> None:
    found = [
        {"prefix": 0.1, "step": 0.6, "forward": 0.2, "run": 60.0},
        {"prefix": 0.2, "step": 0.5, "forward": 0.3, "run": 50.0},
        {"prefix": 0.3, "step": 0.7, "forward": 0.4, "run": 90.0},
    ]
    needed = {"training": {"prefix": 40.0, "step": 60.0}, "validation": {"prefix": 8.0, "forward": 18.0}}
    facts = floor.summary(found, needed)
    assert facts["ratio_training_only"] == pytest.approx((4 + 30) / 60, abs=1e-3)
    assert facts["ratio"] == pytest.approx((4 + 30 + 0.8 + 3.6) / 60, abs=1e-3)


def test_the_prefix_bench_measures_a_tiny_network_in_three_ways() -> None:
    facts = prefix.measure("timm:test_resnet", tiny.TORCH, num_rounds=2, num_batches=1, size=2)
    json.dumps(facts)
    assert set(facts["images_per_second"]) == {"eager", "eager_channels_last", "onnxruntime"}
    assert facts["ratio"]["eager_channels_last"] == 1.0
    assert all(value < 1e-4 for value in facts["largest_difference"].values())


def test_rates_are_medians_and_ratios_are_to_eager_channels_last() -> None:
    found = [
        {"eager": eager, "eager_channels_last": 2.0 * eager, "onnxruntime": fast}
        for eager, fast in ((10.0, 50.0), (12.0, 90.0), (50.0, 80.0))
    ]
    facts = prefix.summary(found)
    assert facts["images_per_second"] == {"eager": 12.0, "eager_channels_last": 24.0, "onnxruntime": 80.0}
    assert facts["ratio"] == {"eager": 0.5, "eager_channels_last": 1.0, "onnxruntime": 3.33}
    assert prefix.difference(np.array([1.0, 2.5]), np.array([1.0, 2.0])) == 0.25
    assert math.isnan(prefix.difference(np.array([math.nan, 2.0]), np.array([1.0, 2.0])))


def test_pictures_are_normalised_for_the_network_and_channels_last() -> None:
    spec = tiny.backbone(input_px=48).spec
    seen = prefix.pictures(spec, 3)
    assert seen.shape == (3, 3, 48, 48)
    assert seen.is_contiguous(memory_format=torch.channels_last)
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (spec.mean, spec.std))
    pixels = ((seen[1] * std + mean) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(pixels, photo(1, 48))


def test_the_size_of_an_installation_counts_every_file_but_those_of_the_installers(tmp_path: Path) -> None:
    packages = install.site_packages(tmp_path)
    for name, size in (
        ("numpy/core/a.so", 3_000_000),
        ("six.py", 500_000),
        ("pip/b.py", 7),
        ("pip-23.2.dist-info/c", 9),
    ):
        (packages / name).parent.mkdir(parents=True, exist_ok=True)
        (packages / name).write_bytes(bytes(size))
    assert install.size_mb(packages) == 3.5
    assert packages.relative_to(tmp_path).as_posix() == f"lib/python3.{sys.version_info[1]}/site-packages"
