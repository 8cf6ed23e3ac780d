"""The exported model of a revision, asked about images that its own run has not tested. Without torch."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from thaw.config.reader import PARAMS_FILE, read_tree
from thaw.config.schema import DataParams
from thaw.data import sources
from thaw.errors import ArtifactError, ThawError
from thaw.pipeline import artifacts
from thaw.pipeline.revisions import Tree
from thaw.progress import progress
from thaw.serving.answers import answer
from thaw.serving.exported import Exported

EXPORT = "models/export"


@dataclass(frozen=True)
class Asked:
    """What an exported model answers."""

    classes: list[str]
    """In the order of the probabilities."""
    probabilities: Mapping[str, NDArray[np.float64]]
    """[classes] by the image's id; an image that the model cannot use is absent."""
    unusable: list[str]
    """The reason for each of those."""


def ask(model: Tree, images: Tree, tested: pd.DataFrame, folder: Path) -> Asked:
    """Return what the exported model of one revision answers for images of another.

    tested has the columns id, path and sha256 of samples.csv, a row for each image. The model sees the files of
    `data.raw` through its own preprocessing; what must be fetched goes below `folder`.
    Raises: ArtifactError if the model or an image cannot be had, or is not what it was when it was prepared.
    """
    exported = Exported.open(model.fetch_artifact(EXPORT, folder))
    paths = _files(images, tested, folder / "images")
    answered = progress(answer(exported, paths), total=len(tested), label=f"the model of {model.name}")
    found, unusable = {}, []
    for name, one in zip(tested["id"], answered, strict=True):
        if one.probabilities is None:
            unusable.append(one.reason)
        else:
            found[name] = one.probabilities / one.probabilities.sum()
    return Asked(exported.classes, found, unusable)


def _files(images: Tree, tested: pd.DataFrame, folder: Path) -> Iterator[Path]:
    """Yield the file of each image, once its content is seen to be what `prepare` read."""
    raw = str(read_tree(images.fetch(str(PARAMS_FILE), folder))["data"]["raw"])
    is_file = _is_file(images, raw)
    copy = images.fetch(raw, folder) if is_file else None
    if copy is not None and sources.kind_of(copy) != "table":
        yield from _unpacked(copy, images, tested, folder)
        return
    if Path(raw).is_dir() and (kind := sources.kind_of(Path(raw))) != "folder":
        raise ArtifactError(f"{raw} holds the images in {kind}, which are not looked up in {images.shown}")
    root = Path(raw).parent if is_file else Path(raw)
    for path, sha256 in zip(tested["path"], tested["sha256"], strict=True):
        file = images.fetch((root / path).as_posix(), folder)
        if artifacts.sha256_of(file) != sha256:
            raise ArtifactError(f"{root / path} of {images.shown} has changed since it was prepared; run `dvc repro`")
        yield file


def _unpacked(copy: Path, images: Tree, tested: pd.DataFrame, folder: Path) -> Iterator[Path]:
    """Yield each image of an archive as a file of its own."""
    place = sources.open_source(copy, DataParams(raw=str(copy), task="single-label")).place
    for number, (path, sha256) in enumerate(zip(tested["path"], tested["sha256"], strict=True)):
        data = place.content(path)
        if artifacts.sha256_of_bytes(data) != sha256:
            raise ArtifactError(f"{copy.name} of {images.shown} has changed since it was prepared; run `dvc repro`")
        file = folder / f"{number:08d}{Path(path).suffix}"
        file.write_bytes(data)
        yield file


def _is_file(images: Tree, path: str) -> bool:
    try:
        images.open(path).close()
    except ThawError:
        return False
    return True
