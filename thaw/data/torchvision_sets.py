"""Data sets that torchvision has laid out on disk, read without torchvision, and never downloaded.

CIFAR's files are pickles, which could run anything: what reads them knows arrays, texts, numbers, lists and mappings,
and calls nothing that a file names. Images that are arrays there become BMP files, which hold their pixels as they are
and have the same bytes on every machine.
"""

import gzip
import json
import math
import pickle
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from thaw.config.schema import DataParams
from thaw.data import manifest
from thaw.data.dialect import Sheet
from thaw.data.manifest import Manifest
from thaw.data.places import Folder, Part, Place
from thaw.data.unpacked import Unpacked
from thaw.errors import DataError, first_line
from thaw.pipeline.bounded import Bounded, Bounds, Lost

PREFIX = "torchvision:"

_Row = tuple[str, str, str]
"""Path, label and split ('' for none) of an image that is a file."""
_Drawn = tuple[NDArray[np.uint8], str, str]
"""Pixels, label and split of an image that is not."""

_DIGITS = tuple(f"{number} - {word}" for number, word in enumerate(
    ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
))  # fmt: skip
_CLOTHES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_MOST_VALUES = 2**31
_EXTRA = "extra_32x32.mat"
_MATLAB = Bounds(memory_bytes=2**31, seconds=60)
_DAMAGED = (pickle.UnpicklingError, ValueError, KeyError, TypeError, IndexError, EOFError, OSError, zlib.error,
            AttributeError, OverflowError)  # fmt: skip


def read(root: Path, name: str, data: DataParams) -> tuple[Place, Manifest]:
    """Return the images of a data set that torchvision's class `name` has put below `root`, with labels and splits.

    Raises: DataError if it is not there, is damaged, or is one that Thaw does not know.
    """
    if name not in _FILES | _ARRAYS:
        known = ", ".join(sorted(_FILES | _ARRAYS))
        raise DataError(
            f"data.layout is {PREFIX}{name}; Thaw reads {known}; write another one as a folder with a sub-folder for "
            "each class"
        )
    if not root.is_dir():
        raise DataError(f"data.layout is {PREFIX}{name}, and {root} is no folder; unpack it as torchvision does")
    notes = []
    try:
        if name in _FILES:
            place: Place = Folder(root)
            rows = list(_FILES[name](root))
        else:
            place, rows = _drawn(root, _ARRAYS[name](root))
            notes.append(f"{root}: the arrays of {name} are read as BMP files")
        if name == "SVHN" and (root / _EXTRA).exists():
            notes.append(f"{root / _EXTRA} is not used: it is none of train and test")
    except FileNotFoundError as error:
        bring = f"S('{root}', download=True)"
        if name == "SVHN":  # of which it brings one split at a time
            bring = f"[S('{root}', split, download=True) for split in ('train', 'test')]"
        raise DataError(
            f"{error.filename} is not there, which {PREFIX}{name} needs; have torchvision bring it: python -c "
            f'"from torchvision.datasets import {name} as S; {bring}"'
        ) from None
    except _DAMAGED as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{root}: the files of {name} are damaged ({said}); bring them again") from None
    cells = pd.DataFrame(rows, columns=["path", "label", "split"], dtype=object)
    if not cells["split"].any():
        cells = cells.drop(columns="split")
    how = data.model_copy(update={"task": "single-label", "columns": {}, "ignore_columns": ()})
    found = manifest.of_cells(Sheet(cells, []), root, place, how)
    return place, Manifest(found.table, [*notes, *found.notes])


def _drawn(root: Path, drawn: Iterable[_Drawn]) -> tuple[Place, list[_Row]]:
    """Return the images as files, unpacked, each below its split and its class, with a number in order."""
    parts, rows = dict[str, Part](), list[_Row]()
    with Unpacked(root) as unpacked:
        for number, (pixels, label, split) in enumerate(drawn):
            file = BytesIO()
            Image.fromarray(pixels).save(file, "BMP")
            path = f"{split}/{label.replace('/', '-')}/{number:05d}.bmp"
            parts[path] = unpacked.append(file.getvalue())
            rows.append((path, label, split))
        return unpacked.archive(root, parts), rows


def _cifar10(root: Path) -> Iterator[_Drawn]:
    folder = root / "cifar-10-batches-py"
    names = _unpickled(folder / "batches.meta")["label_names"]
    for split, files in {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}.items():
        for file in files:
            yield from _batch(_unpickled(folder / file), "labels", names, split)


def _cifar100(root: Path) -> Iterator[_Drawn]:
    folder = root / "cifar-100-python"
    names = _unpickled(folder / "meta")["fine_label_names"]
    for split in ("train", "test"):
        yield from _batch(_unpickled(folder / split), "fine_labels", names, split)


def _batch(batch: Mapping[str, Any], key: str, names: Sequence[str], split: str) -> Iterator[_Drawn]:
    """Yield the images of a batch: planes of red, green and blue, of 32 rows of 32 each."""
    planes = batch["data"].values().reshape(-1, 3, 32, 32)
    for image, label in zip(planes, batch[key], strict=True):
        yield np.ascontiguousarray(image.transpose(1, 2, 0)), str(names[label]), split


class _Array:
    """What a pickle says of a numpy array, of which numpy itself never sees more than the bytes."""

    state: tuple[Any, ...] = ()

    def __init__(self, *_: object) -> None:
        """Take no heed of what a pickle gives to numpy's constructor."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def values(self) -> NDArray[np.uint8]:
        """Return the array of bytes. Raises: ValueError if it is of another kind."""
        _, shape, kind, fortran, data = self.state
        data = data.encode("latin-1") if isinstance(data, str) else data
        if fortran or kind.arguments[:1] != ("u1",) or not isinstance(data, bytes):
            raise ValueError("an array of something else than bytes")
        return np.frombuffer(data, np.uint8).reshape(shape)


class _Type:
    """What a pickle says of the type of a numpy array."""

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments

    def __setstate__(self, state: object) -> None:
        """Take no heed: a type of one byte has no order of bytes."""


class _Reader(pickle._Unpickler):  # noqa: SLF001 - the one in C makes as much room as a hostile file says
    """Reads arrays and plain values; every other name in a pickle is refused, and none is imported."""

    def find_class(self, module: str, name: str) -> Any:
        """Return a stand-in for one of numpy's names. Raises: UnpicklingError for any other."""
        known: dict[tuple[str, str], type] = {
            ("numpy.core.multiarray", "_reconstruct"): _Array,
            ("numpy._core.multiarray", "_reconstruct"): _Array,
            ("numpy", "ndarray"): _Array,
            ("numpy", "dtype"): _Type,
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it names {module}.{name}, and data sets need no such thing")
        return known[module, name]


def _unpickled(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        found = _Reader(file, encoding="latin-1").load()
    if not isinstance(found, dict):
        raise TypeError(f"{path.name} holds no mapping")
    return found


def _mnist(name: str, classes: Sequence[str]) -> Callable[[Path], Iterator[_Drawn]]:
    """Return what reads the files of MNIST, or of a set in its form, with these classes."""

    def images(root: Path) -> Iterator[_Drawn]:
        for split, start in (("train", "train"), ("test", "t10k")):
            pixels = _idx(root / name / "raw" / f"{start}-images-idx3-ubyte", 3)
            labels = _idx(root / name / "raw" / f"{start}-labels-idx1-ubyte", 1)
            for image, label in zip(pixels, labels, strict=True):
                yield image, classes[int(label)], split

    return images


def _idx(path: Path, num_axes: int) -> NDArray[np.uint8]:
    """Return an array of bytes from a file in IDX (yann.lecun.com/exdb/mnist), packed by gzip or not."""
    packed = path.with_name(f"{path.name}.gz")
    is_packed = packed.exists() and not path.exists()
    with (packed if is_packed else path).open("rb") as plain:
        file = gzip.GzipFile(fileobj=plain) if is_packed else plain
        header = np.frombuffer(file.read(4 * (1 + num_axes)), ">u4")
        shape = [int(length) for length in header[1:]]
        if len(shape) != num_axes or header[0] != 0x800 + num_axes or math.prod(shape) > _MOST_VALUES:
            raise ValueError(f"{path.name} is no IDX of {num_axes} axes of bytes")
        values = np.frombuffer(file.read(math.prod(shape)), np.uint8).reshape(shape)
        if file.read(1):  # and so gzip has compared its checksum
            raise ValueError(f"{path.name} is longer than its header says")
        return values


def _flowers(root: Path) -> Iterator[_Row]:
    folder = root / "flowers-102"
    labels = _matrices(folder / "imagelabels.mat", "labels")["labels"].ravel()
    numbers = _matrices(folder / "setid.mat", "trnid", "valid", "tstid")
    for split, key in (("train", "trnid"), ("val", "valid"), ("test", "tstid")):
        for number in numbers[key].ravel().tolist():
            yield f"flowers-102/jpg/image_{number:05d}.jpg", str(labels[number - 1]), split


def _svhn(root: Path) -> Iterator[_Drawn]:
    """Yield the images of SVHN (ufldl.stanford.edu/housenumbers, format 2), where class 10 is the digit 0."""
    for split in ("train", "test"):
        found = _matrices(root / f"{split}_32x32.mat", "X", "y")
        pixels, labels = found["X"], found["y"].ravel()
        if pixels.dtype != np.uint8 or pixels.shape != (32, 32, 3, len(labels)) or not set(labels) <= {*range(1, 11)}:
            raise ValueError(f"{split}_32x32.mat holds no images of 32 by 32 with labels from 1 to 10")
        for number, label in enumerate(labels.tolist()):
            yield np.ascontiguousarray(pixels[:, :, :, number]), str(label % 10), split


def _matrices(path: Path, *names: str) -> dict[str, NDArray[Any]]:
    """Return arrays of numbers from a file of MATLAB, read by a process within a limit of memory and of time."""
    path.open("rb").close()
    with Bounded(_loaded, _MATLAB) as process:
        found = process((path, names))
    if isinstance(found, Lost):
        raise ValueError(f"{path.name}: {found.reason}")
    return found


def _loaded(asked: tuple[Path, tuple[str, ...]]) -> dict[str, NDArray[Any]]:
    from scipy.io import loadmat  # 0.2 s, and few layouts need it

    path, names = asked
    try:
        found = loadmat(path, appendmat=False, variable_names=list(names))
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a damaged file leads scipy to
        raise ValueError(f"{path.name} cannot be read: {first_line(error)}") from None
    if wrong := [name for name in names if name not in found or found[name].dtype.kind not in "ui"]:
        raise ValueError(f"{path.name} holds no {wrong[0]} of whole numbers")
    return {name: found[name] for name in names}


def _pets(root: Path) -> Iterator[_Row]:
    folder = root / "oxford-iiit-pet"
    for split, name in (("train", "trainval.txt"), ("test", "test.txt")):
        for line in (folder / "annotations" / name).read_text(encoding="utf-8").splitlines():
            image = line.split()[0]
            label = " ".join(part.title() for part in image.rpartition("_")[0].split("_"))
            yield f"oxford-iiit-pet/images/{image}.jpg", label, split


def _food(root: Path) -> Iterator[_Row]:
    for split in ("train", "test"):
        text = (root / "food-101" / "meta" / f"{split}.json").read_text(encoding="utf-8")
        for label, names in json.loads(text).items():
            yield from ((f"food-101/images/{name}.jpg", label, split) for name in names)


def _eurosat(root: Path) -> Iterator[_Row]:
    place = Folder(root / "eurosat" / "2750")
    for folder in place.entries():
        if folder.kind == "folder":
            yield from (
                (f"eurosat/2750/{folder.name}/{file.name}", folder.name, "") for file in place.entries(folder.name)
            )


_FILES: dict[str, Callable[[Path], Iterator[_Row]]] = {
    "Flowers102": _flowers,
    "OxfordIIITPet": _pets,
    "Food101": _food,
    "EuroSAT": _eurosat,
}
_ARRAYS: dict[str, Callable[[Path], Iterator[_Drawn]]] = {
    "CIFAR10": _cifar10,
    "CIFAR100": _cifar100,
    "SVHN": _svhn,
    "MNIST": _mnist("MNIST", _DIGITS),
    "FashionMNIST": _mnist("FashionMNIST", _CLOTHES),
}
_SIGNS = {
    "cifar-10-batches-py": "CIFAR10",
    "cifar-100-python": "CIFAR100",
    "train_32x32.mat": "SVHN",
    "MNIST/raw": "MNIST",
    "FashionMNIST/raw": "FashionMNIST",
    "flowers-102/setid.mat": "Flowers102",
    "oxford-iiit-pet/annotations": "OxfordIIITPet",
    "food-101/meta": "Food101",
    "eurosat/2750": "EuroSAT",
}


def check_said(root: Path) -> None:
    """Raises: DataError if a folder holds data sets as torchvision lays them out, with the setting that reads one."""
    if found := [name for sign, name in _SIGNS.items() if (root / sign).exists()]:
        more = f" (or {', '.join(found[1:])})" if len(found) > 1 else ""
        raise DataError(
            f"{root} holds {found[0]} as torchvision lays it out{more}; set data.layout to {PREFIX}{found[0]} to "
            "read it so"
        )
