"""The folder of a trained phase: what it trained, what it knows of itself, and its answers on validation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from thaw.errors import TrainingError
from thaw.head.layers import build_head
from thaw.networks.build import load_tensors
from thaw.pipeline import artifacts, facts, tables, timings
from thaw.pipeline.facts import ModelFacts

if TYPE_CHECKING:
    from thaw.networks.backbone import Backbone


@timings.counted("write")
def write(
    folder: Path,
    *,
    tensors: Mapping[str, Tensor],
    model: ModelFacts,
    logits: NDArray[np.float32],
    labels: NDArray[np.int64],
    rows: NDArray[np.int64],
    curves: Sequence[Mapping[str, float]],
    range_test: Sequence[Mapping[str, float]] = (),
) -> None:
    """Fill a folder with weights.safetensors, model.json, validation.safetensors and what of the rest there is.

    The rest are curves.csv, a row per epoch, and range_test.csv, a row for each rate that was tried. `tensors` are
    those that were trained, named `backbone.…` and `head.…`; all others are the backbone's.
    """
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "weights.safetensors")
    answers = {"logits": torch.from_numpy(logits), "labels": torch.from_numpy(labels), "rows": torch.from_numpy(rows)}
    save_file(answers, folder / "validation.safetensors")
    facts.write(folder / "model.json", model)
    for name, table in (("curves.csv", curves), ("range_test.csv", range_test)):
        if table:
            tables.write(folder / name, pd.DataFrame(table))


def read(folder: Path) -> tuple[dict[str, Tensor], ModelFacts]:
    """Return the trained tensors and model.json of a phase. Raises: ArtifactError if the folder is not whole."""
    fingerprint = artifacts.verify(folder)
    model = facts.read(folder / "model.json", ModelFacts)
    lineage = model.lineage.model_copy(update={"parent": fingerprint})
    return load_file(folder / "weights.safetensors"), model.model_copy(update={"lineage": lineage})


def assemble(backbone: "Backbone", tensors: Mapping[str, Tensor], model: ModelFacts) -> nn.Module:
    """Lay a phase's tensors over a backbone and return its head."""
    own = backbone.module.state_dict()
    trained = {name.removeprefix("backbone."): value for name, value in tensors.items() if name.startswith("backbone.")}
    load_tensors(backbone.module, {**own, **trained}, backbone.spec)
    built = model.head
    head = build_head(backbone.num_features, len(model.classes), built.hidden, built.dropout, kind=built.kind)
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
