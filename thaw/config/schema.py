"""Every key of params.yaml as pydantic models: its unit, its bounds, its default.

DVC refuses a stage whose `params:` names a section that params.yaml lacks. So every section that a stage names is
required, if only as `{}`, and only the keys within have defaults.
"""

import re
from collections.abc import Mapping
from fractions import Fraction as Rational
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from thaw.config import messages

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """Base of every section: typed strictly, immutable, and closed to keys that mean nothing."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


PhaseName = Annotated[str, Field(pattern=messages.FORMS["phase"])]


class DepthRule(Section):
    """Parameters of the backbone by name, and what becomes of them; the first rule that matches one decides."""

    pattern: Annotated[str, Field(min_length=1)]
    """Names as in models/backbone/weights.safetensors, with * for any text: `blocks.6.*`, `*bn*`."""
    lr: Positive | None
    """Learning rate at its peak; null freezes."""


def share_of_blocks(depth: object) -> Rational | None:
    """Return the share that a depth such as `1/3` names; None for a depth of another form, or beyond 0 to 1."""
    parts = re.fullmatch(r"([0-9]{1,4})/([0-9]{1,4})", depth) if isinstance(depth, str) else None
    numerator, denominator = map(int, parts.groups()) if parts else (0, 0)
    return Rational(numerator, denominator) if 0 < numerator <= denominator else None


def _check_depth(value: object) -> object:
    counted = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    share = isinstance(value, str) and re.fullmatch(r"[-+]?[0-9.]+ */ *[-+]?[0-9.]+", value) is not None
    if share and share_of_blocks(value) is None:
        raise ValueError("a share of the blocks must be two whole numbers, above 0 and at most 1, such as 1/3")
    if not counted and not (isinstance(value, str) and value) and not (isinstance(value, list) and value):
        raise ValueError(
            "it must be a whole number from 1, a share of the blocks such as 1/3, all, auto, the name of a block, or a "
            "list of {pattern, lr} rules"
        )
    return value


def _kind(value: object) -> str:
    """Return which form a value of several possible ones has; `~` tells messages.py that it is no key of the file."""
    return "~text" if isinstance(value, str) else "~whole" if isinstance(value, int) else "~several"


Depth = Annotated[
    Annotated[int, Tag("~whole")] | Annotated[str, Tag("~text")] | Annotated[list[DepthRule], Tag("~several")],
    Discriminator(_kind),
    BeforeValidator(_check_depth),
]
ClassWeights = Annotated[
    Annotated[Literal["none", "balanced"], Tag("~text")] | Annotated[dict[str, Positive], Tag("~several")],
    Discriminator(
        _kind, custom_error_type="class_weights", custom_error_message="it must be none, balanced or a mapping"
    ),
]


def _check_rate(value: object) -> object:
    if value != "auto" and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ValueError("it must be a number above 0, or auto")
    return value


Rate = Annotated[
    Annotated[Positive, Tag("~number")] | Annotated[Literal["auto"], Tag("~text")],
    Discriminator(lambda value: "~text" if isinstance(value, str) else "~number"),
    BeforeValidator(_check_rate),
]


def _check_warm_start(value: object) -> object:
    if not isinstance(value, bool) and value != "auto":
        raise ValueError("it must be true, false or auto")
    return value


def _check_plane(value: object) -> object:
    if value not in ("first", "middle", "max", "mean") and (
        isinstance(value, bool) or not isinstance(value, int) or value < 0
    ):
        raise ValueError("it must be first, middle, max, mean, or the number of a plane, counted from 0")
    return value


Plane = Annotated[Literal["first", "middle", "max", "mean"] | int, BeforeValidator(_check_plane)]
WarmStart = Annotated[bool | Literal["auto"], BeforeValidator(_check_warm_start)]


class PhaseSettings(Section):
    """What a phase may set, and `unfreeze.defaults` for all phases."""

    lr_scale: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor on the rate for each block further from the head; 1 gives all blocks the same rate."""
    epochs: Count = 4
    """Passes over the training images; what the last one leaves is what the phase offers."""
    views: Annotated[int, Field(ge=0, le=64)] = 4
    """Views per image, whose activations are cached; 0 augments afresh in every epoch, without a cache."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 32
    """Images in a training step."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.01
    """AdamW's decoupled weight decay; norm layers and biases are never decayed."""
    warmup: Fraction = 0.2
    """Share of the steps in which the rate rises from zero; it then falls along a cosine."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target's probability that is spread over all classes while training."""
    warm_start: WarmStart = "auto"
    """Before the first step, re-estimate the suffix's norm statistics and solve a linear head on what it then sees;
    `auto` does it wherever one of the two is possible."""
    norm: Literal["auto", "frozen", "stats", "train"] = "auto"
    """Norm layers of the suffix: keep the running statistics, also update them, or use batch statistics. `auto` is
    `train` where what the phase trains keeps running statistics, and `frozen` where nothing does."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW, or stochastic gradient descent with a Nesterov momentum of 0.9, which wants a larger rate."""
    schedule: Literal["cosine", "one-cycle", "constant"] = "cosine"
    """What the rate does after its rise: it falls to zero along a cosine, or stays; `one-cycle` rises along one too."""
    grad_clip: Annotated[float, Field(ge=0)] = 0.0
    """Largest norm of the gradient of all trained tensors together; 0 clips nothing."""
    accumulate: Count = 1
    """Batches whose gradients are averaged for one step; norm layers still see a batch at a time."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay a step of a running average of the weights, which is then what is validated and kept; 0 keeps none."""
    l2_sp: Annotated[float, Field(ge=0)] = 0.0
    """Strength of the pull of the backbone's trained tensors towards their pretrained values (Li et al. 2018)."""
    mixup: Annotated[float, Field(ge=0)] = 0.0
    """Alpha of mixup, done on the activations at the cut (manifold mixup, Verma et al. 2019); 0 mixes nothing."""
    cutmix: Annotated[float, Field(ge=0)] = 0.0
    """Alpha of cutmix (Yun et al. 2019), done on the maps at the cut; 0 mixes nothing. With mixup, each batch gets one
    of the two."""
    class_weights: ClassWeights = "none"
    """Weight of each class in the loss: equal, inverse to its share of the training images, or by name (others 1)."""
    balanced_sampler: bool = False
    """Draw every class equally often in an epoch, with replacement, instead of every image once."""
    unfreeze_every: Annotated[int, Field(ge=0)] = 0
    """Epochs between the unfreezing of one block and of the next below it; 0 unfreezes all of them from the start."""
    average: bool = False
    """Also offer `select` the mean of this phase's weights and its start's, named START+PHASE."""


_NOT_SET: Any = None  # no value that a file may give: a phase then needs one of its own


class PhaseDefaults(PhaseSettings):
    """Settings of every phase that does not set them itself: all keys of a phase but `start`."""

    depth: Depth = _NOT_SET
    """See unfreeze.phases.NAME.depth."""
    lr: Rate = _NOT_SET
    """See unfreeze.phases.NAME.lr."""


class PhaseParams(PhaseSettings):
    """One phase of progressive unfreezing."""

    start: PhaseName
    """`head`, or the phase from whose last epoch this one starts. DVC reads it, so each phase has its own."""
    depth: Depth
    """How many blocks nearest the head to unfreeze, a share of all blocks (`1/3`, rounded half up, at least one block),
    `all`, the name of the lowest block to unfreeze, `auto` (the stage `advise` measures it, and where that does not pay
    the phase is not trained), or a list of rules `{pattern: TEXT, lr: NUMBER or null}` over the names of the backbone's
    parameters, with `*` for any text: the first that matches decides, and a parameter that no rule matches stays
    frozen."""
    lr: Rate
    """Learning rate of the head at its peak; `auto` takes the advice where `depth` does, and else finds it in the run
    by a range test (Smith 2017) before the first step."""

    @property
    def norm_mode(self) -> Literal["frozen", "stats", "train"]:
        """The mode of the norm layers, in a phase whose `auto` values are decided (`settle` of config/checks.py)."""
        assert self.norm != "auto"
        return self.norm


class DataParams(Section):
    """Where the images come from."""

    raw: Annotated[str, Field(min_length=1)]
    """A folder with one sub-folder per class, one with train/val/test folders of such, one with a `manifest.csv`,
    a CSV manifest, a zip or tar of any such folder, WebDataset shards, or Parquet files."""
    labels: Annotated[str, Field(min_length=1)] | None = None
    """Where the labels are: the same path as `data.raw`, or a CSV in git that names the images of that folder
    (`thaw labels export` writes it). null is `data.raw`; params.yaml gives the path, since dvc.yaml names this key."""
    layout: Annotated[str, Field(pattern=messages.FORMS["layout"])] | None = None
    """`torchvision:CIFAR10` (or another of its data sets): `raw` is the folder that torchvision has put it into. null
    finds out what `raw` is."""
    columns: dict[Literal["path", "label", "split", "group", "confidence"], Annotated[str, Field(min_length=1)]] = {}
    """What a table of images calls its columns, such as `{path: file_name, group: patient_id}`; the others have the
    names that Thaw gives them."""
    ignore_columns: tuple[str, ...] = Field(default=(), strict=False)
    """Columns that are left out although they are named like a split, a label, a group or a weight."""
    encoding: Literal["auto", "latin-1", "cp1252", "cp1250", "cp1251", "shift_jis", "gb18030", "big5", "euc_kr"] = (
        "auto"
    )
    """How a table is encoded: `auto` is UTF-8, or what a byte order mark says."""
    task: Literal["auto", "single-label"] = "auto"
    """`auto` refuses labels that name several classes or are numbers to predict, which Thaw does not train;
    `single-label` takes each value for a class."""
    conflicts: Literal["error", "drop", "first"] = "error"
    """What becomes of an image that is listed under several labels: the stage stops, no copy is used, or the first by
    its path is."""
    group: Annotated[str, Field(pattern=messages.FORMS["group"])] | None = None
    """Which images belong together where no column `group` says it: those of a sub-folder of a class (`folder`), those
    whose path gives the same text for a pattern (`filename:REGEX`, its first group), or `none`. null stops where
    sub-folders look as if it mattered."""
    allow_links: tuple[str, ...] = Field(default=(), strict=False)
    """Folders outside of `raw` that symbolic links among the images may lead into, besides DVC's own cache."""
    rare: Annotated[str, Field(pattern=messages.FORMS["rare"])] = "train-only"
    """What becomes of classes of fewer than 3 independent images: `error` stops the stage, `train-only` trains on those
    that are too few to be tested, `drop` leaves them out, `merge:NAME` makes them one class."""
    license: Annotated[str, Field(min_length=1)] | None = None
    """Licence of the images as the Hugging Face hub names it (`cc-by-4.0`), for the model card; null: not stated."""

    @property
    def label_file(self) -> str | None:
        """The CSV of labels, or None where `raw` itself has them."""
        return None if self.labels is None or PurePath(self.labels) == PurePath(self.raw) else self.labels


class PrepareParams(Section):
    """How images are checked, split and packed."""

    size_px: Annotated[int, Field(ge=16, le=2048)] = 256
    """Side of the packed square, in pixels; a little over the network's input leaves room for crops. A network with a
    larger input of its own sees the squares enlarged."""
    fit: Literal["crop", "pad", "squash"] = "crop"
    """How an oblong image becomes square: cut the long side, pad the short side, or ignore the aspect."""
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Share of images held out for the one final test."""
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of images on which phases are compared and training is stopped."""
    max_rejected: Fraction = 0.02
    """Largest share of unusable files that the stage tolerates before it fails."""
    max_megapixels: Positive = 100.0
    """An image that claims more millions of pixels than this is rejected before it is decoded."""
    background: Annotated[int, Field(ge=0, le=255)] = 255
    """Grey level (0 black, 255 white) behind transparent images and around padded ones."""
    near_copies: Literal["group", "warn", "fail"] = "group"
    """What becomes of images that are one but for a turn, a crop, a border, other light or compression: they share
    split and fold (`group`), they are listed only (`warn`), or the stage stops (`fail`)."""
    max_leaks: Fraction = 0.05
    """Largest share of held-out images that may have a near copy on another side, as a given split can have it; `warn`
    tolerates any."""
    plane: Plane = "first"
    """Which page of a TIFF, or frame of a DICOM or an animation, is the picture: `first`, `middle`, its number from 0,
    or all made one by the largest value at each place (`max`) or the mean (`mean`)."""
    value_range: Annotated[tuple[tuple[float, float], ...] | None, BeforeValidator(messages.as_ranges)] = None
    """Which values of the files become black and white: `[low, high]` for all channels, or a list of one such pair for
    each; what lies beyond is clipped. null takes the whole range of the type (65535 for 16 bits, 0 to 1 for floats)."""


class BackboneParams(Section):
    """The pretrained network."""

    source: Annotated[str, Field(pattern=messages.FORMS["source"])]
    """`package:efficientnet_lite0` (or `lite2`), `timm:NAME[.TAG]`, `torchvision:NAME[/WEIGHTS]`; your own weights for
    a known architecture, `file:PATH@timm:NAME` or `file:PATH@torchvision:NAME`, of several in a checkpoint
    `file:PATH#KEY@timm:NAME`; a network that another framework exported, `onnx:PATH`; one that a function of yours
    returns, `python:MODULE:CALLABLE`; or a model that Thaw made, `model:FOLDER`."""
    python: Annotated[str, Field(pattern=messages.FORMS["callable"])] | None = None
    """The callable of yours, MODULE:CALLABLE, that a `model:` source was made from. A model is data: the code that it
    names is run only if it is named here."""
    sha256: Annotated[str, Field(pattern=messages.FORMS["sha256"])] | None = None
    """SHA-256 of the weights file. null accepts any; the run prints it, and records it in models/backbone/model.json,
    whose hash dvc.lock holds."""
    input_px: Annotated[int, Field(ge=16, le=2048)] | None = None
    """Side of the square that the network sees, in pixels; null takes what it was pretrained with."""
    mean: Annotated[list[Fraction], Field(min_length=1)] | None = None
    """What is subtracted from each channel of an image (scale 0 to 1) before the network sees it, one number for each
    or one for all; null takes what its source says, and ImageNet's for `onnx:` and `python:`, which may say nothing."""
    std: Annotated[list[Positive], Field(min_length=1)] | None = None
    """What each channel is divided by after that; `[0.00392157]` with a mean of `[0.0]` gives a network 0 to 255."""
    pretrained: bool = True
    """False starts from random weights, always the same: the control that shows what pretraining is worth."""
    keep: Annotated[str, Field(min_length=1)] | None = None
    """The last block to keep; what comes after it is removed, and the head sees the pooled output of that block."""
    taps: tuple[Annotated[str, Field(min_length=1)], ...] = Field(default=(), strict=False)
    """Blocks whose pooled outputs (mean, maximum, deviation of each channel) the head sees as well; `[all]`: each."""
    in_channels: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Channels of the images, which the first layer is adapted to; null takes what they have, a number must agree."""

    @property
    def asked_channels(self) -> int | None:
        """How many channels the images are said to have; None if nothing says it."""
        several = [len(given) for given in (self.mean, self.std) if given and len(given) > 1]
        return self.in_channels or (several[0] if several else None)


class AugmentParams(Section):
    """What may change between the views of one image; view 0 is always the plain image."""

    flip: Literal["auto", "none", "horizontal", "vertical", "both", "square"] = "auto"
    """Mirror images that keep their label; `square` adds quarter turns, `auto` finds out on training images that
    are left out in turn.

    Successive views of an image go through all of them."""
    tta: bool = True
    """Test-time augmentation: whether each answer is the average over the flips in force; more accurate, and that many
    times slower."""
    crop_scale: Annotated[float, Field(ge=0.05, le=1)] = 1.0
    """Smallest share of the image's area that a random crop may keep; 1 crops nothing."""
    rotate_deg: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Largest random rotation to either side, in degrees."""
    shift: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Largest random shift along each axis, as a fraction of the side."""
    brightness: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Brightness is scaled by a random factor in 1 ± this."""
    contrast: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Contrast is scaled by a random factor in 1 ± this."""
    saturation: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Saturation is scaled by a random factor in 1 ± this; 0 for all but RGB images."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Hue is turned by a random share of the colour circle, up to this to either side; 0 for all but RGB images."""


class FeaturesParams(Section):
    """The pooled features that the head is fitted on."""

    views: Annotated[int, Field(ge=1, le=64)] = 2
    """Views per training image; 1 uses the plain image only."""


class HeadParams(Section):
    """The new output layers."""

    hidden: list[Annotated[int, Field(ge=1, le=16384)]] = []
    """Widths of hidden layers; [] is the linear head, which is solved exactly."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of features dropped before each layer of the head while it trains: a linear one trains in phases only."""
    lr: Positive = 0.001
    """Learning rate of a head that is not linear (AdamW)."""
    epochs: Count = 100
    """Most epochs that a head that is not linear may take; training images left out say how many."""
    kind: Literal["linear", "mlp", "cosine"] | None = None
    """`linear`, `mlp` (with hidden layers) or `cosine` (angles to a direction for each class, times a learned scale);
    null is linear, or mlp if there are hidden layers."""
    pool: Literal["own", "avg", "max", "both"] = "own"
    """How the backbone's last maps, or tokens, become the features that the head sees: as the network itself does it,
    their average, their maximum, or both side by side."""
    grow_from: Annotated[str, Field(pattern=messages.FORMS["model"])] | None = None
    """A model of Thaw, named as in backbone.source, that is the backbone's source too: its classes keep their rows, new
    ones join."""

    @property
    def form(self) -> Literal["linear", "mlp", "cosine"]:
        """The kind of the head, found from its hidden layers where `kind` is null."""
        return self.kind or ("mlp" if self.hidden else "linear")


class AdviseParams(Section):
    """Short trials before the phases: how deep unfreezing pays, how fast, or not at all."""

    images: Annotated[int, Field(ge=0)] = 0
    """Most images that trials train on and ask, from those that phases train on; 0 makes none. A phase with `depth:
    auto` needs some: 640 is usual, more is surer and slower."""


class UnfreezeParams(Section):
    """Progressive unfreezing, a phase a stage."""

    defaults: PhaseDefaults
    """Settings that every phase has unless it sets them itself."""
    phases: dict[PhaseName, PhaseParams]

    @model_validator(mode="before")
    @classmethod
    def _fill_phases(cls, tree: Any) -> Any:
        return with_phase_defaults(tree)


def with_phase_defaults(tree: Any) -> Any:
    """Return the section `unfreeze` with its defaults laid under each phase; a tree of another shape as it is."""
    defaults, phases = (tree.get("defaults"), tree.get("phases")) if isinstance(tree, Mapping) else (None, None)
    if not isinstance(defaults, Mapping) or not isinstance(phases, Mapping):
        return tree
    filled = {name: {**defaults, **phase} if isinstance(phase, Mapping) else phase for name, phase in phases.items()}
    return {**tree, "phases": filled}


def _check_folds(value: object) -> object:
    counted = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 20
    if value != "auto" and not counted:
        raise ValueError("it must be auto or a whole number from 1 to 20")
    return value


Folds = Annotated[int | Literal["auto"], BeforeValidator(_check_folds)]
Metric = Literal["accuracy", "log_loss", "balanced_accuracy", "macro_f1", "roc_auc"]


class SelectParams(Section):
    """How candidates are compared, and how much better a deeper phase must be."""

    folds: Folds = "auto"
    """Parts of the development images (all but test) of which each is validation once, while head and phases train on
    the others; 1 is one split into train and val, `auto` takes 5 up to 1,000 images, and 1 where val is given."""
    final: Literal["refit", "ensemble"] = "refit"
    """With folds: the network trained once more on all development images, or the mean answer of the folds'
    networks."""
    metric: Metric = "accuracy"
    """What should be best: the phase is chosen for it."""
    min_win_rate: Annotated[float, Field(ge=0.5, lt=1)] = 0.6
    """Share of paired bootstrap draws of the validation images in which a deeper phase must win to replace another."""
    draws: Annotated[int, Field(ge=100, le=100_000)] = 2000
    """Bootstrap draws."""


class EvaluateParams(Section):
    """How the winner is tested."""

    draws: Annotated[int, Field(ge=100, le=100_000)] = 2000
    """Most evaluations behind each 95 % interval: images (or groups) are left out one by one, or in so many parcels."""


class ExportParams(Section):
    """What the exported model consists of, beside model.onnx."""

    torch: bool = False
    """Whether model.pt2 is written too: the same classifier as a program of torch.export, about as large."""


class CompareParams(Section):
    """What `thaw compare` lets pass; no stage depends on it."""

    margin: Annotated[float, Field(ge=0)] = 0.0
    """Loss in select.metric, in its own units, beyond which a challenger must surely be worse for `--gate` to fail."""


Tracker = Literal["none", "mlflow", "wandb"]


class ComputeParams(Section):
    """Where and how fast things run; no stage depends on it. Other threads or another processor round differently."""

    threads: Count | None = None
    """Threads for arithmetic; null uses every core."""
    workers: Annotated[int, Field(ge=0)] | None = None
    """Processes that decode images; null uses every core, 0 decodes in the stage itself."""
    device: Annotated[str, Field(pattern=messages.FORMS["device"])] = "auto"
    """`auto` takes the first GPU, or the processor if there is none."""
    frozen_engine: Literal["auto", "onnxruntime", "torch"] = "auto"
    """What runs the frozen prefix; on a processor auto takes ONNX Runtime from 300 images on, where it agrees with
    torch, and torch for fewer, for which its export does not pay."""
    cache_gib: Positive = 8.0
    """Largest activation cache of a phase, in GiB; a phase that needs more computes them anew in every epoch."""
    track: Tracker = "none"
    """Where losses of each epoch and validation figures go as well: MLflow, or Weights & Biases (extras `mlflow`,
    `wandb`)."""


class Params(Section):
    """The whole of params.yaml."""

    seed: Annotated[int, Field(ge=0, lt=2**31)]
    """Decides the split, the views, the order of samples and the bootstrap draws."""
    data: DataParams
    prepare: PrepareParams
    backbone: BackboneParams
    augment: AugmentParams
    features: FeaturesParams
    head: HeadParams
    advise: AdviseParams
    unfreeze: UnfreezeParams
    select: SelectParams
    evaluate: EvaluateParams
    export: ExportParams
    compare: CompareParams = CompareParams()
    compute: ComputeParams = ComputeParams()
