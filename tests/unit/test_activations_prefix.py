"""The activation cache: what it holds, what its key depends on, and what makes room for it."""

import os
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests import tiny
from thaw.activations.cache import Space, make_room, view_folder
from thaw.activations.engine import Engine, machine_of
from thaw.activations.prefix import HalfOverflowError, Prefix, Views
from thaw.activations.sources import Cached, Fresh
from thaw.config.schema import ComputeParams
from thaw.data.packed import Rows
from thaw.errors import TrainingError
from thaw.pipeline import artifacts

pytestmark = pytest.mark.usefixtures("scratch")

ROWS = np.array([5, 2, 9, 11, 0])
NETWORK = tiny.backbone()
BELOW = NETWORK.split(2)[0]


def prefix(
    *,
    module: torch.nn.Module = BELOW,
    identity: str = "weights",
    compute: ComputeParams = tiny.TORCH,
    **changes: Any,
) -> Prefix:
    views = Views(tiny.packed(12), NETWORK.spec, 3, tiny.augment(flip="both", brightness=0.2))
    return Prefix(replace(views, **changes), module, identity=identity, compute=compute)


def test_a_cached_batch_is_the_fresh_one_in_any_order_and_mix_of_views() -> None:
    cached, fresh = Cached(prefix(), ROWS, 3, label="train"), Fresh(prefix())
    rows, views = np.array([9, 9, 0, 5]), np.array([2, 0, 1, 1])
    for ours, reference in zip(cached.batch(rows, views), fresh.batch(rows, views), strict=True):
        assert torch.equal(ours, reference)
        assert ours.dtype == torch.float32
        assert ours.is_contiguous(memory_format=torch.channels_last)


def test_activations_are_those_of_the_network_on_the_view_but_for_float16() -> None:
    ours = Fresh(prefix()).batch(ROWS, np.zeros(5, np.int64))[0]
    with torch.inference_mode():
        reference = BELOW(prefix().views.plain(ROWS))[0]
    torch.testing.assert_close(ours, reference, rtol=1e-3, atol=1e-3)
    assert prefix().trial.storage == np.float16


def test_activations_that_float16_cannot_hold_are_kept_in_float32() -> None:
    class Large(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return (images * 1e4 + 1e5,)

    large = prefix(module=Large())
    assert large.trial.storage == np.float32
    assert Cached(large, ROWS, 1, label="x").batch(ROWS, np.zeros(5, np.int64))[0].max() > 65504


def test_a_bank_takes_the_bytes_that_it_was_said_to_take(scratch: Path) -> None:
    Cached(prefix(), ROWS, 2, label="train")
    stored = sum(np.load(path).nbytes for path in (scratch / "cache").rglob("*.npy"))
    assert prefix().bytes_an_image * len(ROWS) * 2 == stored


def test_more_than_ten_boundary_tensors_keep_their_order() -> None:
    class Many(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(images[:, :1, :1, :1] * 0 + number for number in range(12))

    many = Cached(prefix(module=Many()), ROWS, 1, label="x").batch(ROWS, np.zeros(5, np.int64))
    assert [int(value[0, 0, 0, 0]) for value in many] == list(range(12))


def test_a_view_is_found_under_everything_that_it_depends_on() -> None:
    images = tiny.packed(12)
    spec = NETWORK.spec.model_copy(update={"mean": (0.1, 0.2, 0.3)})
    usual = prefix()
    others = [
        prefix(identity="other"),
        prefix(images=replace(images, shards=(images.shards[0] // 2,))),
        prefix(spec=spec),
        prefix(seed=4),
        prefix(augment=tiny.augment(flip="both", brightness=0.3)),
    ]
    folders = {view_folder(other, ROWS, 1) for other in [usual, *others]}
    folders |= {view_folder(usual, ROWS[::-1], 1), view_folder(usual, ROWS, 2)}
    assert len(folders) == 8
    assert view_folder(prefix(), ROWS, 1) in folders
    # The plain view is not drawn: the same under every seed and augmentation.
    assert view_folder(usual, ROWS, 0) == view_folder(others[3], ROWS, 0) == view_folder(others[4], ROWS, 0)


def test_images_that_were_seen_before_are_not_computed_again_whatever_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    images = tiny.packed(40)
    few, all_rows = np.array([30, 4, 7, 9, 35]), np.arange(40)
    Cached(prefix(images=images), few, 2, label="x")
    expected = Fresh(prefix(images=images)).batch(np.tile(all_rows, 2), np.repeat([0, 1], 40))[0]
    computed: list[int] = []

    def counted(self: Prefix, rows: Rows, views: Rows, original: Any = Prefix.__call__) -> Any:
        computed.extend(rows.tolist())
        return original(self, rows, views)

    more = prefix(images=images)
    assert more.trial.numbers_an_image
    monkeypatch.setattr(Prefix, "__call__", counted)
    found = Cached(more, all_rows, 2, label="x")
    assert sorted(computed) == sorted([row for row in range(40) if row not in few] * 2)
    assert torch.equal(found.batch(np.tile(all_rows, 2), np.repeat([0, 1], 40))[0], expected)

    moved = replace(images, samples=images.samples[::-1].reset_index(drop=True), shards=(images.shards[0][::-1],))
    computed.clear()
    found = Cached(prefix(images=moved), all_rows[::-1], 2, label="x")
    assert len(computed) < 40  # no more than a first batch for its costs
    assert torch.equal(found.batch(np.tile(all_rows[::-1], 2), np.repeat([0, 1], 40))[0], expected)


def test_views_that_repeat_are_stored_once(scratch: Path) -> None:
    mirrored = prefix(augment=tiny.augment(flip="horizontal"))
    rows = np.array([9, 2])
    views = [Cached(mirrored, ROWS, 4, label="x").batch(rows, np.full(2, view))[0] for view in range(4)]
    assert len(list((scratch / "cache").glob("[0-9a-f]*"))) == 2
    for view in (0, 1):
        assert torch.equal(views[view], views[view + 2])
        assert torch.equal(views[view], Fresh(mirrored).batch(rows, np.full(2, view + 2))[0])
    assert not torch.equal(views[0], views[1])


def test_a_view_is_computed_anew_when_what_makes_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    before = view_folder(prefix(), ROWS, 0)
    monkeypatch.setattr(Engine, "made_by", ["another version"])
    assert view_folder(prefix(), ROWS, 0) != before


@pytest.mark.parametrize("size", [1, 2, 7, 31])
def test_an_activation_does_not_depend_on_its_company(size: int) -> None:
    rows = np.resize(ROWS, 33)
    together = prefix()(rows, np.zeros(33, np.int64))[0]
    for start in range(0, 33, size):
        few = rows[start : start + size]
        np.testing.assert_array_equal(prefix()(few, np.zeros(len(few), np.int64))[0], together[start : start + size])


def test_activations_that_rounding_would_distort_are_kept_in_float32() -> None:
    class Picky(torch.nn.Module):
        """Sees nothing but the last digits of what it is given."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))

        def forward(self, boundary: torch.Tensor) -> torch.Tensor:
            return (boundary * 4096 % 1) * self.weight

    assert prefix().trial.storage == np.float16
    views = prefix().views
    picky = Prefix(views, BELOW, identity="weights", compute=tiny.TORCH, suffix=Picky())
    assert picky.trial.storage == np.float32


def test_an_engine_a_device_and_a_number_of_threads_have_views_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    other = prefix()
    other.engine.name = "onnxruntime"
    threads = prefix(compute=tiny.TORCH.model_copy(update={"threads": 2}))
    folders = {view_folder(found, ROWS, 0) for found in (prefix(), other, threads)}
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "another processor")
    folders.add(view_folder(prefix(), ROWS, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
    for device in ("cuda", "mps"):
        moved = prefix()
        with monkeypatch.context() as patched:
            patched.setattr("thaw.activations.engine.device_of", lambda _, device=device: torch.device(device))
            moved.engine._machine = machine_of(tiny.TORCH)
        folders.add(view_folder(moved, ROWS, 0))
    assert len(folders) == 6


def test_a_row_outside_the_cache_is_never_answered_with_another() -> None:
    with pytest.raises(AssertionError, match="a row that is not in this cache"):
        Cached(prefix(), ROWS, 1, label="x").batch(np.array([3]), np.array([0]))


def test_images_smaller_than_the_input_are_enlarged_and_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    small = prefix(images=tiny.packed(12, size_px=24))
    assert small.views.plain(ROWS).shape == (len(ROWS), 3, 32, 32)
    assert capsys.readouterr().out.startswith(
        "the network sees 32 px and prepare.size_px packs 24 px, so each image is"
    )


class Spiked(torch.nn.Module):
    """Passes images on, but for those that are not bright, one of whose numbers is `value`."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        dark = images.mean((1, 2, 3), keepdim=True) < 0
        return (torch.where(dark, torch.tensor(self.value), images),)


def spiked(value: float) -> Prefix:
    """Return a prefix whose storage was chosen on bright images alone."""
    found = prefix(module=Spiked(value))
    found._rows = np.array([0, 3])
    assert found.storage == np.float16
    return found


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("storage", [np.float16, np.float32])
def test_an_activation_that_is_no_number_is_refused_and_nothing_is_kept(
    scratch: Path, value: float, storage: type[np.floating]
) -> None:
    broken, dark = spiked(value), np.array([0, 1])
    if storage is np.float32:
        broken.store_as_float32()
    with pytest.raises(TrainingError, match="an activation at the cut is NaN or infinite; choose another depth"):
        Cached(broken, dark, 1, label="x")
    assert not list((scratch / "cache").glob("*/"))
    with pytest.raises(TrainingError, match="an activation at the cut is NaN or infinite"):
        Fresh(broken).batch(dark, np.zeros(2, np.int64))
    Fresh(broken).batch(np.array([0, 3]), np.zeros(2, np.int64))


def test_a_later_activation_beyond_float16_is_told_from_one_that_is_no_number(scratch: Path) -> None:
    large, rows, plain = spiked(1e30), np.array([0, 1]), np.zeros(2, np.int64)
    half = view_folder(large, rows, 0)
    for make in (lambda: Cached(large, rows, 1, label="x"), lambda: Fresh(large).batch(rows, plain)):
        with pytest.raises(HalfOverflowError):
            make()
    assert not list((scratch / "cache").glob("*/"))
    size_bytes = large.bytes_an_image
    large.store_as_float32()
    assert large.storage == np.float32
    assert large.bytes_an_image == 2 * size_bytes
    assert view_folder(large, rows, 0) != half
    cached, fresh = Cached(large, rows, 1, label="x").batch(rows, plain)[0], Fresh(large).batch(rows, plain)[0]
    assert torch.equal(cached, fresh)
    assert cached.max() == torch.tensor(1e30)
    assert large.seen_as(tiny.augment()).storage == np.float32


def test_the_engine_and_the_storage_are_chosen_on_images_of_each_class_and_split() -> None:
    label = ["bright"] * 40 + ["dark"] * 40 + ["striped"] * 40
    images = tiny.packed(120, label=label, split=(["train"] * 30 + ["val"] * 5 + ["test"] * 5) * 3)
    rows = prefix(images=images)._rows
    chosen = images.samples.iloc[rows]
    assert len(rows) == 32
    assert set(zip(chosen["split"], chosen["label"], strict=True)) == {
        (split, name) for split in ("train", "val") for name in tiny.CLASSES
    }
    np.testing.assert_array_equal(rows, prefix(images=images, seed=9)._rows)


def test_a_class_that_comes_last_makes_its_activations_kept_in_float32() -> None:
    class Dark(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return (torch.where(images.mean((1, 2, 3), keepdim=True) < 0, 1e5, images),)

    order = np.argsort(np.arange(120) % 3 == 1, kind="stable")  # dark images last
    images = tiny.packed(120)
    sorted_images = replace(
        images,
        samples=images.samples.iloc[order].reset_index(drop=True),
        shards=(images.shards[0][order],),
    )
    assert prefix(images=sorted_images, module=Dark()).storage == np.float32


def fill(scratch: Path, name: str, age_s: int, size: int = 1000) -> Path:
    folder = scratch / "cache" / name
    folder.mkdir(parents=True)
    (folder / "000.npy").write_bytes(b"0" * size)
    os.utime(folder, (1e9 - age_s, 1e9 - age_s))
    return folder


def test_room_is_made_by_deleting_what_was_used_longest_ago(scratch: Path) -> None:
    old, older, recent = fill(scratch, "b", 20), fill(scratch, "a", 30), fill(scratch, "c", 10)
    make_room(2500)
    assert (recent.exists(), old.exists(), older.exists()) == (True, True, False)
    make_room(0)
    assert not recent.exists()


def test_room_is_never_made_at_the_cost_of_the_views_that_are_needed_next(scratch: Path) -> None:
    needed, other = fill(scratch, "needed", 30), fill(scratch, "other", 10)
    make_room(500, keep=[needed])
    assert (needed.exists(), other.exists()) == (True, False)


def test_what_a_killed_run_left_half_written_is_cleared_away(scratch: Path) -> None:
    partial = fill(scratch, ".abc.partial", 5)
    with artifacts.one_at_a_time(scratch / "cache" / "abc"):  # someone is writing it
        make_room(10**9)
        assert partial.exists()
    make_room(10**9)
    assert not partial.exists()


def test_a_view_that_is_used_counts_as_recent() -> None:
    Cached(prefix(), ROWS, 1, label="x")
    folder = view_folder(prefix(), ROWS, 0)
    os.utime(folder, (1e9, 1e9))
    Cached(prefix(), ROWS, 1, label="x")
    assert folder.stat().st_mtime > 1.5e9


def test_a_view_that_another_process_opens_is_not_deleted() -> None:
    Cached(prefix(), ROWS, 1, label="x")
    folder = view_folder(prefix(), ROWS, 0)
    with artifacts.one_at_a_time(folder):
        make_room(0)
    assert folder.exists()
    make_room(0)
    assert not folder.exists()


def test_a_view_of_more_than_a_batch_takes_no_more_bytes_than_its_numbers(scratch: Path) -> None:
    rows = np.arange(70)
    many = prefix(images=tiny.packed(70))
    cached, fresh = Cached(many, rows, 1, label="x"), Fresh(many)
    for ours, reference in zip(
        cached.batch(rows, np.zeros(70, np.int64)), fresh.batch(rows, np.zeros(70, np.int64)), strict=True
    ):
        assert torch.equal(ours, reference)
    for path in (scratch / "cache").rglob("*.npy"):
        assert path.stat().st_size - np.load(path).nbytes == 128  # the header


def test_a_view_that_the_disk_has_no_room_for_is_refused_before_it_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = prefix().bytes_an_image * len(ROWS)
    for free in (needed - 1, needed):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        with pytest.raises(TrainingError, match="free some, lower") if free < needed else nullcontext():
            Cached(prefix(), ROWS, 1, label="x")


def test_the_banks_of_a_phase_share_its_room_and_keep_each_others_views(scratch: Path) -> None:
    first, second, third = (fill(scratch, name, age) for name, age in (("a", 40), ("b", 30), ("c", 20)))
    space = Space(2000)
    space.take([first], 1000)
    assert (space.left_bytes, first.exists(), second.exists(), third.exists()) == (1000, True, False, True)
    space.take([third], 1000)
    assert (space.left_bytes, first.exists(), third.exists()) == (0, True, True)
    fourth = fill(scratch, "d", 10)
    space.take([], 0)
    assert (first.exists(), third.exists(), fourth.exists()) == (True, True, False)


def test_views_that_fill_the_room_exactly_stay(scratch: Path) -> None:
    folders = [fill(scratch, name, 10) for name in "ab"]
    make_room(2000)
    assert all(folder.exists() for folder in folders)
    make_room(1999)
    assert sum(folder.exists() for folder in folders) == 1
