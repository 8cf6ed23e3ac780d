"""Engines: ONNX Runtime where it agrees with torch, torch where it does not, and a line that says so."""

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests import tiny
from thaw.activations import engine as engines
from thaw.activations.engine import Engine, device_of, use_threads
from thaw.activations.session import Session
from thaw.config.schema import ComputeParams
from thaw.errors import BackboneError
from thaw.networks.onnx import runtime
from thaw.pipeline import code

pytestmark = pytest.mark.usefixtures("scratch")


class Small(nn.Module):
    """A prefix that is quick to export, with two boundary tensors."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8)

    def forward(self, batch: Tensor) -> tuple[Tensor, ...]:
        first = self.norm(self.conv(batch)).relu()
        return first, first.mean((2, 3))


PREFIX = Small().eval()


def images(num_images: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(num_images, 3, 32, 32, generator=generator) - 0.5).to(memory_format=torch.channels_last)


def engine(compute: ComputeParams, prefix: nn.Module = PREFIX, key: str = "key") -> Engine:
    return Engine(prefix, images(), key=key, compute=compute)


class Unexportable(nn.Module):
    """A prefix that no exporter can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, batch: Tensor) -> tuple[Tensor, ...]:
        return (batch * (2 if float(batch.sum()) < 1e9 else self.scale),)


def test_onnx_runtime_agrees_with_eager_on_any_number_of_images() -> None:
    prefix = tiny.backbone("test_efficientnet").split(3)[0]
    fast, eager = engine(tiny.BY_NAME, prefix), engine(tiny.TORCH, prefix)
    assert (fast.name, fast.note, eager.name) == ("onnxruntime", "", "torch")
    for num_images in (1, 2, 7):
        for ours, reference in zip(fast(images(num_images)), eager(images(num_images)), strict=True):
            assert ours.dtype == np.float32
            assert ours.shape == reference.shape
            np.testing.assert_allclose(ours, reference, atol=1e-4 * float(np.abs(reference).max()))


@pytest.fixture
def race(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Return how long each engine takes in a probe, to be set by the test."""
    seconds = {"torch": 1.0, "onnxruntime": 0.5}

    def timed(runner: engines.Runner, _sample: Tensor) -> float:
        return seconds["onnxruntime" if isinstance(runner, Session) else "torch"]

    monkeypatch.setattr(engines, "_seconds", timed)
    return seconds


@pytest.mark.parametrize(("onnx_s", "expected"), [(0.5, "onnxruntime"), (1.2, "onnxruntime"), (1.3, "torch")])
def test_the_faster_engine_is_taken_unless_it_is_close(race: dict[str, float], onnx_s: float, expected: str) -> None:
    race["onnxruntime"] = onnx_s
    chosen = engine(tiny.AUTO)
    assert chosen.name == expected
    assert chosen.rates == {"torch": 4.0, "onnxruntime": round(4 / onnx_s, 1)}
    assert f"torch {chosen.rates['torch']:.0f}" in str(chosen)


def test_engines_are_probed_once(race: dict[str, float], scratch: Path) -> None:
    assert engine(tiny.AUTO).name == "onnxruntime"
    race["onnxruntime"] = 9.0
    assert engine(tiny.AUTO).name == "onnxruntime"
    assert engine(tiny.AUTO, key="another").name == "torch"
    assert engine(tiny.AUTO.model_copy(update={"threads": 2})).name == "torch"
    found = next(path for path in (scratch / "engines").glob("*.json") if '"onnxruntime": 8' in path.read_text())
    found.write_text("not json")
    assert engine(tiny.AUTO).name == "torch"


def test_a_kept_choice_that_no_longer_works_is_made_anew(race: dict[str, float], scratch: Path) -> None:
    assert engine(tiny.AUTO).name == "onnxruntime"
    kept = next((scratch / "engines").glob("*.json"))
    for broken in ('{"name": "an engine of tomorrow", "note": "", "rates": {}}', '{"note": ""}', "[]"):
        kept.write_text(broken)
        assert engine(tiny.AUTO).name == "onnxruntime"
        assert '"torch": 4' in kept.read_text()


def test_an_engine_that_no_longer_opens_gives_way_to_torch_with_a_note(
    race: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert engine(tiny.AUTO).name == "onnxruntime"

    def refuse(_path: Path, _threads: int | None) -> None:
        raise RuntimeError("this library is another one now")

    monkeypatch.setattr("thaw.activations.session.open_session", refuse)
    fallen = engine(tiny.AUTO)
    assert fallen.name == "torch"
    assert fallen.note == "onnxruntime was not used: this library is another one now"
    assert fallen(images())[0].shape == (4, 8, 15, 15)


def test_the_rate_of_an_engine_is_measured() -> None:
    assert all(0 < rate < 1e6 for rate in engine(tiny.AUTO).rates.values())


def test_a_released_engine_opens_again_and_gives_the_same() -> None:
    released = engine(tiny.BY_NAME)
    before = released(images())
    released.release()
    for ours, reference in zip(released(images()), before, strict=True):
        np.testing.assert_array_equal(ours, reference)
    assert released.name == "onnxruntime"


def test_an_exported_prefix_is_used_again(scratch: Path) -> None:
    engine(tiny.BY_NAME)
    path = next((scratch / "engines").rglob("*.onnx"))
    before = path.stat().st_mtime_ns
    assert engine(tiny.BY_NAME).name == "onnxruntime"
    assert path.stat().st_mtime_ns == before


def test_tensors_too_large_for_one_onnx_file_lie_beside_it(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = engine(tiny.TORCH)(images())
    monkeypatch.setattr(runtime, "LARGEST_BYTES", 100)
    large = engine(tiny.BY_NAME)
    for ours, reference in zip(large(images()), expected, strict=True):
        np.testing.assert_allclose(ours, reference, atol=1e-4)
    beside = next((scratch / "engines").rglob("*.onnx.data"))
    assert beside.stat().st_size > 100
    beside.write_bytes(bytes(beside.stat().st_size))
    for ours, reference in zip(engine(tiny.BY_NAME)(images()), expected, strict=True):
        np.testing.assert_allclose(ours, reference, atol=1e-4)


def test_an_engine_is_compared_anew_on_other_images(race: dict[str, float]) -> None:
    assert engine(tiny.AUTO).name == "onnxruntime"
    race["onnxruntime"] = 9.0
    assert engine(tiny.AUTO).name == "onnxruntime"
    assert Engine(PREFIX, images() + 1, key="key", compute=tiny.AUTO).name == "torch"


@pytest.mark.parametrize("damage", [b"not a model", b"half"])
def test_a_damaged_onnx_file_is_exported_again_at_once(scratch: Path, damage: bytes) -> None:
    expected = engine(tiny.BY_NAME)(images())
    path = next((scratch / "engines").rglob("*.onnx"))
    path.write_bytes(path.read_bytes()[:-2000] if damage == b"half" else damage)
    again = engine(tiny.BY_NAME)
    assert again.name == "onnxruntime"
    np.testing.assert_array_equal(again(images())[0], expected[0])


def test_one_flipped_bit_in_an_onnx_file_is_noticed(scratch: Path) -> None:
    expected = engine(tiny.BY_NAME)(images())
    path = next((scratch / "engines").rglob("*.onnx"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    np.testing.assert_array_equal(engine(tiny.BY_NAME)(images())[0], expected[0])


def test_a_prefix_that_cannot_be_exported_runs_in_torch_with_a_note() -> None:
    fallen_back = engine(tiny.AUTO, Unexportable())
    assert fallen_back.name == "torch"
    assert fallen_back.note.startswith("onnxruntime was not used: ")
    assert "\n" not in fallen_back.note
    np.testing.assert_allclose(fallen_back(images())[0], images().numpy() * 2)


def test_a_prefix_that_cannot_be_exported_is_an_error_where_onnx_runtime_was_asked_for_by_name() -> None:
    with pytest.raises(
        BackboneError, match=r"ONNX Runtime cannot run this prefix: .+; set compute.frozen_engine to auto"
    ):
        engine(tiny.BY_NAME, Unexportable())


class Wavering(nn.Module):
    """A prefix whose answers in torch are not those that were exported."""

    def __init__(self, answer: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.answer = answer

    def forward(self, batch: Tensor) -> tuple[Tensor, ...]:
        exporting = torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()
        return (batch * self.scale * (1.0 if exporting else self.answer),)


@pytest.mark.parametrize("answer", [1.001, float("nan"), float("inf")])
def test_a_prefix_on_which_the_engines_disagree_runs_in_torch_with_a_note(answer: float) -> None:
    disagreeing = engine(tiny.AUTO, Wavering(answer), key=str(answer))
    assert disagreeing.name == "torch"
    assert "it differs from torch by" in disagreeing.note
    with pytest.raises(BackboneError, match=r"it differs from torch by .* of the activation's scale; 1e-04 is allowed"):
        engine(tiny.BY_NAME, Wavering(answer), key=str(answer))


def test_a_prefix_on_which_the_engines_agree_closely_enough_runs_in_onnx_runtime() -> None:
    assert engine(tiny.BY_NAME, Wavering(1.00001)).name == "onnxruntime"


def test_a_network_unfrozen_to_its_input_needs_no_engine(scratch: Path) -> None:
    identity = engine(tiny.BY_NAME, tiny.backbone().split("all")[0])
    assert (identity.name, identity.note) == ("torch", "")
    np.testing.assert_array_equal(identity(images())[0], images().numpy())
    assert not (scratch / "engines").exists()


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda", "compute.device is cuda, but torch sees no CUDA device; set it to auto or cpu"),
        ("cuda:3", "compute.device is cuda:3, but torch sees no CUDA device; set it to auto or cpu"),
        ("mps", "compute.device is mps, but torch sees no Apple GPU; set it to auto or cpu"),
    ],
)
def test_a_device_that_is_not_there_is_an_error(device: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(BackboneError, match=message):
        device_of(tiny.TORCH.model_copy(update={"device": device}))


def test_a_gpu_beyond_the_last_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_of(tiny.TORCH.model_copy(update={"device": "cuda:1"})) == torch.device("cuda:1")
    with pytest.raises(BackboneError, match=r"compute.device is cuda:2; torch sees 2 CUDA devices"):
        device_of(tiny.TORCH.model_copy(update={"device": "cuda:2"}))


def test_threads_are_set_as_asked() -> None:
    before = torch.get_num_threads()
    try:
        assert use_threads(tiny.TORCH.model_copy(update={"threads": 2})) == torch.get_num_threads() == 2
        assert use_threads(tiny.TORCH.model_copy(update={"threads": None})) == torch.get_num_threads() >= 1
    finally:
        torch.set_num_threads(before)


def test_an_engine_that_is_garbage_when_the_exporter_forks_does_not_hang_it(monkeypatch: pytest.MonkeyPatch) -> None:
    export = torch.onnx.export

    def collecting(*given: Any, **named: Any) -> Any:
        gc.collect()  # as happens by itself in a long export
        return export(*given, **named)

    monkeypatch.setattr(torch.onnx, "export", collecting)
    monkeypatch.setattr("thaw.activations.session._EXPORT_LIMIT_S", 60)
    threaded = tiny.BY_NAME.model_copy(update={"threads": 2})
    first = engine(threaded)
    first(images())
    ring: list[Any] = [first]
    ring.append(ring)  # only a collection frees it
    gc.disable()
    try:
        del ring, first
        assert engine(threaded, Small().eval(), key="another").name == "onnxruntime"
    finally:
        gc.enable()


def test_every_file_that_computes_activations_is_part_of_their_keys() -> None:
    """What builds, cuts and runs a network, and what these import of our code for it."""
    modules, pending = code.running(), {"thaw.activations.session", "thaw.networks.cut", "thaw.networks.build"}
    pending.add("thaw.networks.onnx.network")
    found: set[str] = set()
    while pending:
        name = pending.pop()
        found.add(name)
        inside = {other for other in modules.imports(name) if other.startswith(("thaw.networks", "thaw.activations"))}
        pending |= {other for other in inside if modules.modules[other].name != "__init__.py"} - found
    described = {"thaw.networks.spec"}  # what a network is, which is part of the keys by its values
    refusing = {"thaw.networks.trust", "thaw.networks.values"}  # code and weights that they let through are unchanged
    files = {f"{name.removeprefix('thaw.').replace('.', '/')}.py" for name in found - described - refusing}
    assert files == set(engines._COMPUTING)
