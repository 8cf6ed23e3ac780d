"""Rows 10 to 15 of the fault list: classes, copies, names and links in the data of `dvc repro`."""

import os
import shutil
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.faults.rows import SECONDS, UNPRIVILEGED, accepted, needs_no_privileges, recovers, refused
from tests.pipeline.clone import Clone, stages_run
from tests.pipeline.fixtures import MEMORY_BYTES, Run
from thaw.data.packed import PackedImages
from thaw.pipeline import artifacts, facts
from thaw.pipeline.data_facts import Audit

TINY = Path("data", "tiny")


def _noise(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 40), dtype=np.uint8)).save(path)


def _no_class(tiny: Path) -> None:
    for name in ("defective", "functional"):
        shutil.rmtree(tiny / name)
    (tiny / "README").write_text("moved")  # git and DVC keep no empty folder


def _one_class(tiny: Path) -> None:
    shutil.rmtree(tiny / "defective")


def _empty_class(tiny: Path) -> None:
    (tiny / "doubtful").mkdir()
    _noise(tiny / "defective" / "new.png", 1)  # an empty folder alone is no change to DVC


def _case_only(tiny: Path) -> None:
    _noise(tiny / "Defective" / "1.png", 1)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (_no_class, "data/tiny holds no class folders with files in them; give each class a folder of its images"),
        (_one_class, "data/tiny has one class only (functional); a classifier needs at least two"),
        (_empty_class, "data/tiny/doubtful holds no files; add images of this class or remove the folder"),
        (_case_only, "data/tiny: the classes 'Defective' and 'defective' differ in case, blanks or Unicode form only"),
    ],
    ids=["no class", "one class", "empty class", "case"],
)
def test_row_10_what_are_no_classes_is_refused(copy: Clone, change: Callable[[Path], None], line: str) -> None:
    change(copy.root / TINY)
    refused(copy, "dvc", "repro", "prepare", says=line, lacks="data/prepared")


@dataclass(frozen=True)
class Prepared:
    """What `prepare` made of strange data in the locale C."""

    clone: Clone
    output: str
    samples: pd.DataFrame
    """samples.csv, by path."""
    audit: Audit
    rejected: Mapping[str, str]
    """Path and reason."""
    original: str
    """The path of the image that the copies are made of."""

    def share_a_side(self, paths: list[str]) -> bool:
        """Tell whether images are in one split and one fold."""
        return len(self.samples.loc[paths, ["split", "fold"]].drop_duplicates()) == 1


COPIES = ("copy.png", "copy again.png")
ALIKE = ("encoded.jpg", "half.png", "flipped.png")
NAMES = (
    "a b.png", "-rf.png", "\"quoted'.png", "emoji 🙂.png", "\u00e9.png", "e\u0301.png", "x" * 251 + ".png", "a,b\n.png",
)  # fmt: skip


@pytest.fixture(scope="module")
def prepared(finished: Run, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """A copy of the finished clone after `dvc repro prepare` with small classes, copies, strange names and links."""
    place = tmp_path_factory.mktemp("data")
    clone = replace(finished.clone.copy(place / "thaw", LC_ALL="C"), cold=True, memory_bytes=MEMORY_BYTES)
    clone.update({"prepare.max_rejected": 0.1, "data.conflicts": "drop"})
    tiny = clone.root / TINY
    for number, name in enumerate(("single/1", "pair/1", "pair/2", "defective/both")):
        _noise(tiny / f"{name}.png", 100 + number)
    shutil.copy(tiny / "defective" / "both.png", tiny / "functional" / "other.png")
    original = min((tiny / "functional").iterdir())
    for name in COPIES:
        shutil.copy(original, tiny / "functional" / name)
    image = Image.open(original)
    image.save(tiny / "functional" / "encoded.jpg", quality=60)
    image.resize((image.width // 2, image.height // 2)).save(tiny / "functional" / "half.png")
    image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tiny / "functional" / "flipped.png")
    for number, name in enumerate(NAMES):
        _noise(tiny / "defective" / name, 200 + number)
    outside = place / "outside"
    _noise(outside / "secret.png", 300)
    os.mkfifo(outside / "pipe.png")  # who reads it, waits
    (tiny / "defective" / "secret.png").symlink_to(outside / "secret.png")
    (tiny / "defective" / "folder").symlink_to(outside)
    output = accepted(clone, "dvc", "repro", "prepare")
    folder = clone.root / "data" / "prepared"
    table = pd.read_csv(folder / "rejected.csv")
    return Prepared(
        clone,
        output,
        PackedImages.open(folder).samples.set_index("path"),
        facts.read(folder / "audit.json", Audit),
        dict(zip(table["path"], table["reason"], strict=True)),
        original.relative_to(tiny).as_posix(),
    )


def test_row_10_a_class_of_one_or_two_images_is_trained_on_and_named(prepared: Prepared) -> None:
    lone = "prepare: class 'single' has 1 independent image or group: it is trained on and never tested"
    pair = "prepare: class 'pair' has 2 independent images or groups: it is trained on and never validated on"
    assert lone in prepared.output
    assert pair in prepared.output
    splits = prepared.samples.groupby("label")["split"].agg(sorted)
    assert splits[["single", "pair"]].tolist() == [["train"], ["test", "train"]]


def test_row_11_copies_are_reported_share_a_side_and_an_image_of_two_labels_is_rejected(prepared: Prepared) -> None:
    exact = [prepared.original, *(f"functional/{name}" for name in COPIES)]
    alike = [f"functional/{name}" for name in ALIKE]
    assert [sorted(group.paths) for group in prepared.audit.exact_duplicates.first] == [sorted(exact)]
    (near,) = [group for group in prepared.audit.near_duplicates.first if prepared.original in group.paths]
    assert {*alike} < {*near.paths}
    assert prepared.share_a_side([*exact, *alike])
    contradicted = "the same image is listed under another label as well"
    both = {path: reason for path, reason in prepared.rejected.items() if reason == contradicted}
    assert sorted(both) == ["defective/both.png", "functional/other.png"]
    assert [conflict.labels for conflict in prepared.audit.label_conflicts.first] == [["defective", "functional"]]


def test_row_13_images_that_come_go_or_get_another_name_or_order_leave_others_in_their_split(
    finished: Run, copy: Clone
) -> None:
    files = sorted((copy.root / TINY).rglob("*.png"))
    for path in reversed(files):  # new directory entries, in another order
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data)
    for path in files[::16]:
        path.unlink()
    for number, path in enumerate(files[1::16]):
        path.rename(path.with_name(f"renamed {number}.png"))
    for number in range(8):
        _noise(copy.root / TINY / ("defective", "functional")[number % 2] / f"added {number}.png", number)
    assert stages_run(accepted(copy, "dvc", "repro", "prepare")) == ["prepare"]
    before, after = (PackedImages.open(clone.root / "data" / "prepared").samples for clone in (finished.clone, copy))
    both = before.merge(after, on="sha256", suffixes=("", " now"))
    assert (len(before), len(after), len(both)) == (80, 83, 75)
    assert (both["path"] != both["path now"]).sum() == 5
    # Classes of 40 have to be balanced: what that moves is told (decision 0029), and all else stays.
    audits = [facts.read(clone.root / "data" / "prepared" / "audit.json", Audit) for clone in (finished.clone, copy)]
    moved = {move.unit for audit in audits for move in audit.moved_by_repair.first}
    changed = both[both["split"] != both["split now"]]
    assert {*changed["sha256"]} <= moved
    assert len(changed) <= 2


def test_row_14_strange_names_make_the_round_trip_in_the_locale_c(prepared: Prepared) -> None:
    assert {f"defective/{name}" for name in NAMES} <= {*prepared.samples.index}


def test_row_15_links_out_of_the_data_are_rejected_and_a_folder_behind_one_is_not_read(
    finished: Run, prepared: Prepared, tmp_path: Path
) -> None:
    assert {path: reason for path, reason in prepared.rejected.items() if "link" in reason} == {
        "defective/secret.png": "symbolic link to outside of the data folder; name the folder that it leads to in "
        "data.allow_links, or bring the file",
        "defective/folder": "symbolic link to a folder; not followed, since DVC does not look behind it: bring the "
        "folder itself",
    }
    clone = prepared.clone.copy(tmp_path / "thaw")
    shutil.rmtree(clone.root / TINY)
    shutil.copytree(finished.clone.root / TINY, clone.root / TINY)
    (clone.root / "params.yaml").write_bytes((finished.clone.root / "params.yaml").read_bytes())
    recovers(clone, finished, "prepare")


def _bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(os.path.relpath(path))  # such a name has at most 107 bytes


def test_row_15_what_a_reader_would_wait_for_or_not_find_is_refused_before_dvc_starts(
    finished: Run, copy: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy.root / TINY / "defective"
    monkeypatch.chdir(folder)
    made: dict[str, Callable[[Path], None]] = {
        "broken.png is a link to nowhere, which does not exist": lambda path: path.symlink_to("nowhere"),
        "loop.png is a link that cannot be followed": lambda path: path.symlink_to("loop.png"),
        "pipe.png is a pipe": os.mkfifo,
        "device.png is a device": lambda path: path.symlink_to("/dev/zero"),
        "socket.png is a socket": _bind,
    }
    for line, make in made.items():
        make(folder / line.partition(" ")[0])
    code, output = copy.run("thaw", "repro", "prepare", seconds=SECONDS)
    lines = sorted(output.splitlines())
    assert (code, len(lines)) == (1, len(made)), output
    for line, start in zip(lines, sorted(made), strict=True):
        assert line.startswith(f"data/tiny/defective/{start}")
    assert copy.hashes() == finished.clone.hashes(), "nothing was touched"


@needs_no_privileges
def test_row_15_an_unreadable_file_is_named_and_loses_nothing(finished: Run, copy: Clone) -> None:
    path = copy.root / TINY / "defective" / "secret.png"
    path.write_bytes(b"x")
    path.chmod(0)
    code, output = copy.run(*UNPRIVILEGED, "dvc", "repro", "prepare", seconds=SECONDS)
    assert code != 0
    assert output.splitlines()[-1].endswith(f"[Errno 13] Permission denied: '{path}'")
    assert copy.hashes() == finished.clone.hashes()


def test_row_14_a_name_that_is_not_utf_8_is_refused_before_dvc_starts(finished: Run, copy: Clone) -> None:
    os.close(os.open(os.fsencode(copy.root / TINY / "defective") + b"/\xff.png", os.O_CREAT))
    code, output = copy.run("thaw", "repro", "prepare", seconds=SECONDS)
    assert (code, output) == (
        1,
        r"data/tiny/defective/\xff.png has a name that is not valid UTF-8, which DVC cannot record; rename it" + "\n",
    )
    assert copy.hashes() == finished.clone.hashes()
    assert artifacts.verify(copy.root / "data" / "prepared")
