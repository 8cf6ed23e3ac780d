"""The merge drivers: which stages and figures a merge keeps, and what becomes of files that they cannot read."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from dvc.utils.serialize import dumps_yaml

from tests.photos import ROOT
from thaw.errors import ArtifactError
from thaw.project.merging import main, merge_labels, merge_locks

LOCK = (ROOT / "dvc.lock").read_text(encoding="utf-8")


def _lock(stages: Mapping[str, int], **sections: object) -> str:
    """The text of a dvc.lock as DVC writes it; a stage is named by a letter, and its entry by a number."""
    entries = {name: {"cmd": f"run {name}", "outs": [{"path": name, "size": size}]} for name, size in stages.items()}
    return str(dumps_yaml({"schema": "2.0", "stages": entries} | sections))


def _stages(text: str) -> dict[str, int]:
    """The stages of "a1 b2" by their names."""
    return {word[0]: int(word[1:]) for word in text.split()}


@pytest.mark.parametrize(
    ("base", "ours", "theirs", "merged", "dropped"),
    [
        ("a1 b1", "a1 b1", "a1 b1", "a1 b1", ""),  # nobody changed anything
        ("a1 b1", "a2 b1", "a1 b1", "a2 b1", ""),  # one side alone
        ("a1 b1", "a1 b1", "a2 b1", "a2 b1", ""),
        ("a1 b1", "a2 b1", "a1 b2", "a2 b2", ""),  # each side another stage
        ("a1 b1", "a2 b1", "a2 b1", "a2 b1", ""),  # both alike
        ("a1 b1", "a2 b1", "a3 b1", "b1", "a"),  # both, and differently
        ("a1 b1 c1", "a2 b1 c2", "a1 b2 c3", "a2 b2", "c"),
        ("a1 b1", "a2 b2", "a3 b3", "", "a, b"),
        ("a1 b1", "b1", "a1 b1", "b1", ""),  # removed, and unchanged on the other side
        ("a1 b1", "a1 b1", "b1", "b1", ""),
        ("a1 b1", "b1", "b1", "b1", ""),
        ("a1 b1", "b1", "a2 b1", "b1", "a"),  # removed, and changed on the other side
        ("a1 b1", "a2 b1", "b1", "b1", "a"),
        ("a1", "a1 b1", "a1", "a1 b1", ""),  # new
        ("a1", "a1", "a1 b1", "a1 b1", ""),
        ("a1", "a1 b1", "a1 c1", "a1 b1 c1", ""),
        ("a1", "a1 b1", "a1 b1", "a1 b1", ""),
        ("a1", "a1 b1", "a1 b2", "a1", "b"),
        ("a1 b1", "b1 a1", "a1 b1", "b1 a1", ""),  # the order of a lock says nothing
        ("a1", "", "a1", "", ""),
    ],
)
def test_a_stage_is_taken_from_the_side_that_changed_it(
    base: str, ours: str, theirs: str, merged: str, dropped: str
) -> None:
    result = merge_locks(*(_lock(_stages(text)) for text in (base, ours, theirs)))
    assert result.text == _lock(_stages(merged))
    assert result.note == (f"changed on both sides, so `dvc repro` decides: {dropped}" if dropped else None)


@pytest.mark.parametrize("base", ["", "\n"])
def test_without_a_lock_at_the_base_what_only_one_side_has_and_what_both_have_alike_stays(base: str) -> None:
    result = merge_locks(base, _lock({"a": 1, "b": 1, "c": 1}), _lock({"a": 1, "b": 2, "d": 1}))
    assert result.text == _lock({"a": 1, "c": 1, "d": 1})
    assert result.note == "changed on both sides, so `dvc repro` decides: b"


def test_the_lock_of_this_repository_merges_to_its_own_bytes() -> None:
    changed = LOCK.replace("test_fraction: 0.25", "test_fraction: 0.3")
    assert changed != LOCK
    assert merge_locks(LOCK, LOCK, LOCK).text == LOCK
    assert merge_locks(LOCK, LOCK, changed).text == merge_locks(LOCK, changed, LOCK).text == changed
    assert merge_locks(LOCK, changed, LOCK.removesuffix("\n")).text == changed


def test_other_sections_of_a_lock_merge_as_a_whole() -> None:
    one, two, three = ([{"name": "set", "rev": revision}] for revision in "123")
    base, ours, theirs = _lock({"a": 1}, datasets=one), _lock({"a": 2}, datasets=one), _lock({"a": 1}, datasets=two)
    assert merge_locks(base, ours, theirs).text == _lock({"a": 2}, datasets=two)
    with pytest.raises(ArtifactError, match="both sides changed its section datasets"):
        merge_locks(base, _lock({"a": 1}, datasets=three), theirs)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"<<<<<<< ours\n{LOCK}=======\n{LOCK}>>>>>>> theirs\n", "is not valid YAML at line "),
        (LOCK.replace("  backbone:", "<<<<<<< HEAD\n  backbone:"), "is not valid YAML at line "),
        ("[1, 2]", "is not laid out as DVC writes it"),
        ("# nothing\n", "is not laid out as DVC writes it"),
        ('{"schema": "2.0", "stages": {"a": {}}}', "is not laid out as DVC writes it"),
        ("schema: '2.0'\nstages: {a: {}}\n", "is not laid out as DVC writes it"),
        ("schema: '2.0'\nstages:\n", "is not laid out as DVC writes it"),
        ("schema: '2.0'\nstages:\n  a: {}\n  a: {}\n", "has a twice"),
        ("prepare:\n  cmd: x\n", "is no dvc.lock of schema 2.0"),
        ("schema: '1.0'\nstages: {}\n", "is no dvc.lock of schema 2.0"),
    ],
)
def test_what_is_no_lock_of_dvc_is_refused_whichever_side_it_is(text: str, says: str) -> None:
    for side, texts in (("base", (text, LOCK, LOCK)), ("ours", (LOCK, text, LOCK)), ("theirs", (LOCK, LOCK, text))):
        with pytest.raises(ArtifactError, match=f"^{side} {says}"):
            merge_locks(*texts)


@pytest.mark.parametrize(
    ("base", "ours", "theirs", "merged"),
    [
        ("a=1 b=1", "a=2 b=1", "a=1 b=2", "a=2 b=2"),  # neighbouring lines, on which git itself sees a conflict
        ("a=1 b=1", "a=2 b=1", "a=2 b=1", "a=2 b=1"),
        ("a=1 d=1", "a=1 b=1 d=1", "a=1 c=1 d=1", "a=1 b=1 c=1 d=1"),  # both add an image at one place
        ("a=1 b=1 c=1", "a=1 c=1", "a=1 b=1 c=2", "a=1 c=2"),
        ("a=1 b=1", "b=1 a=1", "a=1 b=1 c=1", "b=1 a=1 c=1"),  # not sorted: the order of ours, then what is new
        ("", "a=1", "b=1", "a=1 b=1"),
    ],
)
def test_labels_merge_image_by_image(base: str, ours: str, theirs: str, merged: str) -> None:
    assert merge_labels(*(_labels(text) for text in (base, ours, theirs))).text == _labels(merged)


@pytest.mark.parametrize(
    ("base", "ours", "theirs", "says"),
    [
        ("a=1 b=1", "a=2 b=1", "a=3 b=1", "both sides changed a"),
        ("a=1 b=1", "b=1", "a=3 b=1", "both sides changed a"),
        ("a=1", "a=1 a=2", "a=1", "ours has a twice"),
    ],
)
def test_the_same_image_changed_by_both_is_left_to_a_person(base: str, ours: str, theirs: str, says: str) -> None:
    with pytest.raises(ArtifactError, match=f"^{says}$"):
        merge_labels(*(_labels(text) for text in (base, ours, theirs)))


def test_labels_with_other_columns_or_over_several_lines_are_left_to_a_person() -> None:
    one, two, three = "path,label\na,1\n", "path,label,group\na,1,\n", "path,label,confidence\na,1,1\n"
    with pytest.raises(ArtifactError, match=r"^both sides changed a$"):
        merge_labels(one, two, three)
    assert merge_labels(one, one, two).text == two
    for broken in ('path,label\n"a\n",1\n', "file,label\na,1\n", "path,label\n\n"):
        with pytest.raises(ArtifactError, match=r"^theirs is no CSV with a line and a path for each image$"):
            merge_labels(one, one, broken)


def _labels(text: str) -> str:
    """A CSV of labels: "a=1" is the image a with the label 1; empty for no file."""
    rows = [word.replace("=", ",") for word in text.split()]
    return "".join(f"{line}\n" for line in ["path,label", *rows]) if rows else ""


def _merge(folder: Path, driver: str, *texts: bytes) -> tuple[int, bytes]:
    names = [folder / name for name in ("base", "ours", "theirs")]
    for name, text in zip(names, texts, strict=True):
        name.write_bytes(text)
    code = main([driver, *map(str, names), "a/dvc.lock"])
    assert sorted(folder.iterdir()) == sorted(names)
    return code, names[1].read_bytes()


def test_the_result_replaces_ours_and_the_exit_code_is_zero(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    locks = [_lock(_stages(text)).encode() for text in ("a1 b1", "a2 b2", "a1 b3", "a2")]
    assert _merge(tmp_path, "lock", *locks[:3]) == (0, locks[3])
    assert capsys.readouterr().err == "a/dvc.lock: changed on both sides, so `dvc repro` decides: b\n"
    assert _merge(tmp_path, "lock", locks[0], locks[0], locks[1]) == (0, locks[1])
    assert capsys.readouterr().err == ""
    labels = [_labels(text).encode() for text in ("a=1 b=1", "a=2 b=1", "a=1 b=2", "a=2 b=2")]
    assert _merge(tmp_path, "labels", *labels[:3]) == (0, labels[3])


@pytest.mark.parametrize("text", [b"schema: '2.0'\nstages:\n<<<<<<< ours\n", b"\xff\xfe", b"- 1\n", b""])
def test_what_cannot_be_merged_leaves_ours_as_it_was_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: bytes
) -> None:
    lock = LOCK.encode()
    assert _merge(tmp_path, "lock", lock, text, lock) == (1, text)
    assert _merge(tmp_path, "lock", lock, lock, text) == (1, lock)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith("a/dvc.lock: ")
        assert line.endswith("(`git checkout --ours a/dvc.lock`, or --theirs), then run `dvc repro`")


def test_the_driver_loads_no_slow_library() -> None:
    script = "import sys, json, thaw.project.merging; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    roots = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert not roots & {"torch", "numpy", "pandas", "dvc", "ruamel", "pydantic", "typer", "rich"}
