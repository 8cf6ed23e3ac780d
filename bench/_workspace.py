"""A workspace in which the head was trained, as the benches of training take it: whole, or an even part of its images.

Needs data.raw, data/prepared, models/backbone and models/phases/head, as `dvc repro head` leaves them.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from thaw.config.reader import load_params
from thaw.config.schema import AugmentParams, Params, PhaseParams
from thaw.data import listing
from thaw.data.packed import PackedImages
from thaw.errors import ParamsError
from thaw.networks.backbone import Backbone, load_backbone
from thaw.networks.spec import Spec
from thaw.pipeline import artifacts
from thaw.training import phase_folder
from thaw.training.parts import Start

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Workspace:
    """What a phase trains on and starts from; networks are made anew on each call, since training changes them."""

    params: Params
    images: PackedImages
    root: Path
    """Folder that the images' paths are relative to."""
    network: Callable[[int], Backbone]
    """The backbone for images of that many channels."""
    start: Start

    @property
    def augment(self) -> AugmentParams:
        """The augmentation, with the flips that were found to keep the label."""
        return self.params.augment.model_copy(update={"flip": self.start.model.augment.flip})

    @property
    def spec(self) -> Spec:
        """What the network is and expects, for the images as they are packed."""
        return self.network(self.images.channels).spec

    def files(self, rows: Rows) -> list[Path]:
        """Return the image files of these rows."""
        return [self.root / path for path in self.images.samples["path"].to_numpy()[rows]]

    def phase(self, name: str, **changes: object) -> PhaseParams:
        """Return a phase of params.yaml with some of its settings changed; `None` changes nothing.

        Raises: ParamsError if there is no such phase, or it does not start from the head.
        """
        phases = self.params.unfreeze.phases
        if name not in phases or phases[name].start != "head":
            able = ", ".join(other for other, phase in phases.items() if phase.start == "head") or "none"
            raise ParamsError(f"{name!r} is no phase that starts from the head; of params.yaml, these do: {able}")
        given = {key: value for key, value in changes.items() if value is not None}
        return PhaseParams.model_validate(phases[name].model_dump() | given)


def open_workspace(num_images: int | None = None) -> Workspace:
    """Return this folder's workspace, or an even part of its images. Raises: ArtifactError if something is missing."""
    params = load_params()
    images = even_part(PackedImages.open(Path("data/prepared")), num_images)
    tensors, model = phase_folder.read(Path("models/phases/head"))
    if num_images is not None:  # a phase refuses a head that was trained on other images
        model = model.model_copy(update={"lineage": model.lineage.model_copy(update={"data": images.fingerprint})})
    return Workspace(
        params=params,
        images=images,
        root=listing.read_data(params.data).root,
        network=lambda channels: load_backbone(Path("models/backbone"), in_channels=channels),
        start=Start(tensors, model),
    )


def even_part(images: PackedImages, num_images: int | None) -> PackedImages:
    """Return that many images, evenly spaced over the rows, in memory; all of them, as they are, for None."""
    if num_images is None or num_images >= len(images):
        return images
    rows = np.linspace(0, len(images) - 1, num_images).astype(np.int64)
    return dataclasses.replace(
        images,
        samples=images.samples.iloc[rows].assign(row=np.arange(num_images)).reset_index(drop=True),
        fingerprint=artifacts.digest([images.fingerprint, rows.tolist()]),
        shards=(images.read(rows),),
    )
