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
from thaw.images import levels
from thaw.images.decode import Picture, UnusableError, decode, from_array
from thaw.images.levels import Pixels
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

Image = Path | str | Pixels


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

        An image is a path, or an array [height, width, channels] of uint8 or uint16.
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
            found: dict[Path, Pixels | DataError] = {}
            for path in paths[start : start + BATCH]:
                try:
                    found[path] = self.read(path)
                except DataError as error:
                    found[path] = error
            squares = [square for square in found.values() if not isinstance(square, DataError)]
            answers = iter(self.probabilities(np.stack(squares)) if squares else ())
            for path, square in found.items():
                yield path, square if isinstance(square, DataError) else next(answers)

    def read(self, image: Image) -> Pixels:
        """Return an image as the square [size_px, size_px, channels] that the network's views are made from.

        Raises: DataError with the reason why it cannot be used.
        """
        settings = self.facts["preprocessing"]
        try:
            pixels = _decode(image, settings).pixels
            dtype = np.dtype(settings.get("dtype", "uint8"))
            if pixels.dtype != dtype and "value_range" in settings:
                raise UnusableError(
                    f"it has {8 * pixels.itemsize} bits, but the model learned prepare.value_range from images of "
                    f"{8 * dtype.itemsize} bits"
                )
            return levels.as_channels(levels.as_depth(pixels, dtype), self.backbone.spec.in_channels)
        except UnusableError as error:
            raise DataError(f"{_name(image)} cannot be used: {error}") from None
        except OSError as error:
            raise DataError(f"{_name(image)} cannot be read: {error.strerror}") from None

    def probabilities(self, squares: Pixels) -> NDArray[np.float64]:
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

    def look(self, squares: Pixels, view: int) -> Tensor:
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
    def _logits(self, squares: Pixels, view: int) -> NDArray[np.float32]:
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


def _decode(image: Any, settings: dict[str, Any]) -> Picture:
    """Return an image as `prepare` would, under the settings that the model was trained with."""
    asked = settings.get("value_range")
    ranges = tuple((low, high) for low, high in asked) if asked is not None else None
    size_px, fit, background = settings["size_px"], settings["fit"], settings["background"]
    if isinstance(image, np.ndarray):
        values = image[:, :, None] if image.ndim == 2 else image
        if image.dtype not in (np.uint8, np.uint16) or values.ndim != 3 or not image.size:
            raise DataError(
                f"an image array must be uint8 or uint16 [height, width, channels], not {image.dtype} "
                f"{list(image.shape)}"
            )
        return from_array(values, size_px=size_px, fit=fit, background=background, value_range=ranges)
    if not isinstance(image, Path | str):
        raise DataError(f"an image must be a path or an array of uint8 or uint16, not a {type(image).__name__}")
    return decode(
        Path(image).read_bytes(),
        size_px=size_px,
        fit=fit,
        background=background,
        max_megapixels=settings["max_megapixels"],
        value_range=ranges,
    )


def _name(image: Image) -> str:
    return str(image) if isinstance(image, Path | str) else "an array"
