"""Set up and run one phase of unfreezing: cut, bank of views, rules, training, proof of the freeze."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from thaw import files, run
from thaw.errors import ParamsError
from thaw.images.pack import PackedImages
from thaw.network.backbone import Backbone
from thaw.network.engine import device_of, use_threads
from thaw.params import AugmentParams, ComputeParams, PhaseParams
from thaw.training import artifact
from thaw.training.boundary import Cached, Fresh, Prefix, Views, make_room
from thaw.training.groups import rules_of
from thaw.training.loop import Classifier, LabelledRows, Phase, Result, Source

_GIB = 2**30


@dataclass(frozen=True)
class Start:
    """What a phase starts from: the trained tensors and model.json of the head or of another phase."""

    tensors: dict[str, Tensor]
    model: dict[str, Any]


def run_phase(
    name: str,
    params: PhaseParams,
    *,
    images: PackedImages,
    backbone: Backbone,
    start: Start,
    augment: AugmentParams,
    seed: int,
    compute: ComputeParams,
    on_epoch: Callable[[dict[str, float]], None],
) -> tuple[Result, LabelledRows, dict[str, Any]]:
    """Train one phase and return its result, the validation rows and its model.json.

    Raises: ParamsError if the phase is shallower than the one it starts from, TrainingError if it diverges.
    """
    use_threads(compute)
    index = backbone.cut_index(params.depth)
    _check_depth(name, params, index, start, backbone)
    identity = files.digest([start.model["lineage"]["backbone"], index])
    pristine = artifact.frozen_digest(backbone, index)
    head = artifact.assemble(backbone, start.tensors, start.model)
    module, suffix = backbone.split(params.depth)
    prefix = Prefix(Views(images, backbone.spec, seed, augment), module, identity=identity, compute=compute)
    report(name, backbone, index, prefix)

    model = {
        **start.model,
        "phase": name,
        "start": params.start,
        "depth_blocks": len(backbone.units) - index,
        "cut": index,
        "lineage": {**start.model["lineage"], "params": files.digest(params.model_dump())},
    }
    fingerprint = files.digest([model, augment.model_dump(), seed, prefix.engine.name])
    phase = Phase(
        name,
        Classifier(suffix, head),
        params,
        rules_of(params, backbone, index),
        num_classes=len(images.classes),
        seed=seed,
        device=device_of(compute),
        folder=run.scratch() / "checkpoints" / fingerprint,
    )
    train, val = (labelled(images, split) for split in ("train", "val"))
    result = phase.run((_source(prefix, train, params.views, compute, f"{name}: train"), train), (_source(prefix, val, 1, compute, f"{name}: val"), val), on_epoch)
    artifact.check_frozen(pristine, artifact.frozen_digest(backbone, index), name)
    model["frozen_sha256"] = pristine
    model["best_epoch"] = result.best_epoch
    return result, val, model


def labelled(images: PackedImages, split: str) -> LabelledRows:
    """Return the rows of a split with their labels and confidences."""
    rows = images.rows(split)
    return LabelledRows(rows, images.labels(rows), images.samples["confidence"].to_numpy(np.float64)[rows])


def report(name: str, backbone: Backbone, index: int, prefix: Prefix) -> None:
    """Print what is frozen and what runs it."""
    frozen = ", ".join(backbone.blocks[:index]) or "nothing"
    print(f"{name}: frozen {frozen}; trains {', '.join(backbone.blocks[index:])}, head; prefix in {prefix.engine.name}")
    if prefix.engine.note:
        print(f"{name}: {prefix.engine.note}")


def _source(prefix: Prefix, examples: LabelledRows, num_views: int, compute: ComputeParams, label: str) -> Source:
    needed = prefix.bank_bytes(len(examples.rows), num_views)
    if num_views == 0:
        return Fresh(prefix)
    if needed > compute.cache_gib * _GIB:
        print(f"{label}: a bank of {num_views} views needs {needed / _GIB:.1f} GiB, more than compute.cache_gib; computed afresh in every epoch")
        return Fresh(prefix)
    make_room(int(compute.cache_gib * _GIB) - needed)
    return Cached(prefix, examples.rows, num_views, label=label)


def _check_depth(name: str, params: PhaseParams, index: int, start: Start, backbone: Backbone) -> None:
    if index > len(backbone.units) - start.model["depth_blocks"]:
        raise ParamsError(
            f"params.yaml: unfreeze.phases.{name}.depth is {params.depth}, but {params.start}, which it starts from, has "
            f"unfrozen {start.model['depth_blocks']} blocks; unfreezing goes from the top down: give at least as many, or start from head"
        )
