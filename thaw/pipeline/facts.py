"""The fact files that travel between stages, as they lie on disk: model.json and its kin, one model a file.

A key that does not apply is absent from a file and None here. `read` refuses what a file should not hold, in one line.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    RootModel,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
)

from thaw.config.schema import Metric
from thaw.errors import ArtifactError
from thaw.pipeline import artifacts

Kind = TypeVar("Kind", bound=BaseModel)
Item = TypeVar("Item")


# As a constant, NaN reaches `write`, which refuses it; otherwise pydantic makes it null in silence.
_COMMON = ConfigDict(frozen=True, ser_json_inf_nan="constants")


class Facts(BaseModel):
    """Base of every fact file and its parts: typed strictly, immutable, closed to keys that mean nothing."""

    model_config = ConfigDict(strict=True, extra="forbid", validate_by_name=True, **_COMMON)

    @model_serializer(mode="wrap")
    def _without_absent(self, dump: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Leave out a None of an optional key; that of a required one is written as null."""
        known = type(self).model_fields
        return {key: value for key, value in dump(self).items() if value is not None or known[key].is_required()}


def read(path: Path, kind: type[Kind]) -> Kind:
    """Return the facts in a file. Raises: ArtifactError naming the first key that is missing, unknown or wrong."""
    return checked(artifacts.read_json(path), path, kind)


def checked(tree: Mapping[str, object], path: Path, kind: type[Kind]) -> Kind:
    """Return the facts in a JSON object that was read from a file. Raises: ArtifactError as `read` does."""
    try:
        return kind.model_validate_json(json.dumps(tree))  # as JSON: a strict model takes no list for a tuple
    except ValidationError as error:
        raise ArtifactError(f"{path}: {_first_mistake(error)}; run `dvc repro`, which writes it anew") from None


def write(path: Path, facts: BaseModel) -> None:
    """Write facts as JSON in one step. Raises: ValueError for NaN or infinity, which JSON has no word for."""
    artifacts.write_json(path, facts.model_dump(mode="json", by_alias=True))


def _first_mistake(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"]) or "the file"
    if first["type"] == "missing":
        return f"{key} is missing"
    if first["type"] == "extra_forbidden":
        return f"{key} is no key that this version of Thaw knows"
    value = json.dumps(first["input"], ensure_ascii=False)
    shown = value if len(value) <= 60 else f"{value[:60]}…"
    said = first["msg"].removeprefix("Value error, ")
    return f"{key} is {shown}: {said[0].lower()}{said[1:]}"


# --- data/prepared ---------------------------------------------------------------------------------------------------

Split = Literal["train", "val", "test"]
Flip = Literal["none", "horizontal", "vertical", "both", "square"]
Range = tuple[float, float]


class Preprocessing(Facts):
    """settings.json: how an image became the packed square."""

    size_px: int
    """Side of the square, in pixels."""
    fit: Literal["crop", "pad", "squash"]
    """How an oblong image became square."""
    test_fraction: float | None = None
    """Share of the images, 0 to 1; absent, as the next two, from an export, which splits nothing."""
    val_fraction: float | None = None
    max_rejected: float | None = None
    max_megapixels: float
    """An image that claims more millions of pixels is refused before it is decoded."""
    background: int
    """Grey level, 0 to 255, behind transparent images and around padded ones."""
    value_range: tuple[Range, ...] | None = None
    """Which values of the files became black and white, where params.yaml says so."""
    dtype: Literal["uint16"] | None = None
    """Absent for uint8."""

    @property
    def pixel_type(self) -> str:
        """The type of the packed pixels, uint8 or uint16."""
        return self.dtype or "uint8"


class ClassNames(Facts):
    """classes.json of data/prepared."""

    classes: list[str]
    """In the order of the probabilities."""


class Listed(Facts, Generic[Item]):
    """How many there are, and the first of them, so that audit.json stays readable."""

    count: int
    first: list[Item]


class Conflict(Facts):
    """An image that is listed under more than one label."""

    sha256: str
    paths: list[str]
    labels: list[str]
    """Of each path."""


Place = Annotated[str, Field(pattern=r"^(train|val|test|fold \d+)$")]
"""A split, or a fold of the development images."""


class Group(Facts):
    """Images that are the same, or look alike."""

    images: int
    splits: list[Place]
    """Each split or fold that has one of them."""
    paths: list[str]
    """Of the first of them."""
    labels: list[str]
    """Of each path."""


class NearDuplicates(Listed[Group]):
    """Groups of files that look alike."""

    groups_across_splits: int
    """How many lie in more than one split or fold."""


class Move(Facts):
    """A unit that is in another split or fold than its hash says, so that each has its share of every class."""

    unit: str
    """The group's name, or the SHA-256 of an image that has none."""
    images: int
    source: Place = Field(alias="from")
    target: Place = Field(alias="to")


class Unvalidated(Facts):
    """Images of which every fold trains on, since they are all there are of a class."""

    unit: str
    """As in `Move`."""
    images: int
    labels: list[str]


class GivenSplitChanged(Facts):
    """An exact copy whose split was given otherwise than that of another copy."""

    path: str
    given: Split | Literal[""]
    """Empty where none was given."""
    now: Split


class MissingClass(Facts):
    """A class that is never tested (test) or never validated on (val): too few images, or the user gave it so."""

    label: str
    split: Split


class ValueRange(Facts):
    """What the values of the files were before they were scaled."""

    used: list[Range]
    """Smallest and largest value of each channel, in the files' own units."""
    clipped_fraction: float
    """Share of the values outside the range that params.yaml gives, 0 to 1."""
    warning: str | None = None


class SplitCounts(Facts):
    """Images of a class in each split; where there are folds, train is all but test and val is 0."""

    train: int
    val: int
    test: int
    folds: list[int] | None = None
    """Images that each fold validates on; absent with one fold."""


class Audit(Facts):
    """audit.json: what there is to know about a data set before a figure from it is trusted."""

    images: int
    channels: int
    dtype: Literal["uint16"] | None = None
    """Absent for uint8."""
    value_range: ValueRange | None = None
    """Absent where no value was scaled."""
    folds: int
    """Parts of the development images of which each is validated on once; 1 is a split into train and val."""
    classes: dict[str, SplitCounts]
    rejected: int
    label_conflicts: Listed[Conflict]
    exact_duplicates: Listed[Group]
    near_duplicates: NearDuplicates
    first_frame_only: Listed[str]
    """Paths of animated images."""
    moved_by_repair: Listed[Move]
    given_split_changed: Listed[GivenSplitChanged]
    missing: Listed[MissingClass]
    never_validated: Listed[Unvalidated]
    units_of_tied_groups: int
    """Units that hold several of the user's groups, since these share a copy."""


# --- data/features and models ----------------------------------------------------------------------------------------


class Parent(BaseModel):
    """The model that a backbone was taken from, and the one before it."""

    model_config = ConfigDict(extra="forbid", **_COMMON)

    model: str
    """SHA-256 of the manifest of the model's folder."""
    classes: list[str]
    data: str
    """Fingerprint of the images that it was trained on."""
    parent: "Parent | None" = None


class BackboneSpec(BaseModel):
    """A backbone's description; enough to build it again without its weights. `networks.spec.Spec` acts on it."""

    model_config = ConfigDict(extra="forbid", **_COMMON)

    library: Literal["timm", "torchvision", "python", "onnx"]
    name: str
    """The architecture's name in its library."""
    in_channels: Annotated[int, Field(gt=0)] = 3
    input_px: Annotated[int, Field(gt=0)]
    """Side of the square input, in pixels."""
    mean: Annotated[tuple[float, ...], Field(min_length=1)]
    """Mean on the scale 0 to 1: of red, green and blue in the pretraining images, or of each of `in_channels`."""
    std: Annotated[tuple[float, ...], Field(min_length=1)]
    """Deviation, likewise."""
    interpolation: str
    license: str
    url: str
    """Where the weights came from; empty for random weights."""
    sha256: str
    """SHA-256 of the weights file; empty for random weights."""
    keep: str = ""
    """The last block that is kept; empty for the whole network."""
    taps: tuple[str, ...] = ()
    """Blocks whose pooled outputs are features as well; `all` alone stands for every one."""
    pool: Literal["own", "avg", "max", "both"] = "own"
    """How the last maps, or tokens, become features: as the network does it, or by their average, maximum or both."""
    parent: Parent | None = None
    """The model of Thaw that the weights come from, if they do."""
    graph: str = ""
    """The graph of a network in ONNX, packed, without its weights; empty for one that its library builds."""


class BackboneFacts(Facts):
    """model.json of models/backbone."""

    source: str
    """`backbone.source` of params.yaml."""
    in_channels: int | None = None
    """Channels that params.yaml asks for; absent where it takes what the images have."""
    backbone: BackboneSpec
    blocks: list[str]
    """Input first."""
    features: int
    """Length of the feature vector of one image."""


class Lineage(Facts):
    """What something was made from, as SHA-256, and what computed it; a key is absent until there is such a thing."""

    data: str
    """Manifest of data/prepared."""
    backbone: str
    """Manifest of models/backbone."""
    features: str | None = None
    """Manifest of data/features."""
    parent: str | None = None
    """Manifest of the folder that a phase started from."""
    params: str | None = None
    """The phase's settings."""
    computed_on: str | None = None
    """Processor, its instruction set, and the number of threads; absent from models made before it was recorded."""
    backbone_manifest: str | None = None
    """Manifest of models/backbone that the phase was laid over."""
    phase_manifest: str | None = None
    """Manifest of the folder of the phase that was chosen."""

    def named(self) -> dict[str, str]:
        """Return what is known, by its key."""
        return {key: value for key, value in self if value is not None}


class LastBlock(Facts):
    """How well a head on the last block does on validation, out of fold where there are folds."""

    block: str
    log_loss: float
    """Nats."""
    accuracy: float


class EarlierBlock(Facts):
    """How well a head on an earlier block does on validation, compared with one on the last block."""

    log_loss: float
    """Nats."""
    accuracy: float
    difference: float
    """Mean log loss less that of the last block, in nats; below 0 is better."""
    standard_error: float
    """Of the difference, over groups where images belong together."""


class EarlierLayers(Facts):
    """Heads on a few earlier blocks, each compared with one on the last."""

    images: int
    """Training images that these heads were fitted on."""
    last: LastBlock
    earlier: dict[str, EarlierBlock]


class AugmentFacts(Facts):
    """The flips in force, and the evidence for them."""

    flip: Flip
    accuracy: dict[str, float] = Field(default_factory=dict)
    """Of heads on training images left out in turn, plain and mirrored; empty where params.yaml names the flips."""
    tta: bool = Field(validation_alias=AliasChoices("tta", "average"))  # models made before 0.1.0 have `average`
    """Whether an answer is the average over the flips."""


class FeaturesFacts(Facts):
    """features.json: what the features were made from."""

    classes: list[str]
    backbone: BackboneSpec
    blocks: list[str]
    """Of the backbone, input first."""
    preprocessing: Preprocessing
    lineage: Lineage
    earlier_layers: Annotated[
        EarlierLayers | None,
        BeforeValidator(lambda value: value or None),
        PlainSerializer(lambda value: {} if value is None else value.model_dump(mode="json")),
    ] = None
    """None, an empty object in the file, where nothing was compared."""
    augment: AugmentFacts


class Recall(Facts):
    """How many validation images of a class a head finds, before and after it grew."""

    images: int
    before: float
    after: float


class Grown(Facts):
    """What became of the head that this one was grown from."""

    model: str
    """SHA-256 of the manifest of the model's folder."""
    kept: list[str]
    new: list[str]
    dropped: list[str]
    images_of_kept: int
    """Validation images of classes that were known before."""
    accuracy_before: float
    """On these images."""
    accuracy_after: float
    recalls: dict[str, Recall]
    """Of each class known before that has a validation image."""


class HeadFacts(Facts):
    """How the output layers are built, and how they were fitted."""

    kind: Literal["linear", "mlp", "cosine"] | None = None
    """Absent from heads of before there were kinds: linear, or mlp where there are hidden layers."""
    hidden: list[int]
    """Widths of the hidden layers."""
    dropout: float
    strength: float | None = None
    """C of the regularisation that was chosen, where the head was solved."""
    largest_weight: float | None = None
    """Largest absolute weight, where the head was solved."""
    grown_from: Grown | None = None

    @property
    def form(self) -> Literal["linear", "mlp", "cosine"]:
        """The kind, also of a head of before there were kinds."""
        return self.kind or ("mlp" if self.hidden else "linear")


class ModelFacts(FeaturesFacts):
    """model.json of the head, of a phase, and of the model that was chosen."""

    phase: str
    """`head`, the phase's name, or START+PHASE for the mean of their weights."""
    start: str | None
    """The phase that it started from; null for the head."""
    depth_blocks: int
    """Blocks, counted from the head, above the cut."""
    cut: int
    """Blocks below the cut."""
    head: HeadFacts
    frozen_sha256: str | None = None
    """Of every tensor below the cut; absent from the head."""
    norm: Literal["frozen", "stats", "train"] | None = None
    """What the norm layers of the suffix did; absent from the head's own file."""
    warm_start: bool | None = None
    """Whether norm statistics and head were brought in line before the first step; absent likewise."""
    lr: float | None = None
    """Peak learning rate of the head; absent from the head's own file."""
    best_epoch: int | None = None
    """In models made before 0.2.0: the epoch that was kept."""
    members: Annotated[int, Field(ge=2)] | None = None
    """Networks whose mean logits are the model's; absent where it is one."""
    temperature: float | None = None
    """What logits are divided by; absent until the model is chosen."""
    selected_from: list[str] | None = None
    """The candidates, each after the one that it starts from; absent until the model is chosen."""


# --- models/export ---------------------------------------------------------------------------------------------------


class ExportedPreprocessing(Preprocessing):
    """How an image becomes the packed square that the exported graph takes."""

    channels: int


class ExportedInput(Facts):
    """What the exported graph makes of a packed square before its network sees it."""

    input_px: int
    mean: list[float]
    """Subtracted from each channel, on the scale 0 to 1."""
    std: list[float]
    """What each channel is divided by after that."""


class Origin(Facts):
    """Where a network came from."""

    library: str
    name: str
    license: str
    url: str


class ExportedFacts(Facts):
    """model.json of models/export, and the metadata of its ONNX file."""

    format: int
    """Raised when a reader would misunderstand a newer one."""
    classes: list[str]
    """In the order of the probabilities."""
    preprocessing: ExportedPreprocessing
    input: ExportedInput
    flips: Flip
    """Mirror images that an answer is averaged over."""
    views: int
    """How many those are, the plain image included."""
    members: int | None = None
    """Networks whose mean logits an answer is; absent where it is one."""
    cost: float | None = None
    """Multiplications of such an answer, as a multiple of those of one network; absent likewise."""
    temperature: float
    explanation: str
    """How a place of the image is found to speak for a class."""
    backbone: Origin
    license: str
    """Of the model, as the Hugging Face hub names it."""
    phase: str
    fingerprint: str
    """SHA-256 of the manifest of models/final."""
    lineage: Lineage


# --- reports ---------------------------------------------------------------------------------------------------------

Figures = dict[str, int | float]
"""Metrics by name, each followed by the ends NAME_low and NAME_high of its 95 % interval where there is one."""


class Comparison(Facts):
    """A challenger against a reference on the same images; negative differences favour the challenger."""

    reference: str
    difference: float
    """Cost of the challenger minus that of the reference, each at temperatures that were fitted on other images."""
    low: float | None
    high: float | None
    """95 % bootstrap interval of the difference; absent where all draws agree, which tells nothing of it."""
    win_rate: float
    """Share of bootstrap draws in which the challenger's cost is smaller."""
    mcnemar_p: float
    """Two-sided exact p of McNemar's test: are the errors of one more than those of the other?"""


class CandidateFacts(Facts):
    """What validation says of the head, a phase, or the mean of a phase and its start."""

    chosen: bool
    start: str | None = None
    """Absent from the head."""
    accuracy: float
    log_loss: float
    """Nats, as the model stands."""
    temperature: float
    """Fitted on all answers."""
    calibrated_log_loss: float
    """Nats, each image's at a temperature that was fitted on others."""
    cost: float
    """What is compared (`Selection.cost` says what it is), the smaller the better."""
    against_head: Comparison | None = None
    """Absent, as the next two, from the head."""
    against_start: Comparison | None = None
    against_best: Comparison | None = None
    """Against the best candidate so far when its turn came."""
    replaced_best: bool
    """It became the best so far."""
    train_validation_gap: float | None = None
    """Validation loss minus training loss after the last epoch, in nats; absent where no epoch was trained."""


class Finding(Facts):
    """Something that looks wrong, or of which too few images tell whether it is (`cannot_tell`)."""

    kind: Literal[
        "diverges",
        "rate_too_low",
        "stuck",
        "overfits",
        "no_better_than_majority",
        "earlier_layers_do_better",
        "cannot_tell",
    ]
    where: str
    """The head or a phase."""
    evidence: str
    advice: str


class Selection(Facts):
    """selection.json: the choice, the sentence that explains it, the evidence, the findings."""

    chosen: str
    reason: str
    """Why it was chosen, in a sentence: what was kept, and no claim that it helps."""
    images: int
    """Validation images; with folds, all development images but those that are in every training part."""
    folds: int
    """How often head and phases were trained to answer for images that they had not seen."""
    metric: Metric
    """What should be best: `select.metric`."""
    cost: str
    """What was compared for it, in words."""
    final: Literal["refit", "ensemble"] | None = None
    """What the chosen network is, where there are several folds."""
    min_win_rate: float
    """Share of bootstrap draws that a candidate must win to replace the best."""
    draws: int
    candidates: dict[str, CandidateFacts]
    """Each after the one that it starts from."""
    findings: list[Finding]

    @property
    def looked_at(self) -> str:
        """What the choice was made on, in words."""
        return looked_at(self.images, self.folds)


def looked_at(images: int, folds: int) -> str:
    """Return in words which images a choice was made on."""
    if folds == 1:
        return f"{images:,} validation images"
    return f"{images:,} development images, each answered by a network that has not seen it ({folds} folds)"


class ValidationFigures(Facts):
    """What experiments are compared by."""

    accuracy: float
    log_loss: float
    """Nats, calibrated."""


class ValidationMetrics(Facts):
    """validation.json: what `dvc metrics` and `dvc exp show` compare, and no test image has a part in."""

    chosen: str
    validation: dict[str, ValidationFigures]
    """Of the head and each phase."""


class Accuracy(Facts):
    """An accuracy on the test images, and the ends of its 95 % interval."""

    accuracy: float
    accuracy_low: float
    accuracy_high: float


class Choice(Facts):
    """The candidate that was chosen on validation, and its temperature."""

    phase: str
    temperature: float


Word = Literal["helped", "kept", "hurt", "better", "not_shown", "worse", "no_phase"]


class Verdict(Facts):
    """Whether unfreezing helped, as the test images show it."""

    word: Word
    """Of a phase that was chosen: helped, kept (whether it helps is not shown), hurt. Where the head was chosen, of the
    rejected phase that came nearest: better, not_shown, worse. no_phase where none was trained."""
    model: str | None = None
    """The phase that is held against the head; absent, as the next, where no phase was trained."""
    metric: Metric | None = None
    """`select.metric`: whose change decided the word."""
    sentence: str
    """The word and its figures, as page, summary and card show them."""


class Metrics(Facts):
    """metrics.json: the figures of the test set, however many classes there are."""

    test: Figures
    """Of the model that was chosen: n (images), accuracy and further metrics."""
    majority: Accuracy
    """Of always naming the most frequent class."""
    head: Accuracy
    phases: dict[str, Accuracy]
    final: Choice
    change: Figures | None = None
    """From the head to the verdict's phase (`verdict.change_of`); absent where no phase was trained."""
    verdict: Verdict

    @field_validator("test")
    @classmethod
    def _has_a_result(cls, test: Figures) -> Figures:
        if missing := {"n", "accuracy"} - set(test):
            raise ValueError(f"it lacks {min(missing)}")
        return test


class ClassFigures(RootModel[dict[str, Figures]]):
    """classes.json of reports: support, precision, recall and f1 of each class on the test images, by its name."""

    model_config = ConfigDict(strict=True, **_COMMON)


def interval(figures: Mapping[str, int | float], name: str) -> tuple[float, float] | None:
    """Return the ends of a metric's 95 % interval; None where it has none."""
    return (figures[f"{name}_low"], figures[f"{name}_high"]) if f"{name}_low" in figures else None
