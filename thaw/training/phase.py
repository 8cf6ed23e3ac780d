"""Set up and run one phase of unfreezing: cut, activations, rules, training, proof of the freeze."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from thaw.activations.engine import computed_on, device_of, use_threads
from thaw.activations.prefix import HalfOverflowError, Prefix, Views
from thaw.activations.sources import Source, sources_of
from thaw.augment.views import num_answers
from thaw.config.checks import settle
from thaw.config.schema import AugmentParams, ComputeParams, PhaseParams
from thaw.data.packed import PackedImages
from thaw.errors import ArtifactError, ParamsError
from thaw.memory import keep_freed_memory
from thaw.networks.backbone import Backbone
from thaw.networks.cut import UncutSuffix
from thaw.pipeline import artifacts, guard, scratch, trial
from thaw.pipeline.model_facts import ModelFacts
from thaw.training import phase_folder
from thaw.training.averaging import Average, average_of, write_average
from thaw.training.batches import Task
from thaw.training.checkpoint import trained_tensors
from thaw.training.groups import Rule, frozen_tensors, lowest_block, param_groups, rules_of
from thaw.training.loop import Classifier, Phase, Result
from thaw.training.loss import class_weights, require_maps
from thaw.training.norms import running_norms
from thaw.training.parts import Outcome, Part, Start, gather, mean_curves, parts_of
from thaw.training.range_test import RangeTest


@dataclass(frozen=True)
class Trained:
    """What a phase leaves, and the checkpoints that are of no more use once that is recorded."""

    outcome: Outcome
    model: ModelFacts
    curves: list[dict[str, float]]
    range_test: RangeTest | None
    """How the rate of the tensors that are kept was found, where `lr` is `auto`."""
    checkpoint: Path
    average: Outcome | None = None
    """The mean of this phase and its start, where that was asked for."""

    def write(self, folder: Path) -> None:
        """Fill the phase's folder."""
        phase_folder.write(
            folder,
            tensors=self.outcome.tensors,
            folds=self.outcome.folds,
            model=self.model,
            answers=self.outcome.answers,
            curves=self.curves,
            range_test=self.range_test.points if self.range_test else (),
        )
        if self.average is not None:
            write_average(folder, self.average, self.model)


@dataclass(frozen=True)
class Seen:
    """A phase after an epoch, to be looked at from outside."""

    row: dict[str, float]
    """What the curves have of it."""
    part: Part
    phase: Phase
    answers: Source
    """Activations of the views that answers are averaged over."""
    prefix: Prefix


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
    on_epoch: Callable[[Seen], object] = lambda _: None,
) -> Trained:
    """Train one phase from its start, prove that nothing below the cut moved, and return what it leaves.

    Where the images have several folds it is trained in each, and then on all development images. Where an activation
    turns out to be beyond float16, the phase starts again with all of them in float32.
    Raises: ParamsError if the phase is shallower than the one it starts from, or a setting would do nothing for this
    network, TrainingError if it diverges.
    """
    use_threads(compute)
    index = cut_index(name, params, backbone, trained_before=start.model.depth_blocks)
    _check_lineage(name, params, start, backbone, images)
    parts = parts_of(images, start)
    frozen = phase_folder.frozen_digest(backbone, index)
    pretrained = _pretrained(backbone, index)
    head = phase_folder.assemble(backbone, start.tensors, start.model)
    augment = augment.model_copy(update={"flip": start.model.augment.flip})
    classifier, prefix = _cut(backbone, index, head, Views(images, backbone.spec, seed, augment), compute)
    by = {"computed_on": computed_on(compute), "engine": prefix.engine.name}
    model = _facts(name, params, start, backbone, index, frozen, by)
    if params.cutmix > 0:
        require_maps(name, prefix.trial.shapes)
    rules = rules_of(params, backbone, index)
    params = settle_phase(name, params, rules, classifier)
    _say_what_trains(name, params, backbone, index, classifier, prefix)
    training = _Training(name, params, rules, classifier, pretrained, images, augment, seed, compute, on_epoch)
    results, checkpoints = training.run(parts, prefix, [model.model_dump(mode="json"), augment.model_dump(), seed])
    phase_folder.check_frozen(frozen, phase_folder.frozen_digest(backbone, index), name)
    outcome = gather(parts, [result.tensors for result, _ in results], [result.val_logits for result, _ in results])
    means = [mean for _, mean in results if mean is not None]
    average = gather(parts, [mean.tensors for mean in means], [mean.val_logits for mean in means]) if means else None
    found = results[-1][0].range_test
    decided = {"norm": params.norm, "warm_start": params.warm_start, "lr": found.lr if found else params.lr}
    curves = mean_curves([result.curves for result, _ in results], parts)
    return Trained(outcome, model.model_copy(update=decided), curves, found, checkpoints, average)


@dataclass(frozen=True)
class _Training:
    """A phase that is set up, to be run for each part of what it is trained on."""

    name: str
    params: PhaseParams
    rules: list[Rule]
    classifier: Classifier
    pretrained: Mapping[str, Tensor]
    """Of the blocks above the cut, before the start was laid over them."""
    images: PackedImages
    augment: AugmentParams
    seed: int
    compute: ComputeParams
    on_epoch: Callable[[Seen], object]

    def run(
        self, parts: Sequence[Part], prefix: Prefix, settings: list[object]
    ) -> tuple[list[tuple[Result, Average | None]], Path]:
        """Train each part and return what it leaves, and the folder of the checkpoints, named after `settings` too."""
        try:
            return self._attempt(parts, prefix, checkpoints := _checkpoints(*settings, _numbers(prefix))), checkpoints
        except HalfOverflowError as error:
            print(f"{self.name}: {error}: the phase starts again with all activations in float32", flush=True)
            prefix.store_as_float32()
            return self._attempt(parts, prefix, checkpoints := _checkpoints(*settings, _numbers(prefix))), checkpoints

    def _attempt(self, parts: Sequence[Part], prefix: Prefix, checkpoints: Path) -> list[tuple[Result, Average | None]]:
        """Train each part. Raises: HalfOverflowError if an activation is beyond the type that they are kept in."""
        train, val = sources_of(self.name, self.params, prefix, self.images, self.compute)
        keep_freed_memory()
        results = []
        with artifacts.one_at_a_time(checkpoints):  # two trials of the same phase would share their checkpoints
            for number, part in enumerate(parts):
                results.append(self._run(part, train, val, checkpoints / f"part-{number:02d}", prefix))
                self._tell(number, part, results[-1][0])
        return results

    def _tell(self, fold: int, part: Part, result: Result) -> None:
        if part.val is not None:
            seen = self.images.samples.iloc[part.val.rows]
            trial.tell(self.name, fold, logits=result.val_logits, labels=part.val.labels, images=seen)

    def _run(
        self, part: Part, train: Source, val: Source, folder: Path, prefix: Prefix
    ) -> tuple[Result, Average | None]:
        """Train one part, prove that what rules freeze above the cut did not move, and say what came of it."""
        begin = {**self.pretrained, **part.start}
        own = self.classifier.state_dict()  # a network that is not cut has its frozen blocks in it
        self.classifier.load_state_dict({name: begin.get(name, value) for name, value in own.items()})
        weights = class_weights(self.params.class_weights, part.train.labels, self.images.classes)
        phase = Phase(
            self.name,
            self.classifier,
            self.params,
            self.rules,
            task=Task(len(self.images.classes), num_answers(self.augment), weights),
            seed=self.seed,
            device=device_of(self.compute),
            folder=folder,
            pretrained=self.pretrained if self.params.l2_sp > 0 else {},
        )
        before = trained_tensors(self.classifier) if self.params.average else {}
        looked_at = None if part.val is None else (val, part.val)
        above = phase_folder.digest_of(frozen_tensors(self.classifier))
        printed = self._printing(part.label)

        def on_epoch(row: dict[str, float]) -> None:
            printed(row)
            self.on_epoch(Seen(row, part, phase, val, prefix))

        result = phase.run((train, part.train), looked_at, on_epoch)
        average = average_of(phase, before, result.tensors, looked_at) if self.params.average else None
        phase_folder.check_frozen(above, phase_folder.digest_of(frozen_tensors(self.classifier)), self.name)
        return result, average

    def _printing(self, part: str) -> Callable[[dict[str, float]], None]:
        title = f"{self.name}, {part}" if part else self.name

        def show(row: dict[str, float]) -> None:
            shown = (f"{key.replace('_', ' ')} {value:.4g}" for key, value in row.items() if not key.startswith("lr:"))
            print(f"{title}: {', '.join(shown)}", flush=True)

        return show


def _cut(
    backbone: Backbone, index: int, head: nn.Module, views: Views, compute: ComputeParams
) -> tuple[Classifier, Prefix]:
    """Return what trains, and the frozen part below it in its engine."""
    module, suffix = backbone.split(len(backbone.units) - index)
    classifier = Classifier(suffix, head)
    identity = artifacts.digest([backbone.fingerprint, backbone.blocks[:index]])
    return classifier, Prefix(views, module, identity=identity, compute=compute, suffix=classifier)


def _pretrained(backbone: Backbone, index: int) -> dict[str, Tensor]:
    """Return a copy of the tensors of the blocks above the cut before a phase lays its start over them."""
    state = backbone.module.state_dict()
    return {f"backbone.{name}": value.clone() for name, value in state.items() if backbone.block_of(name) >= index}


def _facts(
    name: str, params: PhaseParams, start: Start, backbone: Backbone, index: int, frozen_sha256: str, by: dict[str, str]
) -> ModelFacts:
    """Return the phase's model.json: that of its start, and what this phase is and keeps frozen, computed `by` what."""
    # What is offered beside the phase does not change it.
    settings = artifacts.digest(params.model_dump(exclude={"average"}))
    return start.model.model_copy(
        update={
            "phase": name,
            "start": params.start,
            "depth_blocks": len(backbone.units) - index,
            "cut": index,
            "not_trained": None,
            "lineage": start.model.lineage.model_copy(update={"params": settings, **by}),
            "frozen_sha256": frozen_sha256,
        }
    )


def _checkpoints(*settings: object) -> Path:
    """Return the folder of the checkpoints, under a fingerprint of everything that the phase depends on."""
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
        f"{'on' if params.warm_start else 'off'}; prefix in {prefix.engine.name}"
    )


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
