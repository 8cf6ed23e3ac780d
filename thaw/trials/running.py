"""One trial of a sweep: a DVC experiment in a process of its own, and the folder into which it tells its answers."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from thaw.errors import RunError
from thaw.pipeline.trial import VARIABLE
from thaw.trials.space import overrides

_WATCH_S = 0.5
_GRACE_S = 30.0
_STARTING = Lock()  # DVC writes an experiment into git's stash before it runs it: one at a time
_STARTED = "Reproducing experiment"


class StoppedError(RunError):
    """The trial was stopped before its end."""


@dataclass(frozen=True)
class Running:
    """A trial's process."""

    process: subprocess.Popen[bytes]
    log: Path
    folder: Path
    """What it has told so far."""

    @classmethod
    def start(cls, name: str, values: Mapping[str, Any], folder: Path) -> "Running":
        """Start the experiment `name` with these values of params, as far as `select`, in a copy of the workspace."""
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob("*.safetensors"):
            left.unlink()
        log = folder / "log.txt"
        settings = [word for override in overrides(values) for word in ("-S", override)]
        command = [sys.executable, "-m", "dvc", "exp", "run", "--temp", "--name", name, *settings, "select"]
        with _STARTING, log.open("wb") as file:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=os.environ | {VARIABLE: str(folder.resolve()), "PYTHONUNBUFFERED": "1"},
                start_new_session=True,  # an interrupt of the terminal reaches the sweep alone, which passes it on
            )
            while process.poll() is None and _STARTED.encode() not in log.read_bytes():
                time.sleep(_WATCH_S)
        return cls(process, log, folder)

    def wait(self, watch: Callable[[], bool]) -> None:
        """Wait for the end, and stop it as soon as `watch`, called now and then, returns True.

        Raises: StoppedError if it was stopped, RunError with the last line of its log if it failed.
        """
        try:
            while self.process.poll() is None:
                time.sleep(_WATCH_S)
                if watch():
                    self.stop()
                    raise StoppedError(f"stopped; its log is {self.log}")
        except BaseException:
            self.stop()
            raise
        if self.process.returncode:
            lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            reason = next((line for line in reversed(lines) if not line.startswith("ERROR: failed")), "no reason")
            raise RunError(f"{reason[:200]} (log: {self.log})")

    def stop(self) -> None:
        """Interrupt the experiment, so that DVC removes its copy of the workspace; kill it if it takes too long."""
        for sent, wait_s in ((signal.SIGINT, _GRACE_S), (signal.SIGTERM, _GRACE_S), (signal.SIGKILL, None)):
            if self.process.poll() is not None:
                return
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, sent)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(wait_s)
