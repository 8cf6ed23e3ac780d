"""Engines: ONNX Runtime where it agrees with torch, torch where it does not, and a line that says so."""

import errno
import gc
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests import tiny
from thaw.activations import engine as engines
from thaw.activations.engine import Engine, device_of, use_threads
from thaw.config.schema import ComputeParams
from thaw.errors import BackboneError, RunError
from thaw.networks.onnx import runtime
from thaw.pipeline import artifacts, code

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


def engine(
    compute: ComputeParams, prefix: nn.Module = PREFIX, key: str = "key", num_images: int = engines.MANY_IMAGES
) -> Engine:
    return Engine(prefix, images(), key=key, compute=compute, num_images=num_images)


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
    assert (fast.name, eager.name) == ("onnxruntime", "torch")
    for num_images in (1, 2, 7):
        for ours, reference in zip(fast(images(num_images)), eager(images(num_images)), strict=True):
            assert ours.dtype == np.float32
            assert ours.shape == reference.shape
            np.testing.assert_allclose(ours, reference, atol=1e-4 * float(np.abs(reference).max()))


@pytest.mark.parametrize(("num_images", "expected"), [(299, "torch"), (300, "onnxruntime")])
def test_the_number_of_images_decides_the_engine_and_no_clock(num_images: int, expected: str, scratch: Path) -> None:
    assert engine(tiny.AUTO, num_images=num_images).name == expected
    assert (scratch / "engines").exists() == (expected == "onnxruntime"), "what is not used is not exported"


def test_on_a_gpu_auto_is_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "device_of", lambda _: torch.device("meta"))
    assert engine(tiny.AUTO, Small()).name == "torch"


@pytest.mark.parametrize(
    "refusal",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        PermissionError(errno.EACCES, "Permission denied"),
        MemoryError("no room"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"),
        RuntimeError("bad allocation"),
    ],
    ids=["full disk", "no permission", "no memory", "torch's allocator", "the runtime's allocator"],
)
def test_a_failure_of_the_machine_ends_the_stage(refusal: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.onnx, "export", _failing(refusal))
    for compute in (tiny.AUTO, tiny.BY_NAME):
        with pytest.raises(RunError, match=r"ONNX Runtime could not be tried: the exporter says it in its own words; "):
            engine(compute)


def test_a_failure_of_the_machine_is_never_remembered_as_a_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(torch.onnx, "export", _failing(OSError(errno.ENOSPC, "No space left on device")))
        with pytest.raises(RunError, match="ONNX Runtime could not be tried"):
            engine(tiny.AUTO)
    assert engine(tiny.AUTO).name == "onnxruntime"


def _failing(reason: Exception) -> Callable[..., None]:
    """Return an exporter that fails for a reason of the machine's, as the real one wraps it."""

    def fail(*_given: Any, **_named: Any) -> None:
        raise ValueError("the exporter says it in its own words") from reason

    return fail


def test_an_exporter_that_is_killed_or_hangs_ends_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(torch.onnx, "export", lambda *_given, **_named: os._exit(1))
        with pytest.raises(RunError, match="ONNX Runtime could not be tried: the exporter was killed; mend that"):
            engine(tiny.AUTO)
    monkeypatch.setattr(torch.onnx, "export", lambda *_given, **_named: time.sleep(60))
    monkeypatch.setattr("thaw.activations.exported._EXPORT_LIMIT_S", 1)
    with pytest.raises(RunError, match="ONNX Runtime could not be tried: no answer in 1 s; mend that"):
        engine(tiny.AUTO)


def test_an_engine_that_cannot_open_the_graph_gives_way_to_torch_with_a_line_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_path: Path, _threads: int | None) -> None:
        raise RuntimeError("no kernel for this operator")

    with monkeypatch.context() as patched:
        patched.setattr("thaw.activations.session.open_session", refuse)
        fallen = engine(tiny.AUTO)
    assert fallen.name == "torch"
    assert capsys.readouterr().out == (
        "the frozen part runs in torch, since ONNX Runtime cannot take its place: no kernel for this operator\n"
    )
    assert fallen(images())[0].shape == (4, 8, 15, 15)
    assert engine(tiny.AUTO).name == "onnxruntime", "the next stage asks again"


def test_a_deleted_scratch_folder_costs_an_export_and_no_digit(scratch: Path) -> None:
    before = engine(tiny.AUTO)(images())
    artifacts.remove(scratch)
    for ours, expected in zip(engine(tiny.AUTO)(images()), before, strict=True):
        np.testing.assert_array_equal(ours, expected)


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


def test_a_prefix_that_cannot_be_exported_runs_in_torch_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    fallen_back = engine(tiny.AUTO, Unexportable())
    assert fallen_back.name == "torch"
    printed = capsys.readouterr().out
    assert printed.startswith("the frozen part runs in torch, since ONNX Runtime cannot take its place: ")
    assert printed.count("\n") == 1
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
def test_a_prefix_on_which_the_engines_disagree_runs_in_torch_with_a_line(
    answer: float, capsys: pytest.CaptureFixture[str]
) -> None:
    assert engine(tiny.AUTO, Wavering(answer), key=str(answer)).name == "torch"
    assert "it differs from torch by" in capsys.readouterr().out
    with pytest.raises(BackboneError, match=r"it differs from torch by .* of the activation's scale; 1e-04 is allowed"):
        engine(tiny.BY_NAME, Wavering(answer), key=str(answer))


def test_a_prefix_on_which_the_engines_agree_closely_enough_runs_in_onnx_runtime() -> None:
    assert engine(tiny.BY_NAME, Wavering(1.00001)).name == "onnxruntime"


def test_a_network_unfrozen_to_its_input_needs_no_engine(scratch: Path) -> None:
    identity = engine(tiny.BY_NAME, tiny.backbone().split("all")[0])
    assert identity.name == "torch"
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
    monkeypatch.setattr("thaw.activations.exported._EXPORT_LIMIT_S", 60)
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
