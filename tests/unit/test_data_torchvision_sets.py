"""Data sets as torchvision lays them out; torchvision itself is the oracle for what is in them."""

import gzip
import json
import os
import pickle
import struct
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

from thaw.config.schema import DataParams
from thaw.data import decoding, listing
from thaw.data.ingest import read as read_image
from thaw.errors import DataError

DRAWS = np.random.default_rng(0)


def listed(root: Path, name: str) -> listing.Listing:
    return listing.read(root, data=DataParams(raw=str(root), layout=f"torchvision:{name}"))


def pixels(found: listing.Listing, path: str) -> Any:
    source = str(found.root.resolve()) if found.archive is None else found.archive
    data = read_image(source, path, 1)
    with Image.open(BytesIO(data)) as image:
        return np.asarray(image)


def dump(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        pickle.dump(content, file, protocol=2)


def old_dump(path: Path, content: object) -> None:
    """Write a pickle with bytes as Python 2 wrote texts, which is how the files of CIFAR have their arrays."""

    def save_text(pickler: Any, data: bytes) -> None:
        pickler.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        pickler.memoize(data)

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        pickler: Any = pickle._Pickler(file, protocol=2)
        pickler.dispatch = pickler.dispatch | {bytes: save_text}
        pickler.dump(content)


@pytest.fixture
def cifar(tmp_path: Path) -> Path:
    folder = tmp_path / "cifar-10-batches-py"
    old_dump(folder / "batches.meta", {"label_names": ["plane", "car"]})
    for file in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        data = DRAWS.integers(0, 256, (4, 3072), np.uint8)
        old_dump(folder / file, {"data": data, "labels": [0, 1, 1, 0]})
    return tmp_path


def test_cifar_has_the_pixels_and_labels_that_torchvision_reads(cifar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.CIFAR10, "_check_integrity", lambda _: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    found, start = listed(cifar, "CIFAR10"), 0
    assert found.notes == [f"{cifar}: the arrays of CIFAR10 are read as BMP files"]
    for split, train in (("train", True), ("test", False)):
        theirs = datasets.CIFAR10(str(cifar), train=train)
        rows = found.table[found.table["split"] == split]
        by_number = {int(path[-9:-4]): (path, label) for path, label in zip(rows["path"], rows["label"], strict=True)}
        for number, (image, target) in enumerate(theirs, start=start):
            path, label = by_number[number]
            assert label == theirs.classes[target]
            assert np.array_equal(pixels(found, path), np.asarray(image))
        start += len(theirs)


def test_cifar_100_takes_its_fine_labels(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-python"
    old_dump(folder / "meta", {"fine_label_names": ["ash", "bee"], "coarse_label_names": ["all"]})
    for file in ("train", "test"):
        data = DRAWS.integers(0, 256, (2, 3072), np.uint8)
        old_dump(folder / file, {"data": data, "fine_labels": [0, 1], "coarse_labels": [0, 0]})
    assert listed(tmp_path, "CIFAR100").table["label"].tolist() == ["ash", "bee"] * 2


class _Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("trapped",)


@pytest.mark.parametrize(
    "content",
    [
        _Trap(),
        {"label_names": _Trap()},
        {"label_names": np.array([_Trap()], dtype=object)},
        {"label_names": Path("a")},
        [1],
        {},
    ],
)
def test_a_pickle_that_is_no_data_set_runs_nothing(
    cifar: Path, content: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    dump(cifar / "cifar-10-batches-py" / "batches.meta", content)
    with pytest.raises(DataError, match=r"the files of CIFAR10 are damaged \(.*\); bring them again"):
        listed(cifar, "CIFAR10")
    assert not (tmp_path / "trapped").exists()


def test_a_pickle_that_claims_memory_or_ends_early_is_refused(cifar: Path) -> None:
    path = cifar / "cifar-10-batches-py" / "data_batch_1"
    whole = path.read_bytes()
    for data in (whole[: len(whole) // 2], b"\x80\x02]r\xff\xff\xff\x7f.", b"", b"\x80\x02U"):
        path.write_bytes(data)
        with pytest.raises(DataError, match="the files of CIFAR10 are damaged"):
            listed(cifar, "CIFAR10")


def idx(path: Path, values: Any, *, packed: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = struct.pack(">I", 0x800 + values.ndim) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()
    if packed:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(data))
    else:
        path.write_bytes(data)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST"])
def test_mnist_has_the_pixels_and_labels_that_torchvision_reads(tmp_path: Path, name: str, packed: bool) -> None:
    for start in ("train", "t10k"):
        raw = tmp_path / name / "raw"
        idx(raw / f"{start}-images-idx3-ubyte", DRAWS.integers(0, 256, (6, 28, 28), np.uint8), packed=packed)
        idx(raw / f"{start}-labels-idx1-ubyte", np.array([0, 1, 5, 9, 0, 1], np.uint8), packed=packed)
    found = listed(tmp_path, name)
    if not packed:
        theirs = getattr(datasets, name)(str(tmp_path), train=True)
        rows = found.table[found.table["split"] == "train"]
        for path, label in zip(rows["path"], rows["label"], strict=True):
            image, target = theirs[int(path[-9:-4])]
            assert label == theirs.classes[target]
            assert np.array_equal(pixels(found, path), np.asarray(image))
    assert found.table["path"][0].startswith("test/")
    path = found.table["path"][0]
    assert found.archive is not None
    picture = decoding.decode(
        found.archive.read(path, 1), size_px=28, fit="crop", background=0, max_megapixels=1, value_range=None
    )
    assert picture.pixels.shape == (28, 28, 1)
    broken = tmp_path / name / "raw" / ("train-labels-idx1-ubyte.gz" if packed else "train-labels-idx1-ubyte")
    broken.write_bytes(broken.read_bytes()[:-3])
    with pytest.raises(DataError, match=f"the files of {name} are damaged"):
        listed(tmp_path, name)


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(root / name)


def rows(found: listing.Listing) -> list[list[str]]:
    return found.table[["path", "label", "split"]].values.tolist()


def test_pets_have_the_labels_that_torchvision_reads(tmp_path: Path) -> None:
    top = tmp_path / "oxford-iiit-pet"
    touch(top, *(f"images/{name}.jpg" for name in ("Abyssinian_1", "great_pyrenees_2", "Abyssinian_3")))
    (top / "annotations").mkdir()
    (top / "annotations" / "trainval.txt").write_text("Abyssinian_1 1 1 1\ngreat_pyrenees_2 2 2 1\n")
    (top / "annotations" / "test.txt").write_text("Abyssinian_3 1 1 1\n")
    found = listed(tmp_path, "OxfordIIITPet")
    theirs = datasets.OxfordIIITPet(str(tmp_path), split="trainval")
    assert [row[1] for row in rows(found) if row[2] == "train"] == theirs.classes
    assert [row[2] for row in rows(found)] == ["train", "test", "train"]
    assert found.source == tmp_path


def test_food_flowers_and_eurosat_are_read_where_they_lie(tmp_path: Path) -> None:
    (tmp_path / "food-101" / "meta").mkdir(parents=True)
    for split, names in {"train": {"pie": ["pie/1"], "ham": ["ham/2"]}, "test": {"pie": ["pie/3"], "ham": []}}.items():
        (tmp_path / "food-101" / "meta" / f"{split}.json").write_text(json.dumps(names))
    assert rows(listed(tmp_path, "Food101")) == [
        ["food-101/images/ham/2.jpg", "ham", "train"],
        ["food-101/images/pie/1.jpg", "pie", "train"],
        ["food-101/images/pie/3.jpg", "pie", "test"],
    ]
    (tmp_path / "flowers-102").mkdir()
    savemat(tmp_path / "flowers-102" / "imagelabels.mat", {"labels": np.array([[77, 77, 3]])})
    sets = {"trnid": np.array([[3, 1]]), "valid": np.array([[2]]), "tstid": np.zeros((1, 0), int)}
    savemat(tmp_path / "flowers-102" / "setid.mat", sets)
    assert rows(listed(tmp_path, "Flowers102")) == [
        ["flowers-102/jpg/image_00001.jpg", "77", "train"],
        ["flowers-102/jpg/image_00002.jpg", "77", "val"],
        ["flowers-102/jpg/image_00003.jpg", "3", "train"],
    ]
    touch(tmp_path, "eurosat/2750/Forest/1.jpg", "eurosat/2750/River/2.jpg")
    assert [row[1:] for row in rows(listed(tmp_path, "EuroSAT"))] == [["Forest", ""], ["River", ""]]


def test_what_is_not_there_or_not_known_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"batches.meta is not there, which torchvision:CIFAR10 needs; have torchvision"
    ):
        listed(tmp_path, "CIFAR10")
    with pytest.raises(DataError, match=r"torchvision:PCAM; Thaw reads CIFAR10, CIFAR100, EuroSAT, "):
        listed(tmp_path, "PCAM")
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(
        DataError, match=r"holds CIFAR10 as torchvision lays it out; set data.layout to torchvision:CIF"
    ):
        listing.read(tmp_path)


@pytest.fixture
def svhn(tmp_path: Path) -> Path:
    for split, labels in (("train", [1, 10, 9, 1]), ("test", [10, 1])):
        pixels = DRAWS.integers(0, 256, (32, 32, 3, len(labels)), np.uint8)
        savemat(tmp_path / f"{split}_32x32.mat", {"X": pixels, "y": np.array(labels)[:, None]}, do_compression=True)
    return tmp_path


def test_svhn_has_the_pixels_and_labels_that_torchvision_reads(svhn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.SVHN, "_check_integrity", lambda _: True)
    found, start = listed(svhn, "SVHN"), 0
    for split in ("train", "test"):
        theirs = datasets.SVHN(str(svhn), split=split)
        rows = found.table[found.table["split"] == split]
        by_number = {int(path[-9:-4]): (path, label) for path, label in zip(rows["path"], rows["label"], strict=True)}
        for number, (image, target) in enumerate(theirs, start=start):
            path, label = by_number[number]
            assert label == str(int(target))
            assert np.array_equal(pixels(found, path), np.asarray(image))
        start += len(theirs)
    assert start == 6


def test_svhn_that_is_incomplete_damaged_or_of_other_arrays_is_refused(svhn: Path) -> None:
    with pytest.raises(DataError, match=r"set data.layout to torchvision:SVHN to read it so"):
        listing.read(svhn)
    path = svhn / "train_32x32.mat"
    whole = path.read_bytes()
    for length in (0, 50, 127, 200, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match="the files of SVHN are damaged"):
            listed(svhn, "SVHN")
    small = np.zeros((32, 32, 3, 2), np.uint8)
    for content in (
        {"X": small},
        {"X": small.astype(float), "y": [1, 2]},
        {"X": small, "y": [0, 1]},
        {"X": small, "y": [1, 2, 3]},
        {"X": [{"a": 1}], "y": [1, 2]},
    ):
        savemat(path, content)
        with pytest.raises(DataError, match="the files of SVHN are damaged"):
            listed(svhn, "SVHN")
    path.unlink()
    with pytest.raises(DataError, match=r"train_32x32.mat is not there.*split, download=True\) for split in"):
        listed(svhn, "SVHN")


def test_a_file_of_matlab_that_takes_too_much_memory_is_refused_by_its_own_process(svhn: Path) -> None:
    reading = (
        "import sys\n"
        "from pathlib import Path\n"
        "from thaw.config.schema import DataParams\n"
        "from thaw.data import listing, torchvision_sets\n"
        "from thaw.pipeline.bounded import Bounds\n"
        "torchvision_sets._MATLAB = Bounds(memory_bytes=2**27, seconds=60)\n"
        "data = DataParams(raw=sys.argv[1], layout='torchvision:SVHN')\n"
        "print(len(listing.read(Path(data.raw), data=data).table))\n"
    )

    def read() -> subprocess.CompletedProcess[str]:
        # In a process of its own: what this one has freed would serve the array, whatever the limit.
        command = [sys.executable, "-c", reading, str(svhn)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert read().stdout == "6\n"
    huge = np.zeros((32, 32, 3, 70_000), np.uint8)
    savemat(svhn / "train_32x32.mat", {"X": huge, "y": np.ones((70_000, 1), np.uint8)}, do_compression=True)
    assert (svhn / "train_32x32.mat").stat().st_size < 10**6
    said = read().stderr.splitlines()[-1]
    assert said.startswith("thaw.errors.DataError: ")
    assert ": the files of SVHN are damaged (train_32x32.mat: " in said


def test_the_extra_images_of_svhn_are_said_to_be_unused(svhn: Path) -> None:
    (svhn / "extra_32x32.mat").touch()
    assert listed(svhn, "SVHN").notes == [
        f"{svhn}: the arrays of SVHN are read as BMP files",
        f"{svhn / 'extra_32x32.mat'} is not used: it is none of train and test",
    ]
