"""Run the frozen prefix as what it is: inference, in an engine that a rule names and torch agrees with.

On a processor ONNX Runtime computes the traced prefix several times faster than torch in eager mode, but has to export
it first. Another engine means other last digits, so no clock decides between them: the number of images does. What
ONNX Runtime cannot run, or where it differs from eager float32 on real images, runs in torch, and a line says why. A
failure that is the machine's, such as a full disk, ends the stage: it must not decide a result.
"""

import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnxruntime
import timm
import torch
import torchvision
from torch import Tensor, nn

from thaw.activations.session import Activations, Session
from thaw.config.schema import ComputeParams
from thaw.errors import BackboneError, RunError, first_line, is_of_the_machine
from thaw.pipeline import artifacts
from thaw.pipeline.machine import processor, usable_cores

# Largest difference to eager float32 that is accepted, as a fraction of the activation's largest magnitude.
TOLERANCE = 1e-4
# Images from which `auto` exports. An export takes 5 to 15 s, a pass of an image through a network of the size of
# EfficientNet-Lite0 or ResNet-50 about 0.02 s less than in torch, and each image goes through a few times.
MANY_IMAGES = 300
# Our code that activations depend on; named, not imported, since not every network needs all of it.
_COMPUTING = (
    "activations/exported.py", "activations/session.py", "networks/blocks.py", "networks/build.py",
    "networks/crossing.py", "networks/cut.py", "networks/input_layer.py", "networks/onnx/layers.py",
    "networks/onnx/network.py", "networks/onnx/runtime.py", "networks/pooling.py", "networks/taps.py",
)  # fmt: skip
Runner = Callable[[Tensor], Activations]


class Engine:
    """A prefix ready to run: maps images [images, channels, height, width] to arrays [images, ...], float32."""

    def __init__(self, prefix: nn.Module, sample: Tensor, *, key: str, compute: ComputeParams, num_images: int) -> None:
        """Take the engine that `compute.frozen_engine` asks for; `key` names the prefix in the scratch folder.

        `sample` is a batch of real images, on which the engine is compared with torch; `num_images` is how many
        different ones will go through. Raises: BackboneError if ONNX Runtime was asked for by name and cannot run the
        prefix or disagrees, RunError if it could not be tried for a reason that is the machine's.
        """
        self._device = device_of(compute)
        self._machine = machine_of(compute)
        self._prefix = prefix.to(self._device)
        self._runner: Runner = self._eager
        self.name = "torch"
        if not _has_work(prefix) or not self._wants_export(compute, num_images):
            return
        try:
            session = Session(self._prefix, sample, key=key, made_by=self.made_by, threads=compute.threads)
            _require_agreement(session(sample), self._eager(sample))
        except Exception as error:  # noqa: BLE001, an exporter raises what an operator it does not know makes it raise
            self._refuse(error, compute)
        else:
            self._runner, self.name = session, "onnxruntime"

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

    def release(self) -> None:
        """Give back the memory that the engine works in; the next call takes it again."""
        if isinstance(self._runner, Session):
            self._runner.release()

    @torch.inference_mode()
    def _eager(self, images: Tensor) -> Activations:
        boundary = self._prefix(images.to(self._device))
        return [value.float().cpu().numpy() for value in boundary]

    def _wants_export(self, compute: ComputeParams, num_images: int) -> bool:
        if compute.frozen_engine == "auto":
            return self._device.type == "cpu" and num_images >= MANY_IMAGES
        return compute.frozen_engine == "onnxruntime"

    def _refuse(self, error: Exception, compute: ComputeParams) -> None:
        """Say why torch runs the prefix. Raises: what `error` means where that is not for a rule to decide."""
        reason = first_line(error)
        if is_of_the_machine(error):
            raise RunError(
                f"ONNX Runtime could not be tried: {reason}; mend that and run again, or set compute.frozen_engine to "
                "torch, which gives other last digits"
            ) from error
        if compute.frozen_engine == "onnxruntime":
            raise BackboneError(
                f"ONNX Runtime cannot run this prefix: {reason}; set compute.frozen_engine to auto"
            ) from error
        print(f"the frozen part runs in torch, since ONNX Runtime cannot take its place: {reason}", flush=True)


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
