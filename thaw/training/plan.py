"""What a run will do and cost, worked out before any time is spent."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional

from thaw.activations.costs import Decision, Work, decide, train_passes
from thaw.activations.engine import Engine, use_threads
from thaw.activations.prefix import enlargement, narrow, widen
from thaw.augment.views import num_distinct
from thaw.config.schema import Params, PhaseParams
from thaw.data import folds, listing
from thaw.errors import ThawError
from thaw.head.layers import build_head
from thaw.networks.backbone import Backbone, check_channels
from thaw.networks.cut import probe
from thaw.networks.sources.opening import open_backbone
from thaw.pipeline import artifacts, facts, tables
from thaw.pipeline.advice_facts import Advice
from thaw.pipeline.data_facts import Audit
from thaw.pipeline.model_facts import EarlierBlock, LastBlock
from thaw.training import phase_folder
from thaw.training.advised import ADVICE, follow, open_advice
from thaw.training.groups import Rule, rule_of, rules_of
from thaw.training.loop import Classifier
from thaw.training.loss import require_maps
from thaw.training.phase import cut_index, settle_phase

_PROBE_IMAGES = 8


def blocks_table(source: str, backbone: Backbone) -> Table:
    """Return the blocks of a backbone, input first, with the activation that a cut below each would cache."""
    spec = backbone.spec
    table = Table(
        title=f"{source}: {len(backbone.blocks)} blocks, {backbone.num_features} features, {spec.input_px} px",
        title_justify="left",
    )
    for column in ("depth", "block", "parameters", "cut below it: activation", "KiB an image (float16)"):
        table.add_column(column, justify="left" if column in {"block", "cut below it: activation"} else "right")
    for index, name in enumerate(backbone.blocks):
        depth = len(backbone.blocks) - index
        table.add_row(
            str(depth), name, f"{_num_parameters(backbone, index, index + 1):,}", *_activation(backbone, depth)
        )
    return table


def plan_tables(params: Params) -> list[Table]:
    """Return one table a phase: each block's rate as it will be applied, decay, norm mode, cache and estimated time.

    The time is measured now on random weights and a few random images, the prefix in the engine that a run would use;
    its first export takes a while and is kept.
    """
    use_threads(params.compute)
    data = _data_set(params)
    wanted, asked = params.backbone, params.head
    with torch.random.fork_rng():
        torch.manual_seed(0)  # the same weights in every plan: an engine that was exported is used again
        backbone = open_backbone(
            wanted.source,
            pretrained=False,
            in_channels=data.channels,
            input_px=wanted.input_px,
            keep=wanted.keep,
            taps=wanted.taps,
            pool=asked.pool,
        )
        head = build_head(backbone.num_features, data.num_classes, asked.hidden, asked.dropout, kind=asked.kind)
    params, notes = _with_depths(params, backbone)
    tables = [_phase_table(name, phase, backbone, data, head, params) for name, phase in params.unfreeze.phases.items()]
    return [*tables, *(Table(title=note, title_justify="left", box=None) for note in notes)]


def _with_depths(params: Params, backbone: Backbone) -> tuple[Params, list[str]]:
    """Return params whose phases have depths of their own, and a line for each that follows the advice.

    A phase that is advised against is left out. Before there is any advice, the whole network is planned.
    """
    phases, notes, before = dict[str, PhaseParams](), list[str](), {"head": 0}
    advice = open_advice() if ADVICE.exists() else None
    for name, asked in _by_start(params.unfreeze.phases):
        start = before[name] = before[asked.start]
        phase: PhaseParams | str = asked
        if asked.depth == "auto" and advice is None:
            notes.append(f"{name}: depth auto is settled by the stage `advise`; the whole network is planned here")
            phase = asked.model_copy(update={"depth": "all"})
        elif asked.depth == "auto" and advice is not None:
            phase = follow(asked, advice, unfrozen_before=start)
        if isinstance(phase, str):
            notes.append(f"{name}: not trained, since {phase}")
            continue
        trained = asked.start
        while trained != "head" and trained not in phases:
            trained = params.unfreeze.phases[trained].start
        phases[name] = phase.model_copy(update={"start": trained})
        before[name] = len(backbone.units) - cut_index(name, phase, backbone, trained_before=start)
    ordered = {name: phases[name] for name in params.unfreeze.phases if name in phases}
    return params.model_copy(update={"unfreeze": params.unfreeze.model_copy(update={"phases": ordered})}), notes


def _by_start(phases: Mapping[str, PhaseParams]) -> list[tuple[str, PhaseParams]]:
    """Return phases, each after the one that it starts from."""
    ordered: list[tuple[str, PhaseParams]] = []
    while len(ordered) < len(phases):
        known = {"head", *(name for name, _ in ordered)}
        ordered += [(name, phase) for name, phase in phases.items() if name not in known and phase.start in known]
    return ordered


def advice_tables(advice: Advice) -> list[Table]:
    """Return the trials that an advice rests on, and what each block holds while nothing is trained."""
    trials = Table(
        title=f"Trials of {advice.trained} images in {advice.epochs} epochs, judged by {advice.asked} others "
        f"(change: {advice.cost}, smaller is better)",
        title_justify="left",
    )
    for column in ("from depth", "depth", "lr", "accuracy", "change", "95 % interval", "draws won", ""):
        trials.add_column(column, justify="right")
    for tried in advice.trials:
        between = "not to be had" if tried.low is None or tried.high is None else f"{tried.low:.3f} to {tried.high:.3f}"
        trials.add_row(
            str(tried.start), str(tried.depth_blocks), f"{tried.lr:g}", f"{tried.accuracy:.3f}", f"{tried.change:+.3f}",
            between, f"{100 * tried.win_rate:.0f} %", "a step" if tried.accepted else "",
        )  # fmt: skip
    layers = advice.earlier_layers
    probes = Table(title="Heads on what each block holds, nothing trained", title_justify="left")
    for column in ("block", "log loss", "accuracy", "five nearest", "gradient / weights"):
        probes.add_column(column, justify="left" if column == "block" else "right")
    held: dict[str, EarlierBlock | LastBlock] = dict(layers.earlier) if layers else {}
    if layers:
        held[layers.last.block] = layers.last
    for block in advice.blocks:
        found, pulled = held.get(block), advice.gradients.get(block)
        nearest = "" if found is None or found.neighbours is None else f"{found.neighbours:.3f}"
        shown = ("", "", "") if found is None else (f"{found.log_loss:.3f}", f"{found.accuracy:.3f}", nearest)
        probes.add_row(block, *shown, "" if pulled is None else f"{pulled:.3g}")
    return [trials, probes]


@dataclass(frozen=True)
class _DataSet:
    num_images: int
    """That are trained on."""
    num_development: int
    """That are trained or validated on."""
    num_folds: int
    channels: int
    num_classes: int

    @property
    def passes(self) -> int:
        """How often an epoch goes through all images: each is in all folds but one, and in the training on all."""
        return self.num_folds

    @property
    def in_words(self) -> str:
        images = f"{self.num_images} images"
        return images if self.num_folds == 1 else f"{images}, in {self.num_folds} folds and then on all"


def _phase_table(
    name: str, phase: PhaseParams, backbone: Backbone, data: _DataSet, head: nn.Module, params: Params
) -> Table:
    depth = _num_trained(name, params, backbone)
    index = len(backbone.units) - depth
    rules = rules_of(phase, backbone, index)
    phase = settle_phase(name, phase, rules, Classifier(backbone.split(depth)[1], head))
    decision, train_s = _costs(name, phase, backbone, depth, data, head, params)
    table = Table(
        title=f"{name}: from {phase.start}, {depth} of {len(backbone.units)} blocks, {phase.epochs} epochs of "
        f"{data.in_words}, batches of {phase.batch_size}",
        caption=f"views {phase.views}; norm {phase.norm}; warm start {'on' if phase.warm_start else 'off'}; "
        f"{_in_words(rules, phase)}\n"
        f"activations: {decision.reason}\ntraining on them: about {train_s:.0f} s",
        title_justify="left",
        caption_justify="left",
    )
    if note := enlargement(backbone.spec.input_px, params.prepare.size_px):
        table.caption = f"{table.caption}\n{note}"
    for column in ("block", "parameters", "learning rate", "weight decay"):
        table.add_column(column, justify="left" if column == "block" else "right")
    num_head = sum(value.numel() for value in head.parameters())
    covered = _num_covered(backbone, rules)
    table.add_row("head", f"{num_head:,}", _rate(rules[0], phase), f"{phase.weight_decay:g}")
    for rule in rules[1:]:
        rate, decay = ("frozen", "") if rule.lr is None else (_rate(rule, phase), f"{phase.weight_decay:g}")
        table.add_row(rule.label, f"{covered[rule.label]:,}", rate, decay)
    return table


def _num_trained(name: str, params: Params, backbone: Backbone) -> int:
    """Return how many blocks lie above the cut of a phase, of those that it trains and its start has trained.

    Raises: ParamsError if the phase is shallower than its start.
    """
    phase = params.unfreeze.phases[name]
    before = 0 if phase.start == "head" else _num_trained(phase.start, params, backbone)
    return len(backbone.units) - cut_index(name, phase, backbone, trained_before=before)


def _rate(rule: Rule, phase: PhaseParams) -> str:
    if phase.lr == "auto" and not rule.given:
        return "auto" if rule.lr == 1 else f"auto x {rule.lr:.3g}"
    return f"{rule.lr:.3g}"


def _in_words(rules: Sequence[Rule], phase: PhaseParams) -> str:
    """Say how the lowest rate compares with the head's, as far as both are known, and whether one is to be found."""
    head, *_, lowest = [rule for rule in rules if rule.lr is not None]
    assert head.lr is not None
    assert lowest.lr is not None
    found = "auto: found by a range test before the first step"
    if phase.lr == "auto" and lowest.given:
        return found
    ratio = f"lowest rate {lowest.lr / head.lr:.3g} of the head's"
    return f"{ratio}; {found}" if phase.lr == "auto" else ratio


def _costs(
    name: str, phase: PhaseParams, backbone: Backbone, depth: int, data: _DataSet, head: nn.Module, params: Params
) -> tuple[Decision, float]:
    """Return how a phase comes by its activations, and the seconds of training on them."""
    prefix, suffix = backbone.split(depth)
    shape = backbone.example(_PROBE_IMAGES).shape
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last)
    weights = phase_folder.digest_of(prefix.state_dict())
    key = artifacts.digest(["plan", backbone.spec.model_dump(mode="json"), depth, weights])
    engine = Engine(prefix, images, key=key, compute=params.compute, num_images=data.num_development)
    boundary = [widen(narrow(value, np.dtype(np.float32))) for value in engine(images)]
    if phase.cutmix > 0:
        require_maps(name, [value.shape[1:] for value in boundary])
    prefix_s, step_s = _seconds_an_image(engine, images, boundary, Classifier(suffix, head))
    # Flips that are still to be found out count as if all kept the label.
    augment = params.augment.model_copy(update={"flip": "both"} if params.augment.flip == "auto" else {})
    num_views = num_distinct(phase.views, augment)
    work = Work(
        num_images=data.num_images,
        num_views=num_views,
        missing_views=num_views,
        passes=data.passes * train_passes(phase),
        bytes_an_image=2 * sum(value[0].numel() for value in boundary),
        seconds_an_image=prefix_s,
    )
    trained_s = data.num_images * data.passes * phase.epochs * step_s
    return decide(work, int(params.compute.cache_gib * 2**30)), trained_s


def _seconds_an_image(engine: Engine, images: Tensor, boundary: list[Tensor], model: Classifier) -> tuple[float, float]:
    """Return the seconds that the prefix, and a training step of the suffix, take for one image."""
    labels = torch.zeros(len(images), dtype=torch.long)
    started = time.perf_counter()
    engine(images)
    prefix_s = time.perf_counter() - started
    step_s = float("inf")
    model.train()
    for _ in range(2):
        started = time.perf_counter()
        torch.autograd.backward(functional.cross_entropy(model(*boundary), labels))
        step_s = min(step_s, time.perf_counter() - started)
    return prefix_s / len(images), step_s / len(images)


def _data_set(params: Params) -> _DataSet:
    """Return what is known of the data set: exact once `prepare` has run.

    Before that the shares of test and validation are those asked for, all images count as independent, and colour is
    assumed where channels are not given.
    """
    prepared = Path("data/prepared")
    if (prepared / "samples.csv").exists():
        samples = tables.read(prepared / "samples.csv")
        artifacts.verify(prepared, only=("samples.csv", "audit.json"))
        channels = facts.read(prepared / "audit.json", Audit).channels
        check_channels(params.backbone.asked_channels, channels)
        num_train, num_held_out = (int((samples["split"] == split).sum()) for split in ("train", "test"))
        num_folds, num_classes = int(samples["fold"].max()) + 1, int(samples["label"].nunique())
        return _DataSet(num_train, len(samples) - num_held_out, num_folds, channels, num_classes)
    listed = listing.read_data(params.data)
    given = listed.table["split"]
    held_out = params.prepare.test_fraction if not (given == "test").any() else float((given == "test").mean())
    development, asked = round(len(listed.table) * (1 - held_out)), params.select.folds
    if asked == "auto":
        asked = folds.AUTO if development <= folds.MOST_FOR_FOLDS and not (given == "val").any() else 1
    validated = params.prepare.val_fraction if not (given == "val").any() else float((given == "val").mean())
    num_train = development if asked > 1 else round(len(listed.table) * (1 - held_out - validated))
    return _DataSet(num_train, development, asked, params.backbone.asked_channels or 3, len(listed.classes))


def _num_covered(backbone: Backbone, rules: Sequence[Rule]) -> dict[str, int]:
    """Return how many parameters of the backbone each rule decides about."""
    covered = dict.fromkeys((rule.label for rule in rules), 0)
    for name, value in backbone.module.named_parameters():
        covered[rule_of(rules, f"backbone.{name}").label] += value.numel()
    return covered


def _num_parameters(backbone: Backbone, first: int, end: int) -> int:
    named = backbone.module.named_parameters()
    return sum(value.numel() for name, value in named if first <= backbone.block_of(name) < end)


def _activation(backbone: Backbone, depth: int) -> tuple[str, str]:
    try:
        shapes = probe(backbone.split(depth)[0], backbone.example(2))
    except ThawError as error:
        return str(error), ""
    text = " + ".join("x".join(str(side) for side in shape) for shape in shapes)
    return text, f"{sum(shape.numel() for shape in shapes) * 2 / 1024:.0f}"
