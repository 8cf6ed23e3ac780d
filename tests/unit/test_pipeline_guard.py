"""The guards around a stage, tried on real processes."""

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT
from thaw.pipeline import code, guard
from thaw.pipeline import scratch as scratch_folder

# A suite that runs in the background hands on to its children that SIGINT is ignored; at a terminal it is not.
_STAGE = """
import signal, sys, time
from pathlib import Path
from thaw import errors
from thaw.pipeline import artifacts, guard

signal.signal(signal.SIGINT, signal.default_int_handler)

def main():
    with guard.stage("prepare", sections=("seed", "data"), inputs=("in",), outs=("out",)) as params:
        with artifacts.new_folder(Path("out")) as folder:
            (folder / "seed").write_text(str(params.seed))
            Path("started").write_text("")
{body}
        Path("finished").write_text("")

guard.main(main)
"""
_WAIT = """
            while not Path("go").exists():
                time.sleep(0.01)
"""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(workspace: Path) -> Iterator[Start]:
    """Start a small stage in a folder of its own; whatever still runs at the end is killed."""
    (workspace / "in").mkdir()
    (workspace / "in" / "a.txt").write_text("one")
    (workspace / ".thaw").mkdir()
    code.write(workspace / code.FOLDER, code.running(), only=["prepare"])
    running = []

    def begin(
        body: str = "            pass", *, launcher: tuple[str, ...] = (), packages: Path = ROOT
    ) -> subprocess.Popen[str]:
        script = workspace / "stage.py"
        script.write_text(_STAGE.format(body=body))
        command = [*launcher, sys.executable, str(script)]
        environment = {**os.environ, "PYTHONPATH": str(packages), "PYTHONWARNINGS": "ignore"}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        running.append(process)
        return process

    yield begin
    for process in running:
        process.kill()
        process.communicate()


def _own_packages(folder: Path) -> Path:
    """Copy the code into a folder, to change it there."""
    for package in code.PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def _until(ready: Callable[[], bool], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, f"{what} did not happen in {seconds} s"
        time.sleep(0.01)


def _finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def test_a_stage_that_succeeds_leaves_its_out_and_a_timing_outside_of_it(start: Start, workspace: Path) -> None:
    code, errors = _finish(start())
    assert code == 0, errors
    assert (workspace / "out" / "seed").read_text() == "0"
    timing = json.loads((workspace / ".thaw" / "timings" / "prepare.json").read_text())
    assert timing["stage"] == "prepare"
    assert 0 <= timing["seconds"] < 60


def test_an_error_of_the_user_prints_one_line_and_exits_with_1(start: Start, workspace: Path) -> None:
    code, errors = _finish(start("            raise errors.DataError('in/a.txt is no image; remove it')"))
    assert (code, errors) == (1, "in/a.txt is no image; remove it\n")
    assert not (workspace / "out").exists()
    assert not (workspace / ".out.partial").exists()


def test_a_defect_of_ours_keeps_its_traceback(start: Start) -> None:
    code, errors = _finish(start("            raise ValueError('surprise')"))
    assert code == 1
    assert "Traceback" in errors
    assert "surprise" in errors


def test_a_full_disk_is_one_line_that_names_the_disk(start: Start, workspace: Path) -> None:
    code, errors = _finish(start("            open('/dev/full', 'w', buffering=1).write('x' + chr(10))"))
    assert code == 1
    assert errors.count("\n") == 1
    assert f"No space left on device; free space on the disk of {workspace}\n" in errors


def test_an_error_of_the_system_that_a_library_tells_by_its_text_alone_is_one_line(start: Start) -> None:
    body = """
            import resource, numpy; from safetensors.numpy import save_file
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
            save_file({'a': numpy.zeros(1000)}, 'a.safetensors')
"""
    assert _finish(start(body)) == (1, "the system refused a file operation: File too large\n")


_ADVICE = "out of memory; lower batch_size or compute.workers in params.yaml, or close other programs\n"


@pytest.mark.parametrize(
    "body",
    [
        "bytearray(2**60)",
        "import numpy; numpy.zeros(2**58, numpy.uint8)",
        "import torch; torch.empty(2**58, dtype=torch.uint8)",
        # This machine has no GPU to fill: the class is torch's, the text that of its CUDA allocator.
        "import torch; raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a ...')",
        "import errno, os; raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))",
    ],
)
def test_too_little_memory_is_one_line_that_says_what_to_lower(start: Start, body: str) -> None:
    assert _finish(start(f"            {body}")) == (1, _ADVICE)


def test_an_error_of_torch_that_is_not_of_memory_keeps_its_traceback(start: Start) -> None:
    code, errors = _finish(start("            import torch; torch.ones(2) @ torch.ones(3)"))
    assert code == 1
    assert "Traceback" in errors
    assert "out of memory" not in errors


def test_a_stage_that_fails_has_not_loaded_torch_to_tell_why(start: Start) -> None:
    told = "            import atexit; atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr))\n"
    code, errors = _finish(start(f"{told}            raise RuntimeError('surprise')"))
    assert code == 1
    assert errors.endswith("RuntimeError: surprise\nFalse\n")


def test_params_with_mistakes_stop_a_stage_before_it_starts(start: Start, workspace: Path) -> None:
    path = workspace / "params.yaml"
    path.write_text(path.read_text().replace("seed: 0", "seed: -1\nsead: 1"))
    code, errors = _finish(start())
    assert code == 1
    assert errors.splitlines() == [
        "params.yaml: seed is -1; it must be at least 0",
        "params.yaml: sead is not a known key; did you mean seed?",
    ]
    assert not (workspace / "started").exists()


def test_a_missing_input_names_the_command_that_makes_it(start: Start, workspace: Path) -> None:
    (workspace / "in").rename(workspace / "elsewhere")
    assert _finish(start()) == (1, "in is missing; run `dvc repro`, which makes it before this stage\n")


def test_a_second_process_is_refused_while_the_first_runs(start: Start, workspace: Path) -> None:
    first = start(_WAIT)
    _until((workspace / "started").exists, "the start")
    code, errors = _finish(start(_WAIT))
    assert code == 1
    assert errors == f"prepare is already running here (process {first.pid}); wait for it, or stop it\n"
    (workspace / "go").write_text("")
    assert _finish(first)[0] == 0


def test_the_lock_of_a_killed_process_is_free_again(start: Start, workspace: Path) -> None:
    first = start(_WAIT)
    _until((workspace / "started").exists, "the start")
    first.kill()
    first.wait()
    assert (workspace / ".out.partial").exists()
    assert _finish(start())[0] == 0
    assert [path.name for path in workspace.glob("*out*")] == ["out"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("Path('in/a.txt').write_text('two')", "in/a.txt"),
        ("Path('in/b.txt').write_text('new')", "in"),
        ("Path('in/a.txt').unlink()", "in"),
        ("Path('params.yaml').write_text(Path('params.yaml').read_text().replace('seed: 0', 'seed: 1'))", "seed"),
        ("Path('params.yaml').write_text('{')", "params.yaml"),
        ("Path('params.yaml').unlink()", "params.yaml"),
    ],
)
def test_inputs_that_change_meanwhile_end_in_an_error_and_no_out(
    start: Start, workspace: Path, change: str, named: str
) -> None:
    code, errors = _finish(start(f"            {change}"))
    assert code == 1
    assert errors.count("\n") == 1
    assert named in errors
    assert "changed while prepare was running" in errors
    assert (workspace / "finished").exists()
    assert not (workspace / "out").exists()


def test_code_that_differs_from_the_fingerprint_is_refused_before_any_work(start: Start, workspace: Path) -> None:
    packages = _own_packages(workspace / "elsewhere")
    with (packages / "thaw" / "data" / "decoding.py").open("a") as file:
        file.write("# edited\n")
    (packages / "thaw" / "data" / "tiff.py").unlink()
    status, errors = _finish(start(packages=packages))
    assert status == 1
    assert errors == (
        "data/code/prepare.json was written for other code than prepare would run now "
        "(thaw/data/decoding.py, thaw/data/tiff.py); run `dvc repro`\n"
    )
    assert not (workspace / "started").exists()


def test_code_that_differs_in_an_installed_thaw_is_refused_with_the_command_for_that(
    start: Start, workspace: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    packages = _own_packages(tmp_path_factory.mktemp("site-packages"))
    with (packages / "thaw" / "data" / "decoding.py").open("a") as file:
        file.write("# edited\n")
    status, errors = _finish(start(packages=packages))
    assert (status, errors.count("\n")) == (1, 1), errors
    assert errors.endswith("(thaw/data/decoding.py); run `dvc repro --force code`, then `dvc repro`\n")
    assert not (workspace / "started").exists()


def test_code_that_the_stage_cannot_import_may_differ(start: Start, workspace: Path) -> None:
    packages = _own_packages(workspace / "elsewhere")
    with (packages / "thaw" / "report" / "text.py").open("a") as file:
        file.write("# edited\n")
    status, errors = _finish(start(packages=packages))
    assert status == 0, errors


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (None, "data/code/prepare.json is missing; run `dvc repro code`, which writes it\n"),
        ('{"stage": "prep', "data/code/prepare.json is no fingerprint of code; run `dvc repro --force code`\n"),
        ("{}", "data/code/prepare.json is no fingerprint of code; run `dvc repro --force code`\n"),
    ],
    ids=["missing", "cut short", "something else"],
)
def test_a_fingerprint_that_cannot_be_read_is_refused(
    start: Start, workspace: Path, content: str | None, line: str
) -> None:
    path = workspace / code.path_of("prepare")
    path.unlink()
    if content is not None:
        path.write_text(content)
    assert _finish(start()) == (1, line)
    assert not (workspace / "started").exists()


def test_a_source_file_that_changes_meanwhile_ends_in_an_error_although_it_is_not_loaded_yet(
    start: Start, workspace: Path
) -> None:
    packages = _own_packages(workspace / "elsewhere")
    edit = "            open('elsewhere/thaw/data/decoding.py', 'a').write('# edited')"
    status, errors = _finish(start(edit, packages=packages))
    assert status == 1
    assert errors.startswith(f"{packages / 'thaw' / 'data' / 'decoding.py'} changed while prepare was running")
    assert not (workspace / "out").exists()


# Python runs this before anything else: it edits a file when the stage begins to import what it works with.
_AT_IMPORT = """
import sys
from pathlib import Path

class AtImport:
    def find_spec(self, name, path=None, target=None):
        if name == "thaw.head":
            sys.meta_path.remove(self)
            path = Path({path!r})
            text = path.read_text()
            path.write_text(text.replace({old!r}, {new!r}))
            if {back}:
                path.write_text(text)

sys.meta_path.insert(0, AtImport())
"""


@pytest.mark.parametrize(
    ("path", "old", "new", "back", "line"),
    [
        ("elsewhere/thaw/head/fit.py", "import", "# edited\nimport", True, "fit.py changed while head was starting"),
        ("params.yaml", "seed: 0", "seed: 1", False, "params.yaml: seed changed while head was starting"),
        ("params.yaml", "seed: 0", "seed: 0\ncompute: {threads: 3}", False, "data/features is missing"),
    ],
    ids=["code that is put back", "params", "params that the stage does not use"],
)
def test_an_edit_while_a_stage_imports_its_libraries_is_noticed(
    workspace: Path, path: str, old: str, new: str, back: bool, line: str
) -> None:
    packages = _own_packages(workspace / "elsewhere")
    (packages / "sitecustomize.py").write_text(_AT_IMPORT.format(path=path, old=old, new=new, back=back))
    command = [sys.executable, "-m", "stages.head"]
    ran = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(packages)}
    )
    assert (ran.returncode, ran.stderr.count("\n")) == (1, 1), ran.stderr
    assert f"{line}; run `dvc repro`" in ran.stderr


def test_bytecode_that_python_writes_meanwhile_is_no_change(start: Start, workspace: Path) -> None:
    write = "            Path('in/__pycache__').mkdir(); Path('in/__pycache__/a.pyc').write_text('')"
    status, errors = _finish(start(write))
    assert status == 0, errors


def test_a_section_that_the_stage_does_not_use_may_change_meanwhile(start: Start, workspace: Path) -> None:
    text = "Path('params.yaml').read_text() + 'compute: {threads: 1}\\n'"
    code, errors = _finish(start(f"            Path('params.yaml').write_text({text})"))
    assert code == 0, errors


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_stage_with_its_code_and_no_partial_folder(
    start: Start, workspace: Path, number: signal.Signals, expected: int
) -> None:
    process = start(_WAIT)
    _until((workspace / "started").exists, "the start")
    process.send_signal(number)
    code, errors = _finish(process)
    assert (code, errors) == (expected, "")
    assert [path.name for path in workspace.glob("*out*")] == []


def test_an_orphan_leaves_soon_after_its_launcher_is_killed(start: Start, workspace: Path) -> None:
    launcher = workspace / "bin" / "dvc"
    launcher.parent.mkdir()
    launcher.write_text(
        "import shlex, subprocess, sys\nsubprocess.run(shlex.join(sys.argv[1:]) + '; true', shell=True)"
    )
    process = start(_WAIT, launcher=(sys.executable, str(launcher)))
    _until((workspace / "started").exists, "the start")
    (shell,) = psutil.Process(process.pid).children()
    (stage,) = shell.children()
    process.kill()
    try:
        _until(lambda: not guard._is_alive(stage), "the orphan's end", seconds=20)
    finally:  # or else it would wait for ever, and who waits for the end of its output with it
        with suppress(psutil.NoSuchProcess):
            stage.kill()
    assert not (workspace / "finished").exists()
    assert [path.name for path in workspace.glob("*out*")] == []


def test_a_stage_without_dvc_above_it_runs_on_its_own(start: Start) -> None:
    assert _finish(start(launcher=("nice",)))[0] == 0


def _old(path: Path) -> Path:
    """Make something in the scratch folder that was last used long ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        path.write_text("{}")
    else:
        path.mkdir()
        (path / "content").write_text("content")
    os.utime(path, (1e9, 1e9))
    return path


@pytest.mark.usefixtures("workspace")
def test_what_was_not_used_for_a_month_is_forgotten_unless_a_process_holds_it(scratch: Path) -> None:
    names = ("checkpoints/phase", "engines/key", "engines/key.json", "engines/.half.partial")
    held, *unused = [_old(scratch / name) for name in ("checkpoints/held", *names)]
    recent = scratch / "engines" / "recent"
    recent.mkdir()
    with _another_process_holds(held):
        guard._forget_old()
        assert held.exists()
    assert recent.exists()
    assert not [path for path in unused if path.exists()]
    guard._forget_old()
    assert not held.exists()


def test_a_checkpoint_stays_until_dvc_has_recorded_what_came_of_it(
    scratch: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, lock = scratch / "checkpoints" / "phase", workspace / "dvc.lock"
    monkeypatch.setenv("DVC_STAGE", "unfreeze@top")
    for before in (None, "stages: {}"):  # in a run that is the first, and in a later one
        if before is not None:
            lock.write_text(before)
        checkpoint.mkdir(parents=True)
        guard.forget_once_recorded(checkpoint)
        guard._forget_old()  # dvc was killed, and the next one starts the stage again
        assert checkpoint.exists()
        lock.write_text("stages: {unfreeze@top: {}}")
        guard._forget_old()
        assert not checkpoint.exists()


@pytest.mark.usefixtures("workspace")
def test_a_checkpoint_goes_at_once_where_no_dvc_records_anything(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DVC_STAGE", raising=False)
    (checkpoint := scratch / "checkpoints" / "phase").mkdir(parents=True)
    guard.forget_once_recorded(checkpoint)
    assert not checkpoint.exists()


def test_stages_that_forget_the_same_things_at_once_do_not_disturb_each_other(scratch: Path, workspace: Path) -> None:
    for number in range(300):
        _old(scratch / "engines" / f"{number}")
        _old(scratch / "engines" / f"{number}.json")
    script = (
        "import time; from pathlib import Path; from thaw.pipeline import guard\n"
        "Path(f'ready {time.monotonic_ns()}').touch()\n"
        "while len(list(Path().glob('ready *'))) < 3: time.sleep(0.001)\n"
        "guard._forget_old()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    stages = [
        subprocess.Popen([sys.executable, "-c", script], env=environment, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [stage.communicate(timeout=120)[1] for stage in stages] == ["", "", ""]
    assert not list((scratch / "engines").iterdir())


@contextmanager
def _another_process_holds(path: Path) -> Iterator[None]:
    script = (
        "import sys; from pathlib import Path; from thaw.pipeline import artifacts\n"
        "with artifacts.one_at_a_time(Path(sys.argv[1])):\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, str(path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        assert holder.stdin
        assert holder.stdout.readline() == "held\n"
        yield
        holder.stdin.close()


def test_the_scratch_folder_of_a_queued_trial_is_that_of_the_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = tmp_path / ".dvc" / "tmp" / "exps" / "tmpabc"
    trial.mkdir(parents=True)
    monkeypatch.chdir(trial)
    assert scratch_folder.folder() == tmp_path / ".thaw"
    monkeypatch.chdir(tmp_path)
    assert scratch_folder.folder() == tmp_path / ".thaw"
    monkeypatch.setenv("THAW_SCRATCH", str(tmp_path / "big"))
    assert scratch_folder.folder() == tmp_path / "big"


def test_a_stage_collects_garbage_and_its_end_does_not_walk_what_it_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    seen: list[tuple[bool, int]] = []
    left: list[list[int]] = []

    def body() -> None:
        seen.append((gc.isenabled(), gc.get_freeze_count()))
        left.extend([] for _ in range(5000))

    gc.unfreeze()
    gc.disable()  # as stages/__init__.py leaves it
    try:
        guard.main(body)
        after = gc.get_freeze_count()
    finally:
        gc.enable()
        gc.unfreeze()
    ((collects, imported),) = seen
    assert collects
    assert imported > 1000
    assert after >= imported + len(left)
