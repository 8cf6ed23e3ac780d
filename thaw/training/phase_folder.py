"""The folder of a trained phase: what it trained, what it knows of itself, and its answers on validation."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from thaw.errors import TrainingError
from thaw.head.layers import build_head
from thaw.networks import model_files
from thaw.networks.build import load_tensors
from thaw.pipeline import artifacts, facts, tables, timings
from thaw.pipeline.model_facts import ModelFacts

if TYPE_CHECKING:
    from thaw.networks.backbone import Backbone


@dataclass(frozen=True)
class Answers:
    """What a candidate answers for the images that are validated on, each from weights that have not seen it."""

    logits: NDArray[np.float32]
    """[images, classes]"""
    labels: NDArray[np.int64]
    rows: NDArray[np.int64]
    """In samples.csv, ascending."""
    folds: NDArray[np.int64]
    """The fold in which each is validated on."""


@timings.counted("write")
def write(
    folder: Path,
    *,
    tensors: Mapping[str, Tensor],
    model: ModelFacts,
    answers: Answers,
    folds: Sequence[Mapping[str, Tensor]] = (),
    curves: Sequence[Mapping[str, float]],
    range_test: Sequence[Mapping[str, float]] = (),
) -> None:
    """Fill a folder with weights.safetensors, model.json, validation.safetensors and what of the rest there is.

    The rest are fold-NN.safetensors, what was trained in each of several folds, curves.csv, a row per epoch, and
    range_test.csv, a row for each rate that was tried. `tensors` are those that were trained, named `backbone.…` and
    `head.…`; all others are the backbone's.
    """
    named = {"weights": tensors} | {f"fold-{number:02d}": trained for number, trained in enumerate(folds)}
    for name, trained in named.items():
        model_files.save(trained, folder / f"{name}.safetensors")
    stored = {"logits": answers.logits, "labels": answers.labels, "rows": answers.rows, "folds": answers.folds}
    save_file({key: torch.from_numpy(value) for key, value in stored.items()}, folder / "validation.safetensors")
    facts.write(folder / "model.json", model)
    for name, table in (("curves.csv", curves), ("range_test.csv", range_test)):
        if table:
            tables.write(folder / name, pd.DataFrame(table))


def carry_over(folder: Path, start: Path, model: ModelFacts, *, name: str, reason: str) -> None:
    """Fill the folder of a phase that is not trained with what it would start from: tensors, folds and answers.

    `model` is the model.json of `start`, `reason` the sentence that says why.
    """
    for path in sorted(start.glob("*.safetensors")):
        shutil.copyfile(path, folder / path.name)
    kept = model.model_copy(update={"phase": name, "start": start.name, "not_trained": reason})
    facts.write(folder / "model.json", kept)


def head_tensors(head: nn.Module) -> dict[str, Tensor]:
    """Return a head's tensors by the names that they have in a phase's folder."""
    return {f"head.{name}": value for name, value in head.state_dict().items()}


def read(folder: Path) -> tuple[dict[str, Tensor], ModelFacts]:
    """Return the trained tensors and model.json of a phase. Raises: ArtifactError if the folder is not whole."""
    fingerprint = artifacts.verify(folder)
    model = facts.read(folder / "model.json", ModelFacts)
    lineage = model.lineage.model_copy(update={"parent": fingerprint})
    return model_files.load(folder / model_files.WEIGHTS), model.model_copy(update={"lineage": lineage})


def assemble(backbone: "Backbone", tensors: Mapping[str, Tensor], model: ModelFacts) -> nn.Module:
    """Lay a phase's tensors over a backbone and return its head."""
    own = backbone.module.state_dict()
    trained = {name.removeprefix("backbone."): value for name, value in tensors.items() if name.startswith("backbone.")}
    load_tensors(backbone.module, {**own, **trained}, backbone.spec)
    return head_of(backbone.num_features, tensors, model)


def head_of(num_features: int, tensors: Mapping[str, Tensor], model: ModelFacts) -> nn.Module:
    """Return the head that a phase's tensors have."""
    built = model.head
    head = build_head(num_features, len(model.classes), built.hidden, built.dropout, kind=built.kind)
    head.load_state_dict(
        {name.removeprefix("head."): value for name, value in tensors.items() if name.startswith("head.")}
    )
    return head.eval()


def frozen_digest(backbone: "Backbone", index: int) -> str:
    """Return the SHA-256 of every tensor, buffers included, of the blocks before `index`: the proof of a freeze."""
    state = backbone.module.state_dict()
    return digest_of({name: value for name, value in state.items() if backbone.block_of(name) < index})


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of tensors with their names."""
    return artifacts.digest(
        {
            name: artifacts.sha256_of_bytes(value.detach().cpu().contiguous().numpy().tobytes())
            for name, value in tensors.items()
        }
    )


def check_frozen(before: str, after: str, phase: str) -> None:
    """Raises: TrainingError if the frozen tensors of a phase have another hash after it than before."""
    if before != after:
        raise TrainingError(f"{phase}: a tensor has moved although it is frozen; this is a defect of Thaw, report it")
