"""Stages that start warm: forked from a process that has imported torch and its like once. No test here.

Importing them takes two thirds of the processor time of a stage on the few images of a test. Only libraries are
imported before the fork: Thaw's own modules, the folder, the environment, the arguments and the limit of memory are the
stage's own. Where a test kills something, or starts Python with another locale or hash seed, stages start cold
(`Clone.cold`).

`python -m tests.pipeline.warm SOCKET` is the server, the file `python` that `folder` writes is what DVC finds on PATH.
"""

import atexit
import gc
import importlib
import json
import os
import resource
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

_LIBRARIES = (
    "pandas", "pyarrow", "scipy.stats", "sklearn.linear_model", "matplotlib.figure", "pydantic", "psutil",
    "rich.console", "jinja2", "PIL.Image", "torch", "torch._dynamo", "torchvision.models", "timm", "safetensors.torch",
    "onnx", "onnxscript",
)  # fmt: skip
_MESSAGE = 1 << 20  # bytes; an environment and a command line are less

# Without site-packages this starts in a hundredth of a second.
_SHIM = """#!{python} -IS
import json, os, resource, socket, sys
command = sys.argv[1:]
if command[:1] == ["-m"] and command[1].startswith("stages."):
    server = socket.socket(socket.AF_UNIX)
    server.connect({address!r})
    limit = resource.getrlimit(resource.RLIMIT_DATA)
    request = json.dumps([os.getcwd(), command[1:], dict(os.environ), limit]).encode()
    socket.send_fds(server, [request], [0, 1, 2])
    sys.exit(int(server.recv(16) or b"1"))
os.execv({python!r}, [{python!r}, *command])
"""


@cache
def folder() -> Path:
    """Return a folder with a `python` that has stages started warm, while this process lives."""
    place = Path(tempfile.mkdtemp(prefix="warm-"))
    address, shim = place / "socket", place / "python"
    shim.write_text(_SHIM.format(python=sys.executable, address=str(address)), encoding="utf-8")
    shim.chmod(0o755)
    command = [sys.executable, "-I", __file__, str(address)]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    atexit.register(_end, server, place)
    return place


def _end(server: subprocess.Popen[bytes], place: Path) -> None:
    server.communicate()  # it ends when its input does
    shutil.rmtree(place)


def _serve(address: str) -> list[str]:
    """Answer until the input closes. Returns in a fork of its own for each stage, with the stage's command."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(address)
    server.listen(64)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks below
    print("ready", flush=True)
    while True:
        ready, _, _ = select.select([server.fileno(), 0], [], [])
        if 0 in ready:
            os._exit(0)
        asked, _ = server.accept()
        if os.fork():
            asked.close()
            continue
        server.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        request, streams, _, _ = socket.recv_fds(asked, _MESSAGE, 3)
        if stage := os.fork():
            _wait(stage, asked)
        asked.close()
        return _become(streams, *json.loads(request))


def _wait(stage: int, asked: socket.socket) -> None:
    """Answer with the exit code of a stage; where nobody waits for that any more, end the stage."""
    ended = os.pidfd_open(stage)
    if asked.fileno() in select.select([asked.fileno(), ended], [], [])[0]:
        os.kill(stage, signal.SIGTERM)
    _, status = os.waitpid(stage, 0)
    with suppress(OSError):
        asked.send(str(os.waitstatus_to_exitcode(status) % 256).encode())
    os._exit(0)


def _become(
    streams: list[int], where: str, command: list[str], environment: dict[str, str], limit: list[int]
) -> list[str]:
    """Take a stage's streams, folder, environment and limit of memory."""
    resource.setrlimit(resource.RLIMIT_DATA, (limit[0], limit[1]))
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(where)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [where, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    return command


def _main() -> Any:
    for name in _LIBRARIES:
        importlib.import_module(name)
    gc.freeze()  # or else the end of each fork looks at, and so copies, all that the libraries made
    name, *arguments = _serve(sys.argv[1])
    sys.argv = ["-m", *arguments]  # as Python itself has it while it looks for the module
    return runpy.run_module(name, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()
