"""Run the frozen prefix as what it is: inference, in the fastest engine that agrees with torch.

On a processor ONNX Runtime computes the traced prefix several times faster than torch in eager mode. Its result is
compared with eager float32 on real images before it is used; an engine that disagrees is not used at all.
"""

import fcntl
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from thaw import files, run
from thaw.errors import ArtifactError, BackboneError
from thaw.params import ComputeParams

# Largest difference to eager float32 that is accepted, as a fraction of the activation's largest magnitude.
TOLERANCE = 1e-4
_FILE = "prefix.onnx"

Activations = list[NDArray[np.float32]]


class Engine:
    """A prefix ready to run: maps images [images, channels, height, width] to arrays [images, ...], float32."""

    def __init__(self, prefix: nn.Module, sample: Tensor, *, key: str, compute: ComputeParams) -> None:
        """Choose the engine on `sample`, a batch of real images; `key` names the prefix in the scratch folder.

        Raises: BackboneError if ONNX Runtime was asked for by name and cannot run the prefix or disagrees.
        """
        self._device = device_of(compute)
        self._prefix = prefix.to(self._device)
        self._threads = compute.threads
        self._graph: Path | None = None
        self._session: onnxruntime.InferenceSession | None = None
        self.name = "torch"
        self.note = ""
        wanted = compute.frozen_engine
        if wanted == "torch" or (wanted == "auto" and self._device.type != "cpu") or not _has_work(prefix):
            return
        try:
            graph = _exported(prefix, sample, key)
            session = _open_session(graph, self._threads)
            difference = self._difference(session, sample)
            if not difference <= TOLERANCE:  # NaN counts as disagreement
                raise BackboneError(
                    f"it differs from torch by {difference:.1e} of the activation's scale; {TOLERANCE:.0e} is allowed"
                )
            self._graph, self._session, self.name = graph, session, "onnxruntime"
        except Exception as error:  # the exporter raises whatever an operator it does not know makes it raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
            if wanted == "onnxruntime":
                raise BackboneError(
                    f"ONNX Runtime cannot run this prefix: {reason}; set compute.frozen_engine to auto"
                ) from error
            self.note = f"ONNX Runtime was not used: {reason}"

    def __call__(self, images: Tensor) -> Activations:
        """Return the boundary activation of a batch, one float32 array a boundary tensor."""
        if self._graph is None:
            return self._eager(images)
        if self._session is None:
            self._session = _open_session(self._graph, self._threads)
        return _run_session(self._session, images)

    def release(self) -> None:
        """Give back the memory that the engine works in, hundreds of MiB; the next call takes it again."""
        self._session = None

    @torch.inference_mode()
    def _eager(self, images: Tensor) -> Activations:
        boundary = self._prefix(images.to(self._device))
        return [value.float().cpu().numpy() for value in boundary]

    def _difference(self, session: onnxruntime.InferenceSession, images: Tensor) -> float:
        """Return the largest difference to eager as a fraction of the largest magnitude; infinite if shapes differ."""
        worst = 0.0
        for ours, reference in zip(_run_session(session, images), self._eager(images), strict=True):
            if ours.shape != reference.shape:
                return float("inf")
            scale = max(float(np.abs(reference).max()), 1e-12)
            with np.errstate(invalid="ignore"):
                worst = float(np.maximum(worst, np.abs(ours - reference).max() / scale))  # NaN stays NaN
        return worst


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


def use_threads(compute: ComputeParams) -> int:
    """Set torch's threads as the params ask and return their number; null takes every core we may use."""
    threads = compute.threads or len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    return threads


def _has_work(prefix: nn.Module) -> bool:
    return next(prefix.parameters(), None) is not None


def _exported(prefix: nn.Module, sample: Tensor, key: str) -> Path:
    """Return the ONNX file of a prefix from the scratch folder, exporting it if it is not there whole."""
    folder = run.scratch() / "engines" / files.digest([key, torch.__version__, onnxruntime.__version__])
    with one_at_a_time(folder):
        try:
            files.verify(folder)
        except ArtifactError:
            with files.new_folder(folder) as partial:
                _export(prefix, sample[:2].contiguous(), partial / _FILE)
    return folder / _FILE


def _export(prefix: nn.Module, images: Tensor, path: Path) -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program: Any = torch.onnx.export(
            prefix,
            (images,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            external_data=False,
            verbose=False,
        )
        program.save(str(path), external_data=False)


@contextmanager
def one_at_a_time(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock beside a folder of the scratch space. Raises: BlockingIOError if it is held and `wait` is off."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


def _open_session(path: Path, threads: int | None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
    options.log_severity_level = 3
    # Waiting threads that spin are a gain of a few per cent on an idle machine and ruin a busy one.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _run_session(session: onnxruntime.InferenceSession, images: Tensor) -> Activations:
    name = session.get_inputs()[0].name
    return [np.asarray(value, dtype=np.float32) for value in session.run(None, {name: images.contiguous().numpy()})]
