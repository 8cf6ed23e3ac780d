"""Run the frozen prefix as what it is: inference, in the fastest engine that agrees with torch.

On a processor ONNX Runtime computes the traced prefix several times faster than torch in eager mode. An engine is
compared with eager float32 on real images before it is used, in what it gives and in how fast; one that disagrees is
not used at all. What was found is kept, so that the same prefix meets the same engine on this machine for good.
"""

import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import timm
import torch
import torchvision
from torch import Tensor, nn

from thaw.activations.session import Activations, Session
from thaw.config.schema import ComputeParams
from thaw.errors import BackboneError, first_line
from thaw.pipeline import artifacts, scratch
from thaw.pipeline.machine import processor, usable_cores

# Largest difference to eager float32 that is accepted, as a fraction of the activation's largest magnitude.
TOLERANCE = 1e-4
# Torch takes the place of a faster engine's only if it beats it clearly: a close race would be decided by chance, and
# another engine means other last digits.
_CLEARLY = 1.25
# Our code that activations depend on; named, not imported, since not every network needs all of it.
_COMPUTING = (
    "activations/session.py", "networks/blocks.py", "networks/build.py", "networks/crossing.py", "networks/cut.py",
    "networks/input_layer.py", "networks/onnx/layers.py", "networks/onnx/network.py", "networks/onnx/runtime.py",
    "networks/pooling.py", "networks/taps.py",
)  # fmt: skip
_MAX_ROUNDS = 5
_PROBE_S = 0.5

Runner = Callable[[Tensor], Activations]


class Engine:
    """A prefix ready to run: maps images [images, channels, height, width] to arrays [images, ...], float32."""

    def __init__(self, prefix: nn.Module, sample: Tensor, *, key: str, compute: ComputeParams) -> None:
        """Choose the engine on `sample`, a batch of real images; `key` names the prefix in the scratch folder.

        Raises: BackboneError if ONNX Runtime was asked for by name and cannot run the prefix or disagrees.
        """
        self._device = device_of(compute)
        self._machine = machine_of(compute)
        self._prefix = prefix.to(self._device)
        key = artifacts.digest([key, self.made_by])
        self._runner: Runner = self._eager
        self.name = "torch"
        self.note = ""
        self.rates: dict[str, float] = {}
        """Images a second of each engine that was probed."""
        if compute.frozen_engine == "torch" or not _has_work(prefix):
            return
        if compute.frozen_engine == "onnxruntime":
            self._take_by_name(sample, key, compute)
            return
        self._take_fastest(sample, key, compute)

    def __call__(self, images: Tensor) -> Activations:
        """Return the boundary activation of a batch, one float32 array a boundary tensor."""
        return self._runner(images)

    @property
    def made_by(self) -> list[str]:
        """What turns weights and images into activations beside the weights: our code and the libraries'."""
        versions = [library.__version__ for library in (torch, torchvision, timm, onnxruntime)]
        return [
            *versions,
            version("onnx2pytorch"),
            *(artifacts.sha256_of(Path(__file__).parents[1] / name) for name in _COMPUTING),
        ]

    @property
    def identity(self) -> list[str]:
        """What the last digits of activations depend on beside weights, images, code and libraries."""
        return [self.name, *self._machine]

    def __str__(self) -> str:
        rates = ", ".join(f"{name} {rate:.0f}" for name, rate in self.rates.items())
        return self.name + (f" (images/s: {rates})" if rates else "")

    def release(self) -> None:
        """Give back the memory that the engine works in; the next call takes it again."""
        if isinstance(self._runner, Session):
            self._runner.release()

    @torch.inference_mode()
    def _eager(self, images: Tensor) -> Activations:
        boundary = self._prefix(images.to(self._device))
        return [value.float().cpu().numpy() for value in boundary]

    def _take_by_name(self, sample: Tensor, key: str, compute: ComputeParams) -> None:
        try:
            session = Session(self._prefix, sample, key=key, threads=compute.threads)
            _require_agreement(session(sample), self._eager(sample))
        except Exception as error:
            raise BackboneError(
                f"ONNX Runtime cannot run this prefix: {first_line(error)}; set compute.frozen_engine to auto"
            ) from error
        self._runner, self.name = session, "onnxruntime"

    def _take_fastest(self, sample: Tensor, key: str, compute: ComputeParams) -> None:
        """Take the engine that was found fastest before; probe if none was, or if that one no longer works.

        It was found on a machine, and on images: both are in the name of the file that it is kept in.
        """
        images = artifacts.sha256_of_bytes(sample.contiguous().numpy().tobytes())
        found = scratch.folder() / "engines" / f"{artifacts.digest([key, images, self._machine, os.cpu_count()])}.json"
        candidates = self._candidates(sample, key, compute)
        try:
            choice = artifacts.read_json(found)
            if choice["name"] != "torch":
                self._runner = candidates[choice["name"]]()
                self._runner(sample[:1])
        except Exception:  # noqa: BLE001, whatever a kept choice, a kept file or an engine's library is broken by
            choice = self._probe(sample, candidates)
            artifacts.write_json(found, choice)
        found.touch()
        self.name, self.note, self.rates = choice["name"], choice["note"], choice["rates"]

    def _probe(self, sample: Tensor, candidates: dict[str, Callable[[], Runner]]) -> dict[str, Any]:
        """Take the fastest engine; return its name, the rate of each that was tried, and why one was refused."""
        reference = self._eager(sample)
        runners: dict[str, Runner] = {"torch": self._eager}
        seconds = {"torch": _seconds(self._eager, sample)}
        notes = []
        for name, make in candidates.items():
            try:
                runners[name] = make()
                _require_agreement(runners[name](sample), reference)
                seconds[name] = _seconds(runners[name], sample)
            except Exception as error:  # noqa: BLE001, an exporter raises what an operator it does not know makes it
                notes.append(f"{name} was not used: {first_line(error)}")
        fastest = min(seconds, key=lambda name: seconds[name] * (_CLEARLY if name == "torch" else 1))
        self._runner = runners[fastest]
        rates = {name: round(len(sample) / spent, 1) for name, spent in seconds.items()}
        return {"name": fastest, "note": "; ".join(notes), "rates": rates}

    def _candidates(self, sample: Tensor, key: str, compute: ComputeParams) -> dict[str, Callable[[], Runner]]:
        """Return what may be faster than eager torch on this device, by name."""
        if self._device.type == "cpu":
            return {"onnxruntime": lambda: Session(self._prefix, sample, key=key, threads=compute.threads)}
        if self._device.type == "cuda":
            return {"torch autocast": self._autocast, "torch compile": self._compiled}
        return {}

    def _autocast(self) -> Runner:
        def run_half(images: Tensor) -> Activations:
            with torch.autocast(self._device.type):
                return self._eager(images)

        return run_half

    def _compiled(self) -> Runner:
        compiled = torch.compile(self._prefix, dynamic=True)

        @torch.inference_mode()
        def run_compiled(images: Tensor) -> Activations:
            return [value.float().cpu().numpy() for value in compiled(images.to(self._device))]

        return run_compiled


def device_of(compute: ComputeParams) -> torch.device:
    """Return the device to compute on. Raises: BackboneError if the one asked for is not there."""
    if compute.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(compute.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BackboneError(f"compute.device is {compute.device}, but torch sees no CUDA device; set it to auto or cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BackboneError(f"compute.device is {compute.device}; torch sees {torch.cuda.device_count()} CUDA devices")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise BackboneError("compute.device is mps, but torch sees no Apple GPU; set it to auto or cpu")
    return device


def machine_of(compute: ComputeParams) -> list[str]:
    """Return what the last digits of a result depend on here: the device, the kernels chosen for it, the threads.

    Kernels split their sums by the instructions that the processor has and by the number of threads.
    """
    device = device_of(compute)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    processor = [platform.machine(), torch.backends.cpu.get_cpu_capability()]
    threads = compute.threads or torch.get_num_threads()
    return [device.type, name, *processor, f"{threads} threads", torch.get_float32_matmul_precision()]


def use_threads(compute: ComputeParams) -> int:
    """Set torch's threads as the params ask and return their number; null takes every core we may use."""
    threads = compute.threads or usable_cores()
    torch.set_num_threads(threads)
    return threads


def computed_on(compute: ComputeParams) -> str:
    """Return in words the hardware and threads that the last digits of a result depend on."""
    device, threads = device_of(compute), compute.threads or usable_cores()
    gpu = f"{torch.cuda.get_device_name(device)}, " if device.type == "cuda" else "Apple GPU, " * (device.type == "mps")
    instructions = torch.backends.cpu.get_cpu_capability()
    return f"{gpu}{processor()} ({instructions}), {threads} thread{'s' * (threads > 1)}"


def _has_work(prefix: nn.Module) -> bool:
    return next(prefix.parameters(), None) is not None


def _require_agreement(ours: Activations, reference: Activations) -> None:
    """Raises: BackboneError with the figure if an engine's answer is not that of eager float32."""
    difference = 0.0
    for value, expected in zip(ours, reference, strict=True):
        if value.shape != expected.shape:
            raise BackboneError(f"its result has shape {value.shape}; torch gives {expected.shape}")
        scale = max(float(np.abs(expected).max()), 1e-12)
        with np.errstate(invalid="ignore"):
            difference = float(np.maximum(difference, np.abs(value - expected).max() / scale))  # NaN stays NaN
    if not difference <= TOLERANCE:  # NaN counts as disagreement
        raise BackboneError(
            f"it differs from torch by {difference:.1e} of the activation's scale; {TOLERANCE:.0e} is allowed"
        )


def _seconds(runner: Runner, sample: Tensor) -> float:
    """Return the median time of a few runs, one if it is slow; another has gone before."""
    spent: list[float] = []
    while sum(spent) < _PROBE_S and len(spent) < _MAX_ROUNDS:
        started = time.perf_counter()
        runner(sample)
        spent.append(time.perf_counter() - started)
    return float(np.median(spent))
