"""The exported classifier: answers and explanations from models/export, with ONNX Runtime and without torch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from thaw.data.pixel_values import Pixels
from thaw.data.square import Image, read_square, reading
from thaw.errors import ArtifactError, DataError, first_line
from thaw.networks.onnx.runtime import open_session
from thaw.pipeline import artifacts, elsewhere, facts
from thaw.pipeline.bounded import Bounded
from thaw.pipeline.model_facts import ExportedFacts
from thaw.serving.explain import occluded, overlay, patch_places

ONNX_FILE = "model.onnx"
FACTS_FILE = "model.json"
FORMAT = 1
"""Of model.json and of the metadata in the ONNX file: raised when a reader would misunderstand a newer one."""

CLASS_MAPS = "class activation mapping"
OCCLUSION = "occlusion"

# Networks at once: ONNX Runtime is no faster on more, and the memory that it works in grows with them.
_AT_ONCE = 8
_NAMED_BY = 12  # digits of the fingerprint

Squares = Pixels


@dataclass(frozen=True)
class Exported:
    """A classifier that `export` wrote. Its answers may be asked for from several threads."""

    facts: ExportedFacts
    """model.json."""
    fingerprint: str
    """SHA-256 of the manifest of the folder."""
    _session: Any
    version: str = ""
    """What the registry calls it, such as classifier@v1.0.0, where that is known."""

    @classmethod
    def open(
        cls, folder: Path | str = "models/export", *, threads: int | None = None, version: str | None = None
    ) -> Self:
        """Return the classifier in a folder, or in REPOSITORY#PATH@REVISION, from where DVC brings it.

        `threads` None takes every core that this process may use. `version` None is the revision, if there is one.
        Raises: ArtifactError if it is missing, altered, no exported classifier, or its files do not belong together.
        """
        if elsewhere.is_elsewhere(str(folder)):
            version = version or elsewhere.revision_of(str(folder))
            folder = elsewhere.bring(str(folder))
        folder = Path(folder)
        if any(folder.glob("*.safetensors")):
            raise ArtifactError(
                f"{folder} holds a model of torch; run `dvc repro export` and give models/export, which needs no torch"
            )
        fingerprint = artifacts.verify(folder)
        return cls.unverified(folder, fingerprint, threads=threads, version=version or "")

    @classmethod
    def unverified(cls, folder: Path, fingerprint: str = "", *, threads: int | None = None, version: str = "") -> Self:
        """Return the classifier in a folder that has no manifest yet: the one that is being written.

        Raises: ArtifactError if its files do not belong together.
        """
        path = folder / FACTS_FILE
        tree = artifacts.read_json(path)
        if tree.get("format") != FORMAT:
            raise ArtifactError(
                f"{path} has format {tree.get('format')}, this version of Thaw reads {FORMAT}; run `dvc repro export`"
            )
        stored = facts.checked(tree, path, ExportedFacts)
        session = _session(folder / ONNX_FILE, threads)
        _check_belongs(folder, stored, session)
        return cls(stored, fingerprint, session, version)

    @property
    def name(self) -> str:
        """What an answer calls the model: its version, or else the start of its fingerprint."""
        return self.version or self.fingerprint[:_NAMED_BY]

    @property
    def classes(self) -> list[str]:
        """The class names, in the order of the probabilities."""
        return list(self.facts.classes)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of a packed square: size_px, size_px, channels."""
        settings = self.facts.preprocessing
        return (settings.size_px, settings.size_px, settings.channels)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of a packed square: uint8, or uint16 where the data had more than 8 bits."""
        return np.dtype(self.facts.preprocessing.pixel_type)

    def read(self, image: Image) -> Squares:
        """Return an image (a path, a file's bytes, or an array) as the packed square that is answered for.

        Raises: DataError with the reason why it cannot be used.
        """
        return read_square(image, self.facts.preprocessing, channels=self.shape[2])

    def reading(self) -> Bounded[Image, Squares | str]:
        """Return a process that reads images as `read` does, within bounds, and may die of one; for a context."""
        return reading(self.facts.preprocessing, channels=self.shape[2])

    def probabilities(self, squares: Squares) -> NDArray[np.float64]:
        """Return calibrated probabilities [images, classes] of packed squares [images, size_px, size_px, channels].

        Raises: DataError if these are no packed squares of this model.
        """
        probabilities: NDArray[np.float64] = self._run(squares)[0].astype(np.float64)
        return probabilities

    def heat(self, square: Squares, class_index: int) -> NDArray[np.float64]:
        """Return what speaks for a class, [rows, columns] from 0 to 1, the strongest place 1; all 0 if nothing does.

        With class maps it is the class's own less the mean of all, since a part that every class shares changes no
        probability. Without, it is how far the class's log probability falls when the place is covered (Zeiler and
        Fergus 2014, arXiv:1311.2901, section 4.2). Raises: DataError for a class or a square that is not the model's.
        """
        if not 0 <= class_index < len(self.classes):
            raise DataError(f"class {class_index} does not exist; there are {len(self.classes)}, counted from 0")
        if self.facts.explanation == CLASS_MAPS:
            maps = self._run(square[None])[1][0].astype(np.float64)
            evidence = maps[class_index] - maps.mean(axis=0)
        else:
            places = patch_places(self.shape[0])
            covered = self.probabilities(occluded(square, places))[:, class_index]
            whole = self.probabilities(square[None])[0, class_index]
            tiny = np.finfo(np.float32).tiny
            falls = np.log(np.maximum(whole, tiny)) - np.log(np.maximum(covered, tiny))
            evidence = falls.reshape(round(len(places) ** 0.5), -1)
        positive: NDArray[np.float64] = np.maximum(evidence, 0)
        return positive / positive.max() if positive.max() > 0 else positive

    def explain(self, square: Squares, class_index: int) -> NDArray[np.uint8]:
        """Return the square as RGB [size_px, size_px, 3] with the places that speak for a class laid over it in colour.

        Raises: DataError for a class or a square that is not the model's.
        """
        return overlay(square, self.heat(square, class_index))

    def _run(self, squares: Squares) -> list[NDArray[np.float32]]:
        """Return the outputs of the graph for packed squares, a few at a time."""
        if squares.dtype != self.dtype or squares.shape[1:] != self.shape:
            raise DataError(
                f"the squares are {squares.dtype} {list(squares.shape)}; this model takes {self.dtype} "
                f"[images, {', '.join(map(str, self.shape))}], as read() gives them"
            )
        num_outputs = len(self._session.get_outputs())
        if not len(squares):
            return [np.zeros((0, len(self.classes)), np.float32)] * num_outputs
        step = max(1, _AT_ONCE // self.facts.views)
        runs = [
            self._session.run(None, {"squares": squares[start : start + step]})
            for start in range(0, len(squares), step)
        ]
        return [np.concatenate(parts) for parts in zip(*runs, strict=True)]


def metadata(stored: ExportedFacts) -> dict[str, str]:
    """Return the facts as the ONNX file carries them: a JSON text for each."""
    return {
        name: json.dumps(value, ensure_ascii=False, sort_keys=True)
        for name, value in stored.model_dump(mode="json").items()
    }


def _session(path: Path, threads: int | None) -> Any:
    try:
        return open_session(path, threads)
    except Exception as error:
        raise ArtifactError(f"{path} cannot be loaded: {first_line(error)}; run `dvc repro export`") from error


def _check_belongs(folder: Path, stored: ExportedFacts, session: Any) -> None:
    """Raises: ArtifactError if model.json and the ONNX file tell different things, the classes above all."""
    carried = session.get_modelmeta().custom_metadata_map
    for name, text in metadata(stored).items():
        if carried.get(name) != text:
            raise ArtifactError(
                f"{folder}: {name} is {text[:80]} in {FACTS_FILE} and {str(carried.get(name))[:80]} in {ONNX_FILE}; "
                "the files do not belong together, run `dvc repro export`"
            )
    num_classes = session.get_outputs()[0].shape[1]
    if num_classes != len(stored.classes):
        raise ArtifactError(
            f"{folder / ONNX_FILE} answers for {num_classes} classes and names {len(stored.classes)}; "
            "run `dvc repro export`"
        )
