"""What is packed comes back byte for byte and in order, however it is cut into shards."""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from thaw.data.packed import COLUMNS, PackedImages, write
from thaw.data.spool import Spool
from thaw.pipeline import artifacts

SPLITS = ("train", "val", "test")
# Class names are those of folders, or come from a CSV: any text, and what readers of tables take for something else.
# Without NUL and carriage returns, which a listing refuses in names: pandas reads the latter as the end of a row.
LABELS = st.sampled_from(["007", "7", "NA", "nan", "1e3", "True", " a ", 'a,"b"', "#"]) | st.text(
    st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1, max_size=4
)


@dataclass(frozen=True)
class Case:
    """Images [side, side, 1 or 3] in the order read, the numbers of those kept, in row order, and their samples."""

    images: list[NDArray[np.uint8]]
    keep: list[int]
    classes: list[str]
    samples: pd.DataFrame

    @property
    def expected(self) -> NDArray[np.uint8]:
        """The kept images in one array; grey ones repeated if any of them is in colour."""
        kept = [self.images[number] for number in self.keep]
        channels = max(image.shape[2] for image in kept)
        return np.stack([np.broadcast_to(image, (*image.shape[:2], channels)) for image in kept])

    def packed(self, folder: Path, shard_bytes: int) -> PackedImages:
        spool = Spool(BytesIO(), len(self.images[0]))
        numbers = [spool.append(image) for image in self.images]
        kept = [numbers[number] for number in self.keep]
        with artifacts.new_folder(folder) as partial:
            facts = write(partial, self.samples, spool, kept, shard_bytes=shard_bytes)
        found = PackedImages.open(folder)
        assert (found.channels, found.dtype.name) == facts
        return found


@st.composite
def cases(draw: st.DrawFn) -> Case:
    side, num_images = draw(st.integers(1, 4)), draw(st.integers(1, 24))
    depths = draw(
        st.lists(st.sampled_from([1, 3]), min_size=num_images, max_size=num_images) | st.just([1] * num_images)
    )
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    images = [random.integers(0, 256, (side, side, depth), dtype=np.uint8) for depth in depths]
    if draw(st.booleans()):
        images = [np.asfortranarray(image) for image in images]
    keep = draw(st.permutations(range(num_images)))[: draw(st.integers(1, num_images))]
    classes = draw(st.lists(LABELS, min_size=2, max_size=4, unique=True))
    num_rows = len(keep)
    samples = pd.DataFrame(
        {
            "id": [f"{row:016x}" for row in range(num_rows)],
            "path": [f"{number}.png" for number in keep],
            "label": [classes[row] for row in random.integers(len(classes), size=num_rows)],
            "split": [SPLITS[row] for row in random.integers(3, size=num_rows)],
            "group": draw(st.lists(st.just("") | LABELS, min_size=num_rows, max_size=num_rows)),
            "sha256": "00",
            "width": random.integers(1, 9999, num_rows),
            "height": random.integers(1, 9999, num_rows),
            "row": range(num_rows),
            "confidence": 1 - random.random(num_rows),
            "fold": -1,
            "look": "",
        },
    )
    classes = sorted(set(samples["label"]))
    return Case(images, keep, classes, samples[draw(st.permutations(COLUMNS))])


@settings(max_examples=40)
@given(case=cases(), shard_bytes=st.integers(1, 500), data=st.data())
def test_images_come_back_byte_for_byte_in_whatever_order_they_are_asked_for(
    case: Case, shard_bytes: int, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    packed = case.packed(tmp_path_factory.getbasetemp() / "packed", shard_bytes)
    every = np.arange(len(case.keep))
    assert packed.read(every).dtype == np.uint8
    np.testing.assert_array_equal(packed.read(every), case.expected, strict=True)
    rows = np.array(data.draw(st.lists(st.integers(0, len(every) - 1), max_size=30)), dtype=np.int64)
    np.testing.assert_array_equal(packed.read(rows), case.expected[rows], strict=True)


@settings(max_examples=40)
@given(case=cases(), shard_bytes=st.integers(1, 500))
def test_rows_labels_and_splits_come_back_in_order(
    case: Case, shard_bytes: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    packed = case.packed(tmp_path_factory.getbasetemp() / "packed", shard_bytes)
    assert packed.classes == case.classes
    assert len(packed) == len(case.keep)
    pd.testing.assert_frame_equal(packed.samples, case.samples[list(COLUMNS)], check_exact=True, check_dtype=False)
    found = packed.labels(np.arange(len(packed)))
    assert [case.classes[index] for index in found] == case.samples["label"].tolist()
    for split in SPLITS:
        assert packed.rows(split).tolist() == [row for row, where in enumerate(case.samples["split"]) if where == split]


@settings(max_examples=30)
@given(case=cases(), shard_bytes=st.integers(1, 500))
def test_shards_keep_to_their_size_and_never_change_content(
    case: Case, shard_bytes: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()
    whole, cut = case.packed(folder / "whole", 2**30), case.packed(folder / "cut", shard_bytes)
    assert len(whole.shards) == 1
    assert {shard.dtype for shard in (*whole.shards, *cut.shards)} == {np.dtype(np.uint8)}
    assert all(shard.nbytes <= shard_bytes or len(shard) == 1 for shard in cut.shards)
    per_shard = max(1, shard_bytes // whole.shards[0][0].nbytes)
    assert [len(shard) for shard in cut.shards[:-1]] == [per_shard] * (len(cut.shards) - 1)
    np.testing.assert_array_equal(np.concatenate(cut.shards), whole.shards[0], strict=True)
    for name in ("samples.csv", "classes.json"):
        assert (folder / "cut" / name).read_bytes() == (folder / "whole" / name).read_bytes()
