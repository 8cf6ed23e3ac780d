"""What is known of features, backbones, models and exported models, as it lies on disk: features.json, model.json."""

from typing import Annotated, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from thaw.pipeline.data_facts import Flip, Preprocessing
from thaw.pipeline.facts import COMMON, Facts


class Parent(BaseModel):
    """The model that a backbone was taken from, and the one before it."""

    model_config = ConfigDict(extra="forbid", **COMMON)

    model: str
    """SHA-256 of the manifest of the model's folder."""
    classes: list[str]
    data: str
    """Fingerprint of the images that it was trained on."""
    parent: "Parent | None" = None


class BackboneSpec(BaseModel):
    """A backbone's description; enough to build it again without its weights. `networks.spec.Spec` acts on it."""

    model_config = ConfigDict(extra="forbid", **COMMON)

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


class TakenFacts(Facts):
    """What of a file of weights was used, and what was not."""

    key: str
    """Where the mapping of names to tensors was, dots between the keys; `.` for the file itself."""
    prefix: str = ""
    """What stood before each of the network's names, the dot included."""
    how: Literal["names", "order", "timm"] = "names"
    """By what tensors were matched: their names, their order and shapes, or names that timm converted."""
    tensors: int
    """How many were used."""
    filled: int = 0
    """Counters of batches that the file lacks, which start from 0."""
    resampled: list[str] = Field(default_factory=list)
    """Tensors that were interpolated from another image size."""
    also: list[str] = Field(default_factory=list)
    """The `#KEY` of each other place that holds the same network, such as averaged weights."""
    unused_tensors: dict[str, int] = Field(default_factory=dict)
    """How many tensors beside the network's were there, by the first part of their names."""
    unused: list[str] = Field(default_factory=list)
    """What else the file holds: keys, dots between them, with the type of what cannot be read."""


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
    taken: TakenFacts | None = None
    """What of the file of weights was used; absent where a source holds nothing else."""


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
    engine: str | None = None
    """What ran the frozen part: `onnxruntime` or `torch`; absent from models made before it was recorded."""
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
    neighbours: float | None = None
    """Accuracy of the five nearest images; absent from models made before it was measured."""


class EarlierBlock(Facts):
    """How well a head on an earlier block does on validation, compared with one on the last block."""

    log_loss: float
    """Nats."""
    accuracy: float
    neighbours: float | None = None
    """Accuracy of the five nearest images; absent from models made before it was measured."""
    difference: float
    """Mean log loss less that of the last block, in nats; below 0 is better."""
    standard_error: float
    """Of the difference, over groups where images belong together."""


class EarlierLayers(Facts):
    """Heads on earlier blocks, each compared with one on the last."""

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
    not_trained: str | None = None
    """Why the phase was not trained: its tensors and answers are those of its start. Absent from one that was."""
    best_epoch: int | None = None
    """In models made before 0.2.0: the epoch that was kept."""
    members: Annotated[int, Field(ge=2)] | None = None
    """Networks whose mean logits are the model's; absent where it is one."""
    temperature: float | None = None
    """What logits are divided by; absent until the model is chosen."""
    selected_from: list[str] | None = None
    """The candidates, each after the one that it starts from; absent until the model is chosen."""


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
