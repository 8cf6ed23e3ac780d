"""Open a network in ONNX with ONNX Runtime on the processor. No torch: exported models are answered without it."""

from pathlib import Path

import onnxruntime

from thaw.pipeline.machine import usable_cores

LARGEST_BYTES = 3 * 2**29
"""Of the tensors within one ONNX file; more lie beside it. The file is a protobuf message, of which 2 GiB is the limit.
"""


def open_session(path: Path, threads: int | None) -> onnxruntime.InferenceSession:
    """Return a session of a file; `threads` None takes every core that this process may use."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or usable_cores()
    options.log_severity_level = 3
    # Waiting threads that spin are a gain of a few per cent on an idle machine and ruin a busy one.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
