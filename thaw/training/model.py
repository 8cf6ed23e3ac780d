"""The deliverable: a classifier that answers for images, loaded from the folder that `select` wrote."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thaw.augment.views import num_answers, render, symmetry_of
from thaw.config.reader import PARAMS_FILE
from thaw.config.schema import AugmentParams
from thaw.data.pixel_values import Pixels
from thaw.data.square import Image, read_square
from thaw.errors import ArtifactError, DataError
from thaw.networks import model_files, values
from thaw.networks.backbone import Backbone, assemble, load_backbone, twin
from thaw.networks.spec import Spec
from thaw.networks.together import Member, Together
from thaw.pipeline import artifacts, facts
from thaw.pipeline.model_facts import ModelFacts
from thaw.training import phase_folder

BATCH = 32
_STILL = AugmentParams(flip="none", tta=False)


@dataclass(frozen=True)
class Model:
    """A trained classifier with everything that it needs to know about its input."""

    members: Sequence[Member]
    """One network, or several, whose mean logits are its own; they have the blocks below the cut in common."""
    facts: ModelFacts
    fingerprint: str

    @property
    def backbone(self) -> Backbone:
        """The backbone of its first network; all have the same spec."""
        return self.members[0].backbone

    @property
    def classes(self) -> list[str]:
        """The class names, in the order of the probabilities."""
        return list(self.facts.classes)

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

    def read(self, image: Image) -> Pixels:
        """Return an image as the square [size_px, size_px, channels] that the network's views are made from.

        Raises: DataError with the reason why it cannot be used.
        """
        return read_square(image, self.facts.preprocessing, channels=self.backbone.spec.in_channels)

    def probabilities(self, squares: Pixels) -> NDArray[np.float64]:
        """Return calibrated probabilities [images, classes] of packed squares [images, size_px, size_px, channels]."""
        parts = [
            np.mean([self._logits(squares[start : start + BATCH], view) for view in range(self.num_answers)], axis=0)
            for start in range(0, len(squares), BATCH)
        ]
        return self.calibrated(np.concatenate(parts))

    def calibrated(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the probabilities [images, classes] that logits of that shape stand for, by the temperature."""
        return torch.softmax(torch.from_numpy(logits).double() / self.temperature, dim=1).numpy()

    @property
    def temperature(self) -> float:
        """What logits are divided by; 1 for a phase, which `select` has not calibrated."""
        return 1.0 if self.facts.temperature is None else self.facts.temperature

    @property
    def candidates(self) -> list[str]:
        """The candidates that it was selected from, each after its start; a phase has itself alone."""
        return self.facts.selected_from or [self.facts.phase]

    @property
    def num_answers(self) -> int:
        """Over how many views, from 0 on, an answer is averaged."""
        return num_answers(self._augment)

    @property
    def symmetries(self) -> list[tuple[bool, bool, bool]]:
        """Which mirror images those views are: transposed first, rows mirrored, columns mirrored."""
        return [symmetry_of("", view, seed=0, flip=self._augment.flip) for view in range(self.num_answers)]

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
        return _STILL.model_copy(update={"flip": self.facts.augment.flip, "tta": self.facts.augment.tta})

    @cached_property
    def _together(self) -> Together:
        return Together(self.members, self.facts.cut)

    @torch.inference_mode()
    def _logits(self, squares: Pixels, view: int) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = torch.stack(self._together(self.look(squares, view))).mean(dim=0).numpy()
        return logits


def load(folder: Path | str = "models/final", *, project: Path | str = ".") -> Model:
    """Return the classifier in a folder, which is data: no code that it names is run, but for what params.yaml names.

    That is the params.yaml of `project`, the current folder unless you say otherwise.
    Raises: ArtifactError if it is missing, altered or of another kind; BackboneError if it names other code, or if its
    weights hold what no weights do.
    """
    folder = Path(folder)
    fingerprint = artifacts.verify(folder)
    stored = facts.read(folder / "model.json", ModelFacts)
    spec = Spec.of(stored.backbone, folder, Path(project, PARAMS_FILE))
    first, *others = model_files.load_networks(folder)
    if len(others) != (stored.members or 1) - 1:
        raise ArtifactError(
            f"{folder} holds tensors of {len(others) + 1} networks, and its model.json says {stored.members or 1}; "
            "delete it and run `dvc repro`"
        )
    for tensors in (first, *others):
        values.check(tensors)
    own = {name.removeprefix("backbone."): value for name, value in first.items() if name.startswith("backbone.")}
    return Model(_members(assemble(spec, own), first, others, stored, folder), stored, fingerprint)


def load_phase(folder: Path, backbone_folder: Path, *, members: int = 1) -> Model:
    """Return the classifier that a phase's folder makes of the backbone; of several `members`, the folds' networks.

    Raises: ArtifactError if a folder is not whole, or has not that many folds.
    """
    tensors, stored = phase_folder.read(folder)
    first, *others = [tensors] if members == 1 else model_files.load_folds(folder) or [tensors]
    if len(others) != members - 1:
        raise ArtifactError(f"{folder} was trained in {len(others) + 1} folds, not in {members}; run `dvc repro`")
    backbone = load_backbone(backbone_folder, in_channels=stored.backbone.in_channels)
    if stored.lineage.backbone != backbone.fingerprint:
        raise ArtifactError(f"{folder} was trained on another backbone than is in {backbone_folder}; run `dvc repro`")
    return Model(_members(backbone, first, others, stored, folder), stored, stored.lineage.parent or "")


def _members(
    backbone: Backbone,
    first: Mapping[str, Tensor],
    others: Sequence[Mapping[str, Tensor]],
    stored: ModelFacts,
    folder: Path,
) -> list[Member]:
    """Return the networks of a model: what each trained, behind the blocks that none has changed, which they share.

    Raises: ArtifactError if one of `others` lacks a tensor, or has one that does not fit.
    """
    members = [Member(backbone, phase_folder.assemble(backbone, first, stored))]
    places = _places(members[0], stored.cut) if others else {}
    for number, tensors in enumerate(others, 1):
        for name in sorted({*places, *tensors}):
            found, place = (_described(values.get(name)) for values in (tensors, places))
            if found != place:
                raise ArtifactError(
                    f"{folder}: {name} of member {number} is {found}, and that of the first network {place}; "
                    "delete it and run `dvc repro`"
                )
        own = {name.removeprefix("backbone."): value for name, value in tensors.items() if name.startswith("backbone.")}
        other = twin(backbone, own) if own else backbone
        members.append(Member(other, phase_folder.head_of(backbone.num_features, tensors, stored)))
    return members


def _places(member: Member, cut: int) -> dict[str, Tensor]:
    """Return the tensors that a phase with this cut trains, as a network has them."""
    above = len(member.backbone.units) - cut
    suffix = member.backbone.split(above)[1].state_dict() if above else {}
    return {f"backbone.{name}": value for name, value in suffix.items()} | phase_folder.head_tensors(member.head)


def _described(tensor: Tensor | None) -> str:
    return "absent" if tensor is None else f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
