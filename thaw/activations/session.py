"""ONNX Runtime: export a traced prefix once, keep the file, and run it on batches of any size."""

import gc
import logging
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from thaw.errors import ArtifactError, BackboneError, RunError, ThawError, first_line, is_of_the_machine
from thaw.networks.onnx import runtime
from thaw.networks.onnx.runtime import open_session
from thaw.pipeline import artifacts, scratch
from thaw.pipeline.machine import process_context

_FILE = "prefix.onnx"
_EXPORT_LIMIT_S = 600
# Images in one run: ONNX Runtime is no faster on more, an image's result does not depend on its company, and the memory
# that a run works in grows with them.
_AT_ONCE = 8

Activations = list[NDArray[np.float32]]


class Session:
    """A prefix in ONNX Runtime: maps images [images, channels, height, width] to arrays [images, ...], float32."""

    def __init__(self, prefix: nn.Module, sample: Tensor, *, key: str, threads: int | None) -> None:
        """Export the prefix, unless the scratch folder has it under `key`.

        Raises: BackboneError if it cannot be exported, RunError if the machine did not let it.
        """
        self._graph = _exported(prefix, sample, key)
        self._threads = threads
        self._session: onnxruntime.InferenceSession | None = None

    def __call__(self, images: Tensor) -> Activations:
        """Return the boundary activation of a batch, one array a boundary tensor."""
        if self._session is None:
            self._session = open_session(self._graph, self._threads)
        name = self._session.get_inputs()[0].name
        array = images.contiguous().numpy()
        runs = [
            self._session.run(None, {name: array[start : start + _AT_ONCE]}) for start in range(0, len(array), _AT_ONCE)
        ]
        return [np.concatenate(parts).astype(np.float32, copy=False) for parts in zip(*runs, strict=True)]

    def release(self) -> None:
        """Give back the memory that the session works in, hundreds of MiB; the next call takes it again."""
        self._session = None


def _exported(prefix: nn.Module, sample: Tensor, key: str) -> Path:
    """Return the ONNX file of a prefix from the scratch folder, exporting it if it is not there whole."""
    folder = scratch.folder() / "engines" / key
    with artifacts.one_at_a_time(folder):
        try:
            artifacts.verify(folder)
        except ArtifactError:
            with artifacts.new_folder(folder) as partial:
                _export(prefix, sample[:2].contiguous(), partial / _FILE)
        folder.touch()  # the time of last use decides when it is forgotten
    return folder / _FILE


def _export(prefix: nn.Module, images: Tensor, path: Path) -> None:
    """Write a prefix as ONNX, in a child process: the exporter leaves hundreds of MiB behind in the one it runs in.

    Tensors that are too large for one file lie beside it. Raises: BackboneError with the exporter's reason, RunError
    where the reason is the machine's, so that it may go through the next time.
    """
    context = process_context()
    answers, answer = context.Pipe(duplex=False)
    child = context.Process(target=_export_here, args=(prefix, images, path, answer), daemon=True)
    child.start()
    answer.close()
    kind: type[ThawError] | None = RunError
    try:
        kind, reason = answers.recv() if answers.poll(_EXPORT_LIMIT_S) else (kind, f"no answer in {_EXPORT_LIMIT_S} s")
    except EOFError:
        reason = "the exporter was killed"
    child.kill()
    child.join()
    if kind is not None:
        raise kind(reason)


def _export_here(prefix: nn.Module, images: Tensor, path: Path, answer: Connection) -> None:
    # The parent's threads did not come along. A session of its that is garbage by now would wait for its own when
    # it is collected: nothing that came along is.
    gc.freeze()
    torch.set_num_threads(1)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                prefix,
                (images,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
                verbose=False,
            )
            size = sum(value.nbytes for value in prefix.state_dict().values())
            program.save(str(path), external_data=size > runtime.LARGEST_BYTES)
    except Exception as error:  # noqa: BLE001, it raises what an operator it does not know makes it raise
        answer.send((RunError if is_of_the_machine(error) else BackboneError, first_line(error)))
    else:
        answer.send((None, ""))
