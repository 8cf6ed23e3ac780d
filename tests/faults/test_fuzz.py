"""A corpus of files that are nearly right, the same in every run; `python -m tests.faults.fuzz` goes on for minutes."""

import sys

import pytest

from tests.faults import fuzz
from tests.faults.mutated import mutated

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the limit of memory is one of Linux")

CASES = {
    "images": 800,
    "safetensors": 800,
    "checkpoints": 400,
    "listing": 300,
    "manifests": 100,
    "params": 40,
    "onnx": 12,
}


@pytest.mark.parametrize("name", fuzz.READERS)
def test_a_file_that_is_nearly_right_is_read_or_refused_in_words(name: str) -> None:
    found = fuzz.run(name, seed=16, cases=CASES[name])
    assert found.failures == []
    assert sum(found.outcomes.values()) == found.next == CASES[name]
    assert found.outcomes["refused"] > 0


def test_a_case_is_the_same_at_every_call_and_another_for_another_number_or_seed() -> None:
    files = [bytes(range(256)), b"\x89PNG\r\n\x1a\n" + bytes(100)]
    cases = [mutated(files, 1, number, [b"word"]) for number in range(200)]
    assert cases == [mutated(files, 1, number, [b"word"]) for number in range(200)]
    assert len(set(cases)) > 150
    assert cases != [mutated(files, 2, number, [b"word"]) for number in range(200)]


@pytest.mark.parametrize(
    ("body", "seen"),
    [
        ("raise KeyError('x')", "KeyError"),
        ("raise fuzz.ThawError(' ')", "an error without a text"),
        ("os.abort()", "ends with -6"),
        ("bytearray(2**31)", "MemoryError"),
        ("time.sleep(60)", "hangs"),
    ],
)
def test_what_is_no_result_and_no_refusal_is_found_and_the_next_case_is_run(
    body: str, seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The third case does it; the process that runs them begins as the module does, with this reader in it.
    script = (
        "import os, sys, time; from tests.faults import fuzz\n"
        "def read(data, folder, draw):\n"
        "    read.calls += 1\n"
        f"    if read.calls == 3 and int(sys.argv[4]) == 0: {body}\n"
        "read.calls = -1\n"  # the good file comes first
        "fuzz.READERS['images'] = lambda: fuzz.Reader(read, [b'good'])\n"
        "fuzz._main_of_worker(*sys.argv[2:])\n"
    )
    monkeypatch.setattr(fuzz, "_COMMAND", [sys.executable, "-c", script, "--work"])
    monkeypatch.setattr(fuzz, "_HANGS_S", 10.0)
    found = fuzz.run("images", seed=0, cases=5)
    assert sum(found.outcomes.values()) == 5
    ((number, text),) = found.failures
    assert number == 2
    assert seen in text
