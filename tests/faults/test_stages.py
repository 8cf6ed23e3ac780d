"""Bad input and bad moments, tried on the real stages: one line and exit code 1, nothing lost, and a rerun recovers."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from tests.faults.killing import stages_below
from tests.faults.rows import SECONDS, accepted, flip_a_bit, leftovers, recovers
from tests.pipeline.clone import Clone, stages_run, wait_for
from tests.pipeline.fixtures import Run
from thaw.pipeline import artifacts

Start = Callable[..., subprocess.Popen[str]]
PARTIAL = Path("data", ".prepared.partial")


def _broken_files(clone: Clone) -> None:
    for path in (clone.root / "data" / "tiny").rglob("*.png"):
        path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"prepare.size": 64}, "params.yaml: prepare.size is not a known key; did you mean size_px?"),
        ({"prepare.test_fraction": 1.5}, "params.yaml: prepare.test_fraction is 1.5; it must be below 1"),
        (
            {"data.raw": "data/no", "data.labels": "data/no"},
            "params.yaml: data.raw is data/no, which does not exist; give a folder",
        ),
        (_broken_files, "none of the 80 files in data/tiny can be used (defective/cell"),
    ],
    ids=["misspelt key", "impossible value", "missing folder", "broken files"],
)
def test_bad_input_ends_prepare_in_one_line_and_leaves_the_earlier_out(
    finished: Run, copy: Clone, change: dict[str, object] | Callable[[Clone], None], line: str
) -> None:
    if callable(change):
        change(copy)
    else:
        copy.update(change)
    code, output = copy.run("python", "-m", "stages.prepare")
    assert (code, output.count("\n")) == (1, 1), output
    assert output.startswith(line)
    assert copy.hashes() == finished.clone.hashes()


def test_what_a_failed_repro_took_away_comes_back_from_dvc_checkout(finished: Run, copy: Clone) -> None:
    before = (copy.root / "params.yaml").read_bytes()
    copy.update({"prepare.test_fraction": 1.5})
    code, output = copy.run("dvc", "repro")
    assert code != 0
    assert "\nparams.yaml: prepare.test_fraction is 1.5; it must be below 1" in output
    assert stages_run(output) == ["prepare"]
    (copy.root / "params.yaml").write_bytes(before)
    copy.succeed("dvc", "checkout", "dvc.yaml")
    assert copy.hashes() == finished.clone.hashes()
    assert stages_run(copy.succeed("dvc", "repro")) == []


def test_a_flipped_bit_in_an_out_is_named_by_the_next_stage(copy: Clone) -> None:
    path = copy.root / "models" / "phases" / "mid" / "weights.safetensors"
    flip_a_bit(path)
    code, output = copy.run("python", "-m", "stages.select")
    assert (code, output.count("\n")) == (1, 1), output
    assert output.startswith("models/phases/mid/weights.safetensors is not what its manifest says")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_row_19_a_stage_and_its_workers_end_soon_after_dvc_is_killed(
    slow: Clone, start: Start, number: signal.Signals
) -> None:
    slow.update({"compute.workers": 2})
    repro = start(slow, "dvc", "repro", "prepare")
    stage = _stage_of(repro)
    wait_for((slow.root / PARTIAL).exists, "the start")
    wait_for(lambda: len(stage.children()) == 2, "the workers")
    family = [stage, *stage.children()]
    repro.send_signal(number)
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive
    assert not (slow.root / "data" / "prepared").exists()
    assert not (slow.root / PARTIAL).exists()


def test_row_19_two_interrupts_of_the_whole_group_leave_nothing_half_done_and_a_rerun_ends_in_the_same_lock(
    finished: Run, copy: Clone, start: Start
) -> None:
    copy.forget("features")
    # Of a shell's background job the signal would be ignored, and so in all that it starts.
    heard = ("setsid", "env", "--default-signal=INT")
    repro = start(copy, *heard, "dvc", "repro", "--force", "--single-item", "features")
    stage = _stage_of(repro)
    wait_for((copy.root / "data" / ".features.partial").exists, "the start")
    for _ in range(2):
        os.killpg(repro.pid, signal.SIGINT)
    output, _ = repro.communicate(timeout=SECONDS)
    assert repro.returncode != 0, output
    assert not stage.is_running()
    assert not (copy.root / "data" / "features").exists()
    assert leftovers(copy) == []
    recovers(copy, finished, "features")


def test_a_stage_that_a_script_starts_through_the_api_of_dvc_is_no_orphan(copy: Clone) -> None:
    script = "from dvc.repo import Repo; Repo().reproduce('prepare', force=True)"
    assert "the dvc that started this stage has ended" not in copy.succeed("python", "-c", script)


def test_params_that_are_edited_during_a_stage_fail_it_and_poison_nothing(slow: Clone, start: Start) -> None:
    before = (slow.root / "params.yaml").read_bytes()
    repro = start(slow, "dvc", "repro", "prepare")
    wait_for((slow.root / PARTIAL).exists, "the start")
    slow.update({"seed": 1})
    output, _ = repro.communicate()
    assert repro.returncode != 0
    assert "\nparams.yaml: seed changed while prepare was running" in output
    assert not (slow.root / "data" / "prepared").exists()
    (slow.root / "params.yaml").write_bytes(before)
    assert stages_run(slow.succeed("dvc", "repro", "prepare")) == ["prepare"]


def test_row_24_of_two_repros_at_once_the_second_fails_and_the_first_ends_well(slow: Clone, start: Start) -> None:
    first = start(slow, "dvc", "repro", "prepare")
    stage = _stage_of(first)
    wait_for((slow.root / PARTIAL).exists, "the start")
    code, output = slow.run("python", "-m", "stages.prepare")
    assert (code, output) == (1, f"prepare is already running here (process {stage.pid}); wait for it, or stop it\n")
    code, output = slow.run("dvc", "repro", "prepare")
    assert code != 0
    assert "ERROR" in output
    assert stages_run(output) == []
    output, _ = first.communicate()
    assert first.returncode == 0, output
    assert artifacts.verify(slow.root / "data" / "prepared")


def test_row_24_locks_of_processes_that_are_gone_are_passed_over(finished: Run, copy: Clone) -> None:
    gone = 2**22 + 1  # Linux gives no process a larger number than 2**22
    locked = {"write": {str(copy.root / "data" / "prepared"): {"pid": gone, "cmd": "dvc repro prepare"}}}
    (copy.root / ".dvc" / "tmp" / "rwlock").write_text(json.dumps(locked), encoding="utf-8")
    (copy.root / ".dvc" / "tmp" / "lock").touch()
    for path in (copy.root / ".thaw" / "locks").glob("prepare-*.pid"):
        path.write_text(str(gone), encoding="utf-8")
    output = accepted(copy, "dvc", "repro", "--force", "--single-item", "prepare")
    assert stages_run(output) == ["prepare"]
    assert copy.hashes() == finished.clone.hashes()


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a command in a clone; whatever is left of it at the end is killed."""
    running: list[subprocess.Popen[str]] = []

    def begin(clone: Clone, *command: str) -> subprocess.Popen[str]:
        running.append(replace(clone, cold=True).start(*command))
        return running[-1]

    yield begin
    for process in running:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture
def slow(copy: Clone) -> Clone:
    """A clone whose prepare takes some seconds: it has copies of an image of 25 megapixels."""
    folder = copy.root / "data" / "tiny" / "defective"
    pixels = np.add.outer(np.arange(5000), np.arange(5000)).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "large.png", compress_level=1)
    for number in range(16):
        shutil.copy(folder / "large.png", folder / f"large{number}.png")
    return copy


def _stage_of(repro: subprocess.Popen[str]) -> psutil.Process:
    """Return the stage that a `dvc repro` runs, as soon as it does."""
    found: list[psutil.Process] = []

    def running() -> bool:
        assert repro.poll() is None, repro.communicate()[0]
        found.extend(stages_below(repro))
        return bool(found)

    wait_for(running, "the start of a stage")
    return found[0]
