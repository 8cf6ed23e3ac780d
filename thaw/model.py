"""The deliverable: a classifier that answers for images, loaded from the folder that `select` wrote."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from thaw import files
from thaw.errors import ArtifactError, DataError
from thaw.images.decode import UnusableError, decode
from thaw.images.views import num_answers, render
from thaw.network.backbone import Backbone, assemble, load_backbone
from thaw.network.spec import read_spec
from thaw.params import AugmentParams
from thaw.training import artifact

BATCH = 32
_STILL = AugmentParams(
    flip="none",
    average=False,
    crop_scale=1.0,
    rotate_deg=0.0,
    shift=0.0,
    brightness=0.0,
    contrast=0.0,
    saturation=0.0,
    hue=0.0,
)

Image = Path | str | NDArray[np.uint8]


@dataclass(frozen=True)
class Model:
    """A trained classifier with everything that it needs to know about its input."""

    backbone: Backbone
    head: nn.Module
    facts: dict[str, Any]
    fingerprint: str

    @property
    def classes(self) -> list[str]:
        """The class names, in the order of the probabilities."""
        return list(self.facts["classes"])

    def predict(self, images: Iterable[Image]) -> NDArray[np.float64]:
        """Return probabilities [images, classes], calibrated by the model's temperature.

        An image is a path, or an array [height, width, channels] of uint8 with one or three channels.
        Raises: DataError naming the first image that cannot be used.
        """
        if isinstance(images, str | Path):
            raise DataError(f"predict takes a list of images, not one; write predict(['{images}'])")
        squares = [self.read(image) for image in images]
        if not squares:
            return np.zeros((0, len(self.classes)))
        return self.probabilities(np.stack(squares))

    def answer_files(self, paths: Sequence[Path]) -> Iterator[tuple[Path, NDArray[np.float64] | DataError]]:
        """Yield each file with its calibrated probabilities [classes], or with the reason why it cannot be used."""
        for start in range(0, len(paths), BATCH):
            found: dict[Path, NDArray[np.uint8] | DataError] = {}
            for path in paths[start : start + BATCH]:
                try:
                    found[path] = self.read(path)
                except DataError as error:
                    found[path] = error
            squares = [square for square in found.values() if not isinstance(square, DataError)]
            answers = iter(self.probabilities(np.stack(squares)) if squares else ())
            for path, square in found.items():
                yield path, square if isinstance(square, DataError) else next(answers)

    def read(self, image: Image) -> NDArray[np.uint8]:
        """Return an image as the square [size_px, size_px, channels] that the network's views are made from.

        Raises: DataError with the reason why it cannot be used.
        """
        settings = self.facts["preprocessing"]
        try:
            data = Path(image).read_bytes() if isinstance(image, Path | str) else _encode(image)
            square = decode(
                data,
                size_px=settings["size_px"],
                fit=settings["fit"],
                background=settings["background"],
                max_megapixels=settings["max_megapixels"],
            ).pixels
        except UnusableError as error:
            raise DataError(f"{_name(image)} cannot be used: {error}") from None
        except OSError as error:
            raise DataError(f"{_name(image)} cannot be read: {error.strerror}") from None
        channels = self.backbone.spec.in_channels
        if square.shape[2] == channels:
            return square
        if channels == 3:
            return np.repeat(square, 3, axis=2)
        return _to_grey(square)

    def probabilities(self, squares: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return calibrated probabilities [images, classes] of packed squares [images, size_px, size_px, channels]."""
        parts = [
            np.mean([self._logits(squares[start : start + BATCH], view) for view in range(self.num_answers)], axis=0)
            for start in range(0, len(squares), BATCH)
        ]
        return self.calibrated(np.concatenate(parts))

    def calibrated(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the probabilities [images, classes] that logits of that shape stand for, by the temperature."""
        return torch.softmax(torch.from_numpy(logits).double() / self.facts.get("temperature", 1.0), dim=1).numpy()

    @property
    def num_answers(self) -> int:
        """Over how many views, from 0 on, an answer is averaged."""
        return num_answers(self._augment)

    def look(self, squares: NDArray[np.uint8], view: int) -> Tensor:
        """Return the network's input for one view of packed squares."""
        spec = self.backbone.spec
        return render(
            squares,
            [""] * len(squares),
            [view] * len(squares),
            seed=0,
            augment=self._augment,
            input_px=spec.input_px,
            channels=spec.in_channels,
            mean=spec.input_mean,
            std=spec.input_std,
        )

    @cached_property
    def _augment(self) -> AugmentParams:
        return _STILL.model_copy(update={key: self.facts["augment"][key] for key in ("flip", "average")})

    @torch.inference_mode()
    def _logits(self, squares: NDArray[np.uint8], view: int) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = self.head(self.backbone(self.look(squares, view))).numpy()
        return logits


def load(folder: Path | str = "models/final") -> Model:
    """Return the classifier in a folder. Raises: ArtifactError if it is missing, altered or of another kind."""
    folder = Path(folder)
    fingerprint = files.verify(folder)
    facts = files.read_json(folder / "model.json")
    if not {"classes", "backbone", "head", "preprocessing", "augment"} <= set(facts):
        raise ArtifactError(f"{folder}/model.json does not describe a classifier; run `dvc repro`")
    tensors = load_file(folder / "weights.safetensors")
    own = {name.removeprefix("backbone."): value for name, value in tensors.items() if name.startswith("backbone.")}
    backbone = assemble(read_spec(facts["backbone"]), own)
    return Model(backbone, artifact.assemble(backbone, tensors, facts), facts, fingerprint)


def load_phase(folder: Path, backbone_folder: Path) -> Model:
    """Return the classifier that a phase's folder makes of the backbone. Raises: ArtifactError if one is not whole."""
    tensors, facts = artifact.read(folder)
    backbone = load_backbone(backbone_folder, in_channels=read_spec(facts["backbone"]).in_channels)
    if facts["lineage"]["backbone"] != backbone.fingerprint:
        raise ArtifactError(f"{folder} was trained on another backbone than is in {backbone_folder}; run `dvc repro`")
    return Model(backbone, artifact.assemble(backbone, tensors, facts), facts, facts["lineage"]["parent"])


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Return the files named and those in folders, without hidden ones. Raises: DataError if one is missing."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = (file for file in sorted(path.rglob("*")) if file.is_file())
            found += [file for file in inside if not any(part.startswith(".") for part in file.relative_to(path).parts)]
        elif path.is_file():
            found.append(path)
        else:
            raise DataError(f"{path} does not exist; give image files, or folders of them")
    return found


def _encode(image: Any) -> bytes:
    from io import BytesIO

    from PIL import Image as Pillow

    if not isinstance(image, np.ndarray):
        raise DataError(f"an image must be a path or an array of uint8, not a {type(image).__name__}")
    shaped = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3))
    if image.dtype != np.uint8 or not shaped or not image.size:
        raise DataError(f"an image array must be uint8 [height, width, 1 or 3], not {image.dtype} {list(image.shape)}")
    buffer = BytesIO()
    Pillow.fromarray(image[..., 0] if image.shape[2:] == (1,) else image).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


def _to_grey(square: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return luma (ITU-R BT.601) of an RGB square, as one channel."""
    luma: NDArray[np.uint8] = np.rint(square @ np.array([[0.299], [0.587], [0.114]])).astype(np.uint8)
    return luma


def _name(image: Image) -> str:
    return str(image) if isinstance(image, Path | str) else "an array"
