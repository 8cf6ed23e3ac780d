"""What only some systems have is not needed: modules are imported and commands answer with those names removed."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract import repository

# Names that macOS or other systems lack, or have with another meaning. os.fork and fcntl exist on macOS, but a library
# that does without them is simpler to trust there.
_REMOVED = """
import ctypes, importlib, mmap, multiprocessing, os, socket, subprocess, sys, warnings
import psutil  # has code of its own for each system

warnings.simplefilter("ignore")  # filelock says that it has to do without flock
for name in ("sched_getaffinity", "sched_setaffinity", "process_cpu_count", "fork", "getsid", "posix_fadvise",
             "memfd_create", "sendfile", "pidfd_open", "O_NONBLOCK", "O_DIRECT", "O_TMPFILE"):
    if hasattr(os, name):
        delattr(os, name)
for name in [name for name in dir(mmap) if name.startswith("MADV_")]:
    delattr(mmap, name)
for name in ("fcntl", "resource"):
    sys.modules[name] = None

multiprocessing.get_all_start_methods = lambda: ["spawn"]
"""


def run(script: str, *given: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *given], cwd=repository.ROOT, capture_output=True, text=True, check=False
    )


def test_every_module_is_imported_where_the_calls_of_linux_are_missing() -> None:
    names = sorted(name for name in repository.CODE.modules if name != "thaw.__main__")
    done = run(_REMOVED + "for name in sys.argv[1:]: importlib.import_module(name)\nprint(len(sys.argv) - 1)", *names)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(len(names))]


def test_a_command_answers_where_the_calls_of_linux_are_missing() -> None:
    with_them = run("from thaw.cli import app; app(['blocks'])")
    without = run(_REMOVED + "from thaw.cli import app; app(['blocks'])")
    assert without.returncode == with_them.returncode == 0, without.stderr
    assert without.stdout == with_them.stdout


def test_what_stages_use_does_its_work_where_the_calls_of_linux_are_missing(tmp_path: Path) -> None:
    script = """
from pathlib import Path
import numpy as np
from thaw import memory
from thaw.data.decoding import read_regular
from thaw.networks.onnx.runtime import open_session
from thaw.pipeline import artifacts, machine
os.environ["THAW_SCRATCH"] = "scratch"
os.chdir(sys.argv[1])
with artifacts.new_folder(Path("view")) as folder:
    np.save(folder / "a.npy", np.arange(5))
artifacts.verify(Path("view"))
array = memory.open_array(Path("view/a.npy"))
memory.drop_pages([array])
memory.keep_freed_memory()
assert read_regular(Path("view/a.npy"), 1.0)
print(array.sum(), machine.usable_cores() >= 1, machine.can_fork(), os.listdir("scratch/locks"))
"""
    done = run(_REMOVED + script, str(tmp_path))
    assert (done.returncode, done.stdout) == (0, "10 True False []\n"), done.stderr


@pytest.mark.parametrize("module", ["thaw", "thaw.cli", "stages.prepare"])
def test_windows_is_refused_in_one_line(module: str) -> None:
    done = run(f"import sys, importlib; sys.platform = 'win32'; importlib.import_module('{module}')")
    assert done.returncode == 1
    assert done.stderr == "Thaw runs on Linux and macOS, not on Windows; install it inside WSL 2\n"
