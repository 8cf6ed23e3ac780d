"""Answers for files, a batch at a time, however many files there are."""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import islice, tee
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from thaw.data.pixel_values import Pixels
from thaw.data.places import Member
from thaw.data.square import square_of
from thaw.errors import DataError, ThawError
from thaw.pipeline.bounded import Lost
from thaw.serving.exported import Exported

BATCH = 32
_LONGEST_STEM = 80

Row = dict[str, str | float]


@dataclass(frozen=True)
class Answer:
    """What became of one file: probabilities [classes], or the reason why it cannot be used."""

    path: Path
    probabilities: NDArray[np.float64] | None = None
    reason: str = ""
    explanation: Path | None = None
    """The overlay that was written, if one was asked for."""


def answer(model: Exported, images: Iterable[Path | Member], *, explain: Path | None = None) -> Iterator[Answer]:
    """Yield an answer for each image, in order; with `explain`, write an overlay for the class that was answered.

    Raises: ThawError if an overlay cannot be written.
    """
    sources, ahead = tee(images)
    with model.reading() as reading:
        pending = zip(sources, reading.map(ahead), strict=True)
        while batch := list(islice(pending, BATCH)):
            found = [_square_or_reason(image, read) for image, read in batch]
            squares = [square for square in found if not isinstance(square, str)]
            probabilities = iter(model.probabilities(np.stack(squares)) if squares else np.zeros((0, 0)))
            for (image, _), square in zip(batch, found, strict=True):
                path = image.path if isinstance(image, Member) else image
                if isinstance(square, str):
                    yield Answer(path, reason=square)
                    continue
                own: NDArray[np.float64] = next(probabilities)
                overlay = None if explain is None else _explained(model, path, square, int(own.argmax()), explain)
                yield Answer(path, own, explanation=overlay)


def _square_or_reason(image: Path | Member, read: Pixels | str | Lost) -> Pixels | str:
    try:
        return square_of(image, read)
    except DataError as error:
        return str(error)


def columns(classes: Sequence[str], *, top: int | None, explained: bool) -> list[str]:
    """Return the columns: the class and its probability, then those of all classes or of the next best, and the model.

    Raises: DataError if more classes are asked for than there are.
    """
    if top is None:
        rest = [f"p:{name}" for name in classes]
    elif top > len(classes):
        raise DataError(f"--top is {top}, and the model knows {len(classes)} classes; give 1 to {len(classes)}")
    else:
        rest = [f"{word}_{place}" for place in range(2, top + 1) for word in ("class", "probability")]
    return ["path", "class", "probability", *rest, "model", *(["explanation"] if explained else [])]


def row(answered: Answer, classes: Sequence[str], names: Sequence[str], model: str) -> Row:
    """Return an answer of the model of a name as a row with the columns of these names."""
    assert answered.probabilities is not None
    values = answered.probabilities.tolist()
    best = sorted(range(len(values)), key=lambda index: -values[index])
    filled: Row = {"path": printable(answered.path), "class": classes[best[0]], "probability": values[best[0]]}
    filled["model"] = model
    filled |= {f"p:{name}": value for name, value in zip(classes, values, strict=True)}
    for place, index in enumerate(best[1:], start=2):
        filled |= {f"class_{place}": classes[index], f"probability_{place}": values[index]}
    if answered.explanation is not None:
        filled["explanation"] = printable(answered.explanation)
    return {name: filled[name] for name in names}


def printable(path: Path) -> str:
    r"""Return a path as text; bytes of its name that are not UTF-8 become \x and two digits."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _explained(model: Exported, path: Path, square: Pixels, class_index: int, folder: Path) -> Path:
    """Write the overlay of one image and return its path: a name of its own for each path, all in one folder."""
    stem = re.sub(r"[^\w.-]+", "_", printable(path).rpartition("/")[2].rpartition(".")[0], flags=re.ASCII)
    name = f"{stem[:_LONGEST_STEM]}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:12]}.png"
    buffer, target, partial = BytesIO(), folder / name, folder / f".{name}.partial"
    Image.fromarray(model.explain(square, class_index)).save(buffer, "PNG")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(buffer.getvalue())
        partial.replace(target)
    except OSError as error:
        raise ThawError(f"{target} cannot be written: {error.strerror}; give another folder to --explain") from None
    return target
