"""ONNX Runtime: run the file of a prefix on batches of any size."""

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from torch import Tensor, nn

from thaw.activations.exported import prefix_file
from thaw.networks.onnx.runtime import open_session

# Images in one run: ONNX Runtime is no faster on more, an image's result does not depend on its company, and the memory
# that a run works in grows with them.
_AT_ONCE = 8

Activations = list[NDArray[np.float32]]


class Session:
    """A prefix in ONNX Runtime: maps images [images, channels, height, width] to arrays [images, ...], float32."""

    def __init__(self, prefix: nn.Module, sample: Tensor, *, key: str, made_by: list[str], threads: int | None) -> None:
        """Take the prefix's file, which `key` and `made_by` name; see exported.py.

        Raises: BackboneError if it cannot be exported, RunError if the machine did not let it.
        """
        self._graph = prefix_file(prefix, sample, key=key, made_by=made_by)
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
