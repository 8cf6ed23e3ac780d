"""Facts of this machine, the same calls on Linux and macOS: usable cores, the processor, how to start a process."""

import multiprocessing
import os
import platform
import subprocess
import sys
from functools import cache
from multiprocessing.context import ForkContext, SpawnContext
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


def usable_cores() -> int:
    """Return how many cores this process may use; where the system cannot say (macOS), how many there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def processor() -> str:
    """Return the processor's model as it calls itself; its architecture where it has no name (arm64 Linux)."""
    if _CPUINFO.exists():
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    else:
        names = [_asked("sysctl", "-n", "machdep.cpu.brand_string")]
    return next((name for name in names if name), platform.machine())


def _asked(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=10).stdout.strip()
    except OSError:
        return ""


def can_fork() -> bool:
    """Tell whether a child may be a copy of this process: on Linux; libraries of macOS crash in such a child."""
    return sys.platform == "linux" and "fork" in multiprocessing.get_all_start_methods()


def process_context() -> ForkContext | SpawnContext:
    """Return how to start a process: a fork costs 10 ms; a fresh interpreter with numpy, which macOS needs, 300 ms."""
    return multiprocessing.get_context("fork") if can_fork() else multiprocessing.get_context("spawn")
