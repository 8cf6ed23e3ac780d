"""Arrays on disk: what is read is right, and stops counting as memory of ours."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil

from tests import tiny
from thaw import memory

_MIB = 2**20


def resident() -> int:
    return int(psutil.Process().memory_info().rss)


def large_array(path: Path, num_rows: int = 64) -> None:
    """Write rows of a MiB, each full of its number."""
    with memory.new_array(path, (num_rows, _MIB), np.dtype(np.uint8)) as file:
        for number in range(num_rows):
            file.write(np.full(_MIB, number, np.uint8).data)


def test_an_array_written_row_by_row_reads_back_and_can_be_read_again_after_it_was_let_go(tmp_path: Path) -> None:
    large_array(tmp_path / "a.npy", 3)
    array = memory.open_array(tmp_path / "a.npy")
    for _ in range(2):
        assert [int(row.min()) for row in array] == [int(row.max()) for row in array] == [0, 1, 2]
        memory.drop_pages([array, np.zeros(3)])


def test_what_was_let_go_no_longer_counts(tmp_path: Path) -> None:
    large_array(tmp_path / "a.npy")
    array, before = memory.open_array(tmp_path / "a.npy"), resident()
    assert int(array.max()) == 63
    read = resident()
    memory.drop_pages([array])
    assert read - before > 60 * _MIB
    assert resident() - before < 4 * _MIB


def test_reading_packed_images_leaves_none_of_them_in_memory(tmp_path: Path) -> None:
    large_array(tmp_path / "a.npy")
    shard = memory.open_array(tmp_path / "a.npy").reshape(64, 512, 512, 4)
    images = replace(tiny.packed(64), shards=(shard,), size_px=512, channels=4)
    before = resident()
    for row in range(64):
        assert int(images.read(np.array([row])).max()) == row
    assert resident() - before < 4 * _MIB
