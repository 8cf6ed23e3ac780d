"""Row 20 of the fault list: a machine that is full, closed or short of handles, under the real `dvc repro`."""

import json
import shutil
import subprocess
from dataclasses import replace

import pytest

from tests.faults.rows import (
    SECONDS,
    UNPRIVILEGED,
    accepted,
    leftovers,
    needs_no_privileges,
    recovers,
    refused,
)
from tests.pipeline.clone import Clone
from tests.pipeline.fixtures import Run
from thaw.pipeline import artifacts

_MOUNTING = ("unshare", "--mount", "--map-root-user")


def _can_mount() -> bool:
    found = shutil.which("unshare") is not None
    return found and subprocess.run([*_MOUNTING, "true"], capture_output=True, check=False).returncode == 0


needs_mounts = pytest.mark.skipif(not _can_mount(), reason="small disks are mounted in a namespace of their own")

# Room for the cache and one checkpoint of 12 MB, and not for the next one beside it.
_SMALL_DISK = """
cp -a .thaw kept && mount -t tmpfs -o size=20m tmpfs .thaw && cp -a kept/. .thaw
dvc repro --force --single-item unfreeze@mid
code=$?
rm -r kept && cp -a .thaw kept
exit $code
"""


@needs_mounts
def test_row_20_a_full_disk_is_named_and_the_phase_goes_on_from_its_last_checkpoint(finished: Run, copy: Clone) -> None:
    copy.forget("unfreeze@mid")
    artifacts.remove(copy.root / ".thaw" / "checkpoints")
    says = "the system refused a file operation: No space left on device"
    command = (*_MOUNTING, "sh", "-c", _SMALL_DISK)
    lines = refused(replace(copy, cold=True), *command, says=says, lacks="models/phases/mid")
    assert f"{says}; free space on the disk of {copy.root / '.thaw'} or {copy.root}" in lines
    (copy.root / ".thaw").rename(copy.root / "before")
    (copy.root / "kept").rename(copy.root / ".thaw")  # more room for the disk
    (checkpoint,) = copy.root.glob(".thaw/checkpoints/*/part-*")
    assert artifacts.verify(checkpoint)
    assert json.loads((checkpoint / "state.json").read_text())["epoch"] == 1
    recovers(copy, finished, "unfreeze@mid")


@needs_no_privileges
def test_row_20_a_folder_that_is_read_only_is_named_and_keeps_what_is_in_it(finished: Run, copy: Clone) -> None:
    copy.update({"prepare.background": 9})
    (copy.root / "data").chmod(0o555)
    code, output = copy.run(*UNPRIVILEGED, "dvc", "repro", "prepare", seconds=SECONDS)
    (copy.root / "data").chmod(0o755)
    assert code != 0
    assert output.splitlines()[-1].endswith(f"[Errno 13] Permission denied: '{copy.root / 'data' / 'prepared'}'")
    (copy.root / "params.yaml").write_bytes((finished.clone.root / "params.yaml").read_bytes())
    recovers(copy, finished, "prepare")


def test_row_20_too_few_file_handles_are_named_and_leave_nothing(copy: Clone) -> None:
    copy.update({"prepare.background": 9, "compute.workers": 2})
    command = ("sh", "-c", "ulimit -n 12; exec dvc repro prepare")
    says = "the system refused a file operation: Too many open files"
    refused(replace(copy, cold=True), *command, says=says, lacks="data/prepared")


@needs_mounts
@needs_no_privileges
def test_row_20_a_temporary_folder_shared_memory_and_many_handles_are_not_needed(finished: Run, copy: Clone) -> None:
    copy.update({"compute.workers": 2})
    temporary = copy.root / "temporary"
    temporary.mkdir(mode=0o555)
    script = (
        "ulimit -n 48; mount -t tmpfs -o size=4k tmpfs /dev/shm; export TMPDIR=$PWD/temporary; "
        "exec setpriv --bounding-set=-dac_override,-dac_read_search dvc repro --force --single-item prepare"
    )
    accepted(replace(copy, cold=True), *_MOUNTING, "sh", "-c", script)
    assert list(temporary.iterdir()) == leftovers(copy) == []
    assert copy.hashes() == finished.clone.hashes()
