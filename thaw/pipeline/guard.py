"""Run a stage safely: one writer at a time, inputs that must not change meanwhile, no orphans, one-line errors.

What the guards are for (each was seen with DVC 3.67.1): DVC hashes inputs after the command has run, so an edit in
between would be recorded as if it had been used; a killed `dvc repro` leaves its stage running, and the next one
would start a second writer; a partial output would be consumed by `dvc repro -s`.
"""

import errno
import gc
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from thaw.config.reader import PARAMS_FILE, load_params, read_tree
from thaw.config.schema import Params
from thaw.errors import ArtifactError, ParamsError, RunError, ThawError, is_out_of_memory
from thaw.names import for_terminal
from thaw.pipeline import code, scratch, timings
from thaw.pipeline.artifacts import (
    digest,
    forget,
    one_at_a_time,
    read_json,
    remove,
    sha256_of,
    sha256_of_bytes,
    write_json,
    write_text,
)  # fmt: skip

_BY_DVC = "DVC_STAGE"  # set by DVC in the environment of every stage
_WATCH_INTERVAL_S = 1.0
_GRACE_S = 10.0
_KEPT_S = 30 * 24 * 3600.0
_DONE = "done.json"  # in a checkpoint: what it led to is written, and DVC has yet to record it
_AT_START: dict[str, str] = {}
_PARAMS_AT_START: list[dict[str, Any]] = []


# How libraries in Rust, safetensors among them, tell of an error of the system; they raise no OSError.
_IN_RUST = re.compile(r"I/O error: .* \(os error (\d+)\)$")


def main(body: Callable[[], None]) -> None:
    """Call a stage's body and leave with its exit code: 0 done, 1 a ThawError (one line), 130 or 143 interrupted."""
    signal.signal(signal.SIGTERM, _raise_exit)
    gc.freeze()  # what the imports made stays to the end; stages/__init__.py put collections off until here
    gc.enable()
    try:
        body()
    except ThawError as error:
        print(for_terminal(str(error)), file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if (line := _explained(error)) is None:
            raise
        print(for_terminal(line), file=sys.stderr)
        sys.exit(1)
    finally:
        gc.freeze()  # or else Python looks at every object once more before it ends, which takes a second or two


def _explained(error: Exception) -> str | None:
    """Return what to do about an error of the machine's; None for a defect, which keeps its traceback."""
    if is_out_of_memory(error):
        return "out of memory; lower batch_size or compute.workers in params.yaml, or close other programs"
    if found := _IN_RUST.search(str(error)):
        error = OSError(int(found[1]), os.strerror(int(found[1])))
    if not isinstance(error, OSError) or (error.filename is None and error.errno is None):
        return None
    where = f" ({error.filename})" if error.filename else ""
    advice = f"; free space on the disk of {_disks()}" if error.errno == errno.ENOSPC else ""
    return f"the system refused a file operation: {error.strerror}{where}{advice}"


def _disks() -> str:
    """Return a folder on each disk that a stage writes to; a write that fails does not say which of them is full."""
    folders = [folder for folder in (scratch.folder(), Path.cwd()) if folder.exists()]
    return " or ".join(str(folder) for folder in {folder.stat().st_dev: folder for folder in folders}.values())


@contextmanager
def stage(name: str, *, sections: Sequence[str], inputs: Sequence[str], outs: Sequence[str]) -> Iterator[Params]:
    """Yield the validated params of a stage that holds its lock, and check at the end that nothing moved under it.

    `sections` are the dotted keys of params.yaml, `inputs` the paths that the stage reads, `outs` those that it
    writes. Raises: RunError if the code differs from the stage's fingerprint or from what it was when the process
    began, if the stage already runs in this folder, or if a section, an input or a source file changed meanwhile; the
    outs are then removed.
    """
    started = time.perf_counter()
    timings.add("import", time.time() - psutil.Process().create_time())
    params = load_params()
    sources = [] if name == code.STAGE else [code.path_of(name), *code.sources(name)]
    if changed := _changed_since_start(sections, sources):
        raise RunError(f"{', '.join(changed[:5])} changed while {name} was starting; run `dvc repro` again")
    for path in inputs:
        if not Path(path).exists():
            raise RunError(f"{path} is missing; run `dvc repro`, which makes it before this stage")
    read = [*map(Path, inputs), *sources]
    before = _snapshot(sections, read)
    if sources:  # after the snapshot, which sees an edit from here on
        code.check(name)
    with _lock(name):
        leave_with_dvc()
        _forget_old()
        yield params
        after = _snapshot(sections, read)
        changed = sorted(what for what in before | after if before.get(what) != after.get(what))
    if changed:
        for out in outs:
            remove(Path(out))
        raise RunError(
            f"{', '.join(changed[:5])} changed while {name} was running, so its result would be recorded under the "
            "wrong inputs; nothing was kept, run `dvc repro` again"
        )
    _report(name, time.perf_counter() - started)


def forget_once_recorded(checkpoint: Path) -> None:
    """Delete a checkpoint whose result is written: at the next stage after DVC recorded that, or at once without a DVC.

    DVC deletes a result that it has not recorded. Where it is killed before, the next run starts from the checkpoint.
    """
    if _BY_DVC in os.environ:
        lock = Path("dvc.lock").absolute()
        write_json(checkpoint / _DONE, {"lock": str(lock), "modified_ns": _modified_ns(lock)})
    else:
        forget(checkpoint)


def _modified_ns(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def _forget_old() -> None:
    """Delete checkpoints that are done, and after a month those that nothing took up again, and exported prefixes."""
    for path in scratch.folder().glob(f"checkpoints/*/{_DONE}"):
        with suppress(ArtifactError, KeyError):  # another stage of the same moment was faster
            done = read_json(path)
            if _modified_ns(Path(done["lock"])) not in (None, done["modified_ns"]):
                forget(path.parent)
    for path in [*scratch.folder().glob("checkpoints/*"), *scratch.folder().glob("engines/*")]:
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < time.time() - _KEPT_S:
                forget(path, unused_s=_KEPT_S)


def _report(name: str, seconds: float) -> None:
    """Print and keep what a stage took, in all and by part; the import came before the stage."""
    parts = timings.spent()
    parts["other"] = max(seconds - sum(parts.values()) + parts["import"], 0.0)
    seconds += parts["import"]
    rounded = {part: round(spent, 2) for part, spent in parts.items()}
    write_json(
        scratch.folder() / "timings" / f"{name}.json", {"stage": name, "seconds": round(seconds, 2), "parts": rounded}
    )
    shown = ", ".join(f"{part} {spent:.1f}" for part, spent in parts.items())
    print(f"{name}: {seconds:.1f} s ({shown})", file=sys.stderr)


def code_digest() -> str:
    """Return the SHA-256 of every source file of ours in memory; a checkpoint of other code is never resumed."""
    return digest({name: sha256_of(path) for name, path in code.loaded().items()})


def _raise_exit(signum: int, _frame: FrameType | None) -> None:
    sys.exit(128 + signum)


@contextmanager
def _lock(name: str) -> Iterator[None]:
    workspace = sha256_of_bytes(str(Path.cwd()).encode())[:12]
    holder = scratch.folder() / "locks" / f"{name.replace('@', '.')}-{workspace}.pid"
    with ExitStack() as held:
        try:
            held.enter_context(one_at_a_time(Path(name), wait=False))
        except BlockingIOError:
            process = holder.read_text(encoding="utf-8") if holder.exists() else "unknown"
            raise RunError(f"{name} is already running here (process {process}); wait for it, or stop it") from None
        write_text(holder, str(os.getpid()))
        yield


@cache
def leave_with_dvc() -> None:
    """Stop this process when the `dvc` that started it is gone, now or later; without a dvc above it, watch nothing."""
    launchers: list[psutil.Process] = []
    for process in psutil.Process().parents():
        launchers.append(process)
        if _may_be_dvc(process):
            threading.Thread(target=_watch, args=(launchers,), daemon=True).start()
            return
    if _BY_DVC in os.environ:  # it ended before we could look
        sys.exit("the dvc that started this stage has ended; run `dvc repro` again")


def _may_be_dvc(process: psutil.Process) -> bool:
    """Tell `dvc` by its command; if dvc says that it started us, a Python of our session may be calling its API."""
    try:
        command = process.cmdline()
        if any(Path(word).name == "dvc" for word in command[:3]):
            return True
        is_python = bool(command) and Path(command[0]).name.startswith("python")
        return _BY_DVC in os.environ and is_python and os.getsid(process.pid) == os.getsid(0)
    except (psutil.Error, OSError):
        return False


def _watch(launchers: list[psutil.Process]) -> None:
    while all(map(_is_alive, launchers)):
        time.sleep(_WATCH_INTERVAL_S)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_S)
    os._exit(143)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:  # it ended between the two questions
        return False


def remember_start() -> None:
    """Note the state of our code and of params.yaml, before the imports, in whose seconds an edit would go unseen."""
    _AT_START.update(_snapshot((), list(code.running().folders.values())))
    with suppress(ParamsError):  # `stage` reads it again, and says what is wrong with it
        _PARAMS_AT_START.append(read_tree(PARAMS_FILE))


def _changed_since_start(sections: Sequence[str], sources: Sequence[Path]) -> list[str]:
    """Return what has changed since `remember_start`, if that was called."""
    now = {str(path): _stamp(path) for path in sources if str(path) in _AT_START}
    changed = [path for path, stamp in now.items() if _AT_START[path] != stamp]
    for tree in _PARAMS_AT_START:
        then, states = _states(tree, sections), _states(read_tree(PARAMS_FILE), sections)
        changed += [what for what in then if then[what] != states[what]]
    return changed


def _snapshot(sections: Sequence[str], paths: Sequence[Path]) -> dict[str, str]:
    """Return the state of each section of params.yaml and of each file that is, or lies below, one of the paths."""
    try:
        tree = read_tree(PARAMS_FILE) if sections else {}
    except ParamsError:  # it was valid when the stage started: spoilt meanwhile, so every section has changed
        tree = {}
    state = _states(tree, sections)
    for path in paths:
        state |= {str(file): _stamp(file) for file in _files(path)}
    return state


def _states(tree: dict[str, Any], sections: Sequence[str]) -> dict[str, str]:
    """Return the state of each section, by what it is called where it has changed."""
    state = {}
    for section in sections:
        value: object = tree
        for key in section.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        state[f"params.yaml: {section}"] = digest(value)
    return state


def _files(path: Path) -> list[Path]:
    """Return a path that is no folder, or the files below it, without bytecode, which Python writes at any time."""
    if not path.is_dir():
        return [path]
    return [Path(folder, name) for folder, _, names in os.walk(path) for name in names if not name.endswith(".pyc")]


def _stamp(path: Path) -> str:
    try:
        stat = path.stat()
    except OSError:
        return "missing"
    return json.dumps([stat.st_size, stat.st_mtime_ns, stat.st_ino])
