"""Set up and run one phase of unfreezing: cut, activations, rules, training, proof of the freeze."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from thaw.activations.engine import computed_on, device_of, use_threads
from thaw.activations.prefix import HalfOverflowError, Prefix, Views
from thaw.activations.sources import Source, sources_of
from thaw.augment.views import num_answers
from thaw.config.checks import settle
from thaw.config.schema import AugmentParams, ComputeParams, PhaseParams
from thaw.data.packed import LabelledRows, PackedImages
from thaw.errors import ArtifactError, ParamsError
from thaw.memory import keep_freed_memory
from thaw.networks.backbone import Backbone
from thaw.networks.cut import UncutSuffix
from thaw.pipeline import artifacts, guard, scratch
from thaw.pipeline.facts import ModelFacts
from thaw.training import phase_folder
from thaw.training.averaging import Average, average_of
from thaw.training.batches import Task
from thaw.training.checkpoint import trained_tensors
from thaw.training.groups import Rule, frozen_tensors, lowest_block, param_groups, rules_of
from thaw.training.loop import Classifier, Phase, Result
from thaw.training.loss import class_weights, require_maps
from thaw.training.norms import running_norms


@dataclass(frozen=True)
class Start:
    """What a phase starts from: the trained tensors and model.json of the head or of another phase."""

    tensors: dict[str, Tensor]
    model: ModelFacts


@dataclass(frozen=True)
class Trained:
    """What a phase leaves, and the checkpoint that is of no more use once that is written."""

    result: Result
    model: ModelFacts
    val: LabelledRows
    checkpoint: Path
    average: Average | None = None
    """The mean of this phase and its start, where that was asked for and the phase gained anything."""

    def write(self, folder: Path) -> None:
        """Fill the phase's folder."""
        phase_folder.write(
            folder,
            tensors=self.result.tensors,
            model=self.model,
            logits=self.result.val_logits,
            labels=self.val.labels,
            rows=self.val.rows,
            curves=self.result.curves,
            range_test=self.result.range_test.points if self.result.range_test else (),
        )
        if self.average is not None:
            self.average.write(folder, self.model, self.val)


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
    on_epoch: Callable[[dict[str, float]], None] = lambda _: None,
) -> Trained:
    """Train one phase from its start, prove that nothing below the cut moved, and return what it leaves.

    Where an activation turns out to be beyond float16, the phase starts again with all of them in float32.
    Raises: ParamsError if the phase is shallower than the one it starts from, or a setting would do nothing for this
    network, TrainingError if it diverges.
    """
    use_threads(compute)
    index = cut_index(name, params, backbone, trained_before=start.model.depth_blocks)
    _check_lineage(name, params, start, backbone, images)
    frozen = phase_folder.frozen_digest(backbone, index)
    model = _facts(name, params, start, backbone, index, frozen, computed_on(compute))
    pretrained = _pretrained(backbone) if params.l2_sp > 0 else {}
    head = phase_folder.assemble(backbone, start.tensors, start.model)
    augment = augment.model_copy(update={"flip": start.model.augment.flip})
    classifier, prefix = _cut(backbone, index, head, Views(images, backbone.spec, seed, augment), compute)
    if params.cutmix > 0:
        require_maps(name, prefix.trial.shapes)
    rules = rules_of(params, backbone, index)
    params = settle_phase(name, params, rules, classifier)
    _say_what_trains(name, params, backbone, index, classifier, prefix)
    before = trained_tensors(classifier) if params.average or prefix.storage == np.float16 else {}

    def attempt() -> tuple[Phase, LabelledRows, Result, Average | None]:
        phase = Phase(
            name,
            classifier,
            params,
            rules,
            task=_task(params, images, augment),
            seed=seed,
            device=device_of(compute),
            folder=_checkpoint(model.model_dump(mode="json"), augment.model_dump(), seed, _numbers(prefix)),
            pretrained=pretrained,
        )
        train, val = sources_of(name, params, prefix, images, compute)
        keep_freed_memory()
        return phase, val[1], *_train(phase, before, train, val, on_epoch)

    try:
        phase, val, result, average = attempt()
    except HalfOverflowError as error:
        print(f"{name}: {error}: the phase starts again with all activations in float32", flush=True)
        prefix.store_as_float32()
        classifier.load_state_dict(before)
        phase, val, result, average = attempt()
    phase_folder.check_frozen(frozen, phase_folder.frozen_digest(backbone, index), name)
    lr = result.range_test.lr if result.range_test else params.lr
    decided = {"norm": params.norm, "warm_start": params.warm_start, "lr": lr, "best_epoch": result.best_epoch}
    model = model.model_copy(update=decided)
    return Trained(result, model, val, phase.folder, average)


def _train(
    phase: Phase,
    before: Mapping[str, Tensor],
    train: tuple[Source, LabelledRows],
    val: tuple[Source, LabelledRows],
    on_epoch: Callable[[dict[str, float]], None],
) -> tuple[Result, Average | None]:
    """Train, prove that what rules freeze above the cut did not move, and say what came of it.

    `before` has the tensors that the phase begins with, where an average is asked for.
    """
    name, params, classifier = phase.name, phase.params, phase.model
    with artifacts.one_at_a_time(phase.folder):  # two trials of the same phase would share their checkpoint
        above = phase_folder.digest_of(frozen_tensors(classifier))
        result = phase.run(train, val, _printing(name, on_epoch))
        gained = result.best_epoch > 0
        average = average_of(phase, before, result.tensors, val) if params.average and gained else None
    phase_folder.check_frozen(above, phase_folder.digest_of(frozen_tensors(classifier)), name)
    if not gained:
        print(f"{name}: no epoch was better on validation than the start; its weights are those of {params.start}")
    elif average is not None:
        print(f"{name}: the mean of its weights and those of {params.start} is offered to select as well")
    return result, average


def _cut(
    backbone: Backbone, index: int, head: nn.Module, views: Views, compute: ComputeParams
) -> tuple[Classifier, Prefix]:
    """Return what trains, and the frozen part below it in its engine."""
    module, suffix = backbone.split(len(backbone.units) - index)
    classifier = Classifier(suffix, head)
    identity = artifacts.digest([backbone.fingerprint, backbone.blocks[:index]])
    return classifier, Prefix(views, module, identity=identity, compute=compute, suffix=classifier)


def _task(params: PhaseParams, images: PackedImages, augment: AugmentParams) -> Task:
    weights = class_weights(params.class_weights, images.labels(images.rows("train")), images.classes)
    return Task(len(images.classes), num_answers(augment), weights)


def _pretrained(backbone: Backbone) -> dict[str, Tensor]:
    """Return a copy of the backbone's tensors before a phase lays its start over them."""
    return {f"backbone.{name}": value.clone() for name, value in backbone.module.state_dict().items()}


def _facts(
    name: str, params: PhaseParams, start: Start, backbone: Backbone, index: int, frozen_sha256: str, hardware: str
) -> ModelFacts:
    """Return the phase's model.json: that of its start, and what this phase is and keeps frozen."""
    # What is offered beside the phase does not change it.
    settings = artifacts.digest(params.model_dump(exclude={"average"}))
    return start.model.model_copy(
        update={
            "phase": name,
            "start": params.start,
            "depth_blocks": len(backbone.units) - index,
            "cut": index,
            "lineage": start.model.lineage.model_copy(update={"params": settings, "computed_on": hardware}),
            "frozen_sha256": frozen_sha256,
        }
    )


def _checkpoint(*settings: object) -> Path:
    """Return the folder of the checkpoint, under a fingerprint of everything that the phase depends on."""
    return scratch.folder() / "checkpoints" / artifacts.digest([*settings, guard.code_digest()])


def _numbers(prefix: Prefix) -> list[str]:
    """Return what the last digits of a phase depend on beside its settings: engine, libraries, machine, storage."""
    return [*prefix.engine.identity, *prefix.engine.made_by, prefix.storage.name]


def _say_what_trains(
    name: str, params: PhaseParams, backbone: Backbone, index: int, classifier: Classifier, prefix: Prefix
) -> None:
    frozen, trained = ", ".join(backbone.blocks[:index]) or "nothing", backbone.blocks[index:]
    if isinstance(params.depth, list):
        trained = [rule.pattern for rule in params.depth if rule.lr is not None]
    if isinstance(classifier.backbone, UncutSuffix):
        print(f"{name}: this network cannot be traced and cut, so every epoch runs all of it")
    print(
        f"{name}: frozen {frozen}; trains {', '.join(trained)}, head; norm {params.norm}, warm start "
        f"{'on' if params.warm_start else 'off'}; prefix in {prefix.engine}"
    )
    if prefix.engine.note:
        print(f"{name}: {prefix.engine.note}")


def _printing(name: str, on_epoch: Callable[[dict[str, float]], None]) -> Callable[[dict[str, float]], None]:
    def both(row: dict[str, float]) -> None:
        shown = (f"{key.replace('_', ' ')} {value:.4g}" for key, value in row.items() if not key.startswith("lr:"))
        print(f"{name}: {', '.join(shown)}", flush=True)
        on_epoch(row)

    return both


def cut_index(name: str, params: PhaseParams, backbone: Backbone, *, trained_before: int) -> int:
    """Return how many blocks lie below the cut: none that a phase trains, and none that its start has trained.

    `trained_before` is the number of blocks that the start of the phase has unfrozen.
    Raises: ParamsError if the phase is shallower than its start.
    """
    index, frozen_before = lowest_block(params, backbone), len(backbone.units) - trained_before
    if index > frozen_before and isinstance(params.depth, list):
        return frozen_before
    if index > frozen_before:
        raise ParamsError(
            f"params.yaml: unfreeze.phases.{name}.depth is {params.depth}, {len(backbone.units) - index} of "
            f"{len(backbone.units)} blocks, but {params.start}, which it starts from, has unfrozen {trained_before} "
            "blocks; unfreezing goes from the top down: give at least as many, or start from head"
        )
    return index


def _check_lineage(name: str, params: PhaseParams, start: Start, backbone: Backbone, images: PackedImages) -> None:
    """Raises: ArtifactError if a phase's start was made of another backbone or other images than are here."""
    lineage = start.model.lineage
    made_with = {"backbone": (lineage.backbone, backbone.fingerprint), "data": (lineage.data, images.fingerprint)}
    for what, (theirs, ours) in made_with.items():
        if theirs != ours:
            raise ArtifactError(
                f"{name}: {params.start}, which it starts from, was made with another {what} than is here now; "
                "run `dvc repro`, which makes it anew"
            )


def settle_phase(name: str, params: PhaseParams, rules: Sequence[Rule], model: Classifier) -> PhaseParams:
    """Return a phase whose `auto` values are decided for the model that its rules are laid over.

    Raises: ParamsError naming a key that would do nothing.
    """
    param_groups(model.named_parameters(), rules, params.weight_decay)  # a norm that a rule freezes is none that trains
    return settle(
        name,
        params,
        has_running_norms=next(running_norms(model.backbone), None) is not None,
        linear_head=isinstance(model.head, nn.Linear),
        first_epochs=[rule.since for rule in rules if rule.lr is not None],
    )
