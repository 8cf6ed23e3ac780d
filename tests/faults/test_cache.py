"""Damage to the activation cache: rebuilt or refused, never used."""

import errno
import multiprocessing
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests import tiny
from thaw.activations.cache import make_room, view_folder
from thaw.activations.prefix import Prefix, Views
from thaw.activations.sources import Cached
from thaw.errors import ArtifactError, TrainingError
from thaw.pipeline import artifacts

pytestmark = pytest.mark.usefixtures("scratch")

ROWS = np.arange(12)
PLAIN = np.zeros(12, np.int64)


def prefix() -> Prefix:
    network = tiny.backbone()
    views = Views(tiny.packed(12), network.spec, 3, tiny.augment())
    return Prefix(views, network.split(2)[0], identity="weights", compute=tiny.TORCH)


def batch() -> torch.Tensor:
    return Cached(prefix(), ROWS, 1, label="x").batch(ROWS, PLAIN)[0]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1000] ^= 4
    path.write_bytes(data)


def drop_a_row(path: Path) -> None:
    np.save(path, np.load(path)[:-1])


def spoil_a_row(path: Path) -> None:
    values = np.load(path)
    values[3] = np.nan
    np.save(path, values)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def delete(path: Path) -> None:
    path.unlink()


def delete_manifest(path: Path) -> None:
    (path.parent / artifacts.MANIFEST).unlink()


def add_a_file(path: Path) -> None:
    shutil.copy(path, path.with_name("001.npy"))


@pytest.mark.parametrize(
    "damage", [truncate, flip_a_bit, drop_a_row, spoil_a_row, empty, delete, delete_manifest, add_a_file]
)
def test_a_damaged_view_is_built_again(damage: Callable[[Path], None]) -> None:
    expected = batch()
    folder = view_folder(prefix(), ROWS, 0)
    damage(folder / "000.npy")
    assert torch.equal(batch(), expected)
    artifacts.verify(folder)


def test_a_view_under_a_stale_key_is_not_read(scratch: Path) -> None:
    expected = batch()
    folder = view_folder(prefix(), ROWS, 0)
    other = Prefix(
        Views(tiny.packed(12), tiny.backbone().spec, 3, tiny.augment()), tiny.backbone(seed=1).split(2)[0],
        identity="other weights", compute=tiny.TORCH,
    )  # fmt: skip
    assert not torch.equal(Cached(other, ROWS, 1, label="x").batch(ROWS, PLAIN)[0], expected)
    assert view_folder(other, ROWS, 0) != folder
    assert len(list((scratch / "cache").glob("*/manifest.json"))) == 2


def test_what_is_half_written_under_the_temporary_name_is_not_read(scratch: Path) -> None:
    expected = batch()
    folder = view_folder(prefix(), ROWS, 0)
    partial = folder.with_name(f".{folder.name}.partial")
    folder.rename(partial)
    assert torch.equal(batch(), expected)
    assert not partial.exists()


def write_in_a_process(folder: str, out: "multiprocessing.Queue[list[float]]") -> None:
    import os

    os.environ["THAW_SCRATCH"] = folder
    torch.set_num_threads(1)
    out.put([float(batch().double().sum()), float(batch().double().square().sum())])


def test_two_writers_at_once_leave_one_whole_view(scratch: Path) -> None:
    context = multiprocessing.get_context("fork")
    out: multiprocessing.Queue[list[float]] = context.Queue()
    torch.set_num_threads(1)  # a forked child cannot use its parent's threads
    writers = [context.Process(target=write_in_a_process, args=(str(scratch), out)) for _ in range(2)]
    for writer in writers:
        writer.start()
    sums = [out.get(timeout=60) for _ in writers]
    for writer in writers:
        writer.join()
    expected = batch()
    assert sums == [[float(expected.double().sum()), float(expected.double().square().sum())]] * 2
    assert len(list((scratch / "cache").glob("*/manifest.json"))) == 1
    assert not list((scratch / "cache").glob(".*.partial"))


def test_a_disk_that_is_too_small_is_said_before_anything_is_written(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(
        TrainingError,
        match=r"needs 0\.0 GiB, but the disk of .*cache has 0\.0 GiB free; free some, lower compute.cache_gib",
    ):
        batch()
    assert not list((scratch / "cache").glob("*/"))


def test_a_disk_that_fills_up_meanwhile_leaves_no_view(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(artifacts, "write_json", full)
        with pytest.raises(OSError, match="No space left"):
            batch()
    assert not list((scratch / "cache").glob("*/"))
    batch()


def test_room_that_is_made_while_a_view_is_opened_does_not_empty_it(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = batch()
    folder, verify = view_folder(prefix(), ROWS, 0), artifacts.verify
    kept = (folder / "000.npy").stat().st_ino

    def verify_while_another_makes_room(path: Path) -> str:
        found = verify(path)
        other = multiprocessing.get_context("fork").Process(target=make_room, args=(0,))
        other.start()
        other.join()
        assert other.exitcode == 0
        return found

    monkeypatch.setattr(artifacts, "verify", verify_while_another_makes_room)
    assert torch.equal(batch(), expected)
    assert (folder / "000.npy").stat().st_ino == kept, "it was deleted and computed again"


def test_a_view_without_activations_under_a_true_manifest_is_built_again() -> None:
    expected = batch()
    with artifacts.new_folder(view_folder(prefix(), ROWS, 0)):
        pass
    assert torch.equal(batch(), expected)


def test_a_view_that_stays_empty_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def write_nothing(_prefix: Prefix, _rows: object, _view: int, folder: Path, _label: str) -> None:
        with artifacts.new_folder(folder):
            pass

    monkeypatch.setattr("thaw.activations.cache._compute_view", write_nothing)
    with pytest.raises(ArtifactError, match=r"holds activations of no images instead of 12; delete it and run `dvc"):
        batch()


def test_views_that_vanish_while_room_is_made_are_no_error(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch()
    folder = view_folder(prefix(), ROWS, 0)
    is_dir = Path.is_dir

    def is_dir_until_another_deletes(path: Path) -> bool:
        found = is_dir(path)
        if path == folder and found:
            shutil.rmtree(path)
        return found

    monkeypatch.setattr(Path, "is_dir", is_dir_until_another_deletes)
    make_room(0)
    assert not list((scratch / "cache").glob("*.npy"))
    assert not folder.exists()
