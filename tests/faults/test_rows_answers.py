"""Rows 25 and 26 of the fault list: test images and files to classify that are not as they should be."""

import csv
import io
from pathlib import Path

import pytest

from tests.faults.rows import SECONDS, accepted, recovers, refused
from tests.pipeline.clone import Clone
from tests.pipeline.fixtures import Run

TINY = Path("data", "tiny")


def _labelled(clone: Clone, rows: list[tuple[str, str, str]]) -> None:
    """Have a manifest list these images: path below data/tiny, label and split."""
    lines = [f"tiny/{path},{label},{split}" for path, label, split in rows]
    (clone.root / "data" / "given.csv").write_text("\n".join(["path,label,split", *lines]) + "\n", encoding="utf-8")
    clone.update({"data.raw": "data/given.csv", "data.labels": "data/given.csv"})


def _paths(clone: Clone, label: str) -> list[str]:
    return sorted(path.relative_to(clone.root / TINY).as_posix() for path in (clone.root / TINY / label).iterdir())


@pytest.mark.parametrize(
    ("few", "line"),
    [
        (True, "no image is left for test: the classes have too few independent images"),
        (False, "class 'doubtful' is not in the given train split; add images of it there, or remove it"),
    ],
    ids=["no test image", "a label that nothing trains on"],
)
def test_row_25_what_cannot_be_tested_is_refused_by_prepare(copy: Clone, few: bool, line: str) -> None:
    rows = [(_paths(copy, label)[0], label, "train") for label in ("defective", "functional")]
    if not few:
        for label in ("defective", "functional"):
            rows += [(path, label, "train") for path in _paths(copy, label)[1:5]]
        rows.append((_paths(copy, "functional")[9], "doubtful", "test"))
    _labelled(copy, rows)
    refused(copy, "dvc", "repro", "prepare", says=line, lacks="data/prepared")


def test_row_25_a_model_whose_classes_have_another_order_is_not_tested(finished: Run, copy: Clone) -> None:
    (copy.root / TINY / "defective").rename(copy.root / TINY / "zero")  # now it comes last
    accepted(copy, "dvc", "repro", "prepare")
    says = (
        "head was made with other images than data/prepared has now, whose classes and test images may be others; run"
    )
    refused(copy, "dvc", "repro", "--single-item", "evaluate", says=says, lacks="reports/metrics.json")
    (copy.root / TINY / "zero").rename(copy.root / TINY / "defective")
    recovers(copy, finished, "evaluate")


def test_row_26_where_a_third_of_the_files_are_broken_the_rest_is_predicted_and_prepare_says_so(
    finished: Run, copy: Clone
) -> None:
    files = sorted((copy.root / TINY).rglob("*.png"))
    for path in files[::3]:
        path.write_bytes(path.read_bytes()[:100])
    broken = {path.relative_to(copy.root).as_posix() for path in files[::3]}
    code, output = copy.run("thaw", "predict", str(TINY), "--output", "answers.csv", seconds=SECONDS)
    answered = [row["path"] for row in csv.DictReader(io.StringIO((copy.root / "answers.csv").read_text()))]
    *named, counts = [line for line in output.splitlines() if "predict: " not in line]
    assert code == 1
    assert len(answered) == len(files) - len(broken)
    assert not broken & {*answered}
    assert {line.partition(" ")[0].rstrip(":") for line in named} == broken
    assert counts == f"{len(broken)} of {len(files)} files could not be used; the other {len(answered)} were classified"
    says = (
        f"{len(broken)} of {len(files)} files cannot be used, more than prepare.max_rejected (0.02) allows: defective/"
    )
    refused(copy, "dvc", "repro", "prepare", says=says, lacks="data/prepared")
