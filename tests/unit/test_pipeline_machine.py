"""Facts of this machine, and what takes their place where the system has no such call."""

import os
import platform
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny
from tests.tiny import BY_NAME
from thaw.activations.prefix import Prefix, Views
from thaw.config.schema import PrepareParams
from thaw.data.ingest import ingest
from thaw.pipeline import machine


@pytest.fixture
def without_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start processes as macOS does: in a fresh interpreter."""
    monkeypatch.setattr(machine, "can_fork", lambda: False)


def test_the_usable_cores_are_those_that_nproc_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    done = subprocess.run(["nproc"], env=environment, capture_output=True, text=True, check=True)
    assert machine.usable_cores() == int(done.stdout)
    monkeypatch.delattr(os, "sched_getaffinity")
    assert machine.usable_cores() == os.cpu_count()


def test_the_processor_has_a_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine.processor.cache_clear()
    assert machine.processor() in Path("/proc/cpuinfo").read_text(encoding="utf-8") + platform.machine()
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nBogoMIPS\t: 50.00\n")  # arm64 Linux
    for path in (tmp_path / "cpuinfo", tmp_path / "none"):
        machine.processor.cache_clear()
        monkeypatch.setattr(machine, "_CPUINFO", path)
        assert machine.processor() == platform.machine()
    machine.processor.cache_clear()


@pytest.mark.usefixtures("without_fork")
def test_images_are_decoded_alike_in_processes_that_are_not_forked(tmp_path: Path) -> None:
    names = [f"{number:02d}.png" for number in range(40)]
    for name, square in zip(names, tiny.pixels(40), strict=True):
        Image.fromarray(square).save(tmp_path / name)
    settings = PrepareParams(
        size_px=32, fit="crop", test_fraction=0.2, val_fraction=0.2, max_rejected=0.0, max_megapixels=1.0, background=0
    )
    here, there = ([*ingest(tmp_path, names, settings, workers=workers)] for workers in (0, 2))
    assert [one.sha256 for one in there] == [one.sha256 for one in here]
    for ours, expected in zip(there, here, strict=True):
        np.testing.assert_array_equal(ours.pixels, expected.pixels)


@pytest.mark.usefixtures("without_fork", "scratch")
def test_a_prefix_is_exported_alike_in_a_process_that_is_not_forked() -> None:
    network = tiny.backbone()
    views = Views(tiny.packed(12), network.spec, 3, tiny.augment())
    prefix = Prefix(views, network.split(2)[0], identity="weights", compute=BY_NAME)
    eager = Prefix(views, network.split(2)[0], identity="weights", compute=tiny.TORCH)
    assert prefix.engine.name == "onnxruntime"
    rows = np.arange(6)
    for ours, expected in zip(prefix(rows, rows * 0), eager(rows, rows * 0), strict=True):
        assert torch.allclose(torch.from_numpy(ours), torch.from_numpy(expected), atol=1e-4)
