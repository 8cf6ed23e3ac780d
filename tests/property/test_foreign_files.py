"""Lists of images, params, manifests and image bytes of any content: read exactly, or refused in words."""

import contextlib
import copy
import csv
from io import BytesIO, StringIO
from pathlib import Path, PureWindowsPath
from typing import Any, Literal

import numpy as np
import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests import cut
from tests.contract import repository
from thaw.config.reader import load_params, read_tree
from thaw.config.schema import DataParams
from thaw.data import listing
from thaw.data.decoding import UnusableError, decode
from thaw.data.manifest import SPLITS
from thaw.errors import ArtifactError, DataError, ParamsError
from thaw.pipeline import artifacts

FILES = [cut.encoded(kind) for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")]
TREE = read_tree(repository.ROOT / "params.yaml")

# Names as people give them: any text but what no file or no row of a CSV can have, blanks at the ends included.
names = st.text(st.characters(exclude_characters="\r\n\0/", exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
    lambda name: name.strip() and name not in {".", ".."}
)
labels = st.lists(names, min_size=2, max_size=4, unique_by=lambda name: name.strip().casefold())
row = st.tuples(names, st.integers(0, 3), st.sampled_from([*SPLITS]), names, st.floats(1e-9, 1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("foreign")


def check_line(text: str) -> None:
    assert text
    assert "\n" not in text


@given(labels=labels, rows=st.lists(row, min_size=2, max_size=6, unique_by=lambda row: row[0]), marked=st.booleans())
def test_a_list_of_images_is_read_back_as_it_was_written(
    labels: list[str], rows: list[tuple[str, int, str, str, float]], marked: bool, folder: Path
) -> None:
    named = [
        (name, labels[place % len(labels)], split, group, share)
        for place, (name, _, split, group, share) in enumerate(rows)
    ]
    text = StringIO()
    csv.writer(text).writerows([("path", "label", "split", "group", "confidence"), *named])
    (folder / "list.csv").write_text(text.getvalue(), encoding="utf-8-sig" if marked else "utf-8", newline="")
    assume(not any("\\" in name or PureWindowsPath(name).drive for name, *_ in named))  # they are paths of Windows
    how = DataParams(raw="list.csv", task="single-label")
    try:
        found = listing.read_table(folder / "list.csv", folder, how)
    except DataError as error:
        refusal = str(error)
        assert "twice or more" in refusal or "conflict of git" in refusal  # `a` and `./a`; a line of `<<<<<<< `
        return
    expected = sorted((name, label, SPLITS[split], group, share) for name, label, split, group, share in named)
    assert list(found.table.itertuples(index=False, name=None)) == expected
    assert found.classes == sorted({label for _, label, *_ in named})


@given(head=st.sampled_from(["", "path,label\n", "\ufeff"]), text=st.text(max_size=60))
def test_a_text_is_a_list_of_images_or_refused_in_one_line(head: str, text: str, folder: Path) -> None:
    (folder / "any.csv").write_bytes((head + text).encode("utf-8", "surrogatepass"))
    try:
        assert len(listing.read(folder / "any.csv").classes) > 1
    except DataError as error:
        check_line(str(error))


def paths_of(tree: dict[str, Any], above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    inner = [path for key, value in tree.items() if isinstance(value, dict) for path in paths_of(value, (*above, key))]
    return [*((*above, key) for key in tree), *inner]


value = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["auto", "head", "all"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=60)
@given(changes=st.lists(st.tuples(st.sampled_from(paths_of(TREE)), st.booleans(), value), min_size=1, max_size=3))
def test_params_with_any_value_in_any_place_are_taken_or_refused_with_the_name_of_the_file_in_each_line(
    changes: list[tuple[tuple[str, ...], bool, Any]], folder: Path
) -> None:
    tree = copy.deepcopy(TREE)
    for path, beside, new in changes:
        with contextlib.suppress(KeyError, TypeError):  # another change has replaced what it is in
            section = tree
            for key in path[:-1]:
                section = section[key]
            section[f"{path[-1]}s" if beside else path[-1]] = new
    (folder / "params.yaml").write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
    try:
        load_params(folder / "params.yaml")
    except ParamsError as error:
        lines = str(error).splitlines()
        assert all("params.yaml" in line for line in lines)


@given(files=st.dictionaries(st.sampled_from(["a", "b", "sub/c"]), st.binary(max_size=20), min_size=1), data=st.data())
def test_a_folder_verifies_if_and_only_if_each_of_its_bytes_is_as_it_was(
    files: dict[str, bytes], data: st.DataObject, folder: Path
) -> None:
    with artifacts.new_folder(folder / "made") as made:
        for name, content in files.items():
            (made / name).parent.mkdir(exist_ok=True)
            (made / name).write_bytes(content)
    before = artifacts.verify(folder / "made")
    name = data.draw(st.sampled_from(sorted(files)))
    now: bytes | None = data.draw(st.none() | st.binary(max_size=20))
    if now is None:
        (folder / "made" / name).unlink()
    else:
        (folder / "made" / name).write_bytes(now)
    if now == files[name]:
        assert artifacts.verify(folder / "made") == before
    else:
        with pytest.raises(ArtifactError, match=name):
            artifacts.verify(folder / "made")


@given(
    st.sampled_from(["PNG", "BMP", "TIFF", "WEBP"]),
    st.integers(16, 24),
    st.sampled_from([1, 3]),
    st.integers(0, 2**32 - 1),
    st.sampled_from(["crop", "pad", "squash"]),
)
def test_the_pixels_of_a_square_are_those_that_were_saved(
    kind: str, side: int, channels: int, seed: int, fit: Literal["crop", "pad", "squash"]
) -> None:
    shape = (side, side, channels) if channels > 1 else (side, side)
    values = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    file = BytesIO()
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    Image.fromarray(values).save(file, kind, **options)
    found = decode(file.getvalue(), size_px=side, fit=fit, background=255, max_megapixels=1)
    assert (found.width, found.height, found.planes, found.measured) == (side, side, 1, None)
    np.testing.assert_array_equal(found.pixels, values.reshape(side, side, channels))


@given(st.sampled_from(FILES), st.integers(0, 64), st.binary(min_size=1, max_size=24))
def test_bytes_that_begin_as_an_image_become_a_square_or_a_reason_in_one_line(
    file: bytes, start: int, changed: bytes
) -> None:
    data = file[:start] + changed + file[start + len(changed) :]
    try:
        found = decode(data, size_px=16, fit="pad", background=0, max_megapixels=1)
    except UnusableError as error:
        check_line(str(error))
    else:
        assert found.pixels.shape[:2] == (16, 16)
        assert found.width * found.height <= 1e6
