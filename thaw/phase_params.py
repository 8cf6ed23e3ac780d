"""The keys of one phase of unfreezing in params.yaml; those with a default are refinements, and off."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from thaw import mistakes
from thaw.section import Count, Fraction, Positive, Section

PhaseName = Annotated[str, Field(pattern=mistakes.FORMS["phase"])]


class DepthRule(Section):
    """Parameters of the backbone by name, and what becomes of them; the first rule that matches one decides."""

    pattern: Annotated[str, Field(min_length=1)]
    """Names as in models/backbone/weights.safetensors, with * for any text: `blocks.6.*`, `*bn*`."""
    lr: Positive | None
    """Learning rate at its peak; null freezes."""


def _check_depth(value: object) -> object:
    counted = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if not counted and not (isinstance(value, str) and value) and not (isinstance(value, list) and value):
        raise ValueError("it must be a whole number from 1, all, the name of a block, or a list of {pattern, lr} rules")
    return value


def _kind(value: object) -> str:
    """Return which form a value of several possible ones has; `~` tells mistakes.py that it is no key of the file."""
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


class PhaseParams(Section):
    """One phase of progressive unfreezing."""

    start: PhaseName
    """`head`, or the phase whose best weights this one starts from."""
    depth: Depth
    """How many blocks nearest the head to unfreeze, `all`, the name of the lowest block to unfreeze, or a list of rules
    `{pattern: TEXT, lr: NUMBER or null}` over the names of the backbone's parameters, with `*` for any text: the first
    that matches decides, what none matches stays frozen."""
    lr: Rate
    """Learning rate of the head at its peak; `auto` finds it in the run by a range test (Smith 2017) before the first
    step."""
    lr_scale: Annotated[float, Field(gt=0, le=1)]
    """Factor on the rate for each block further from the head; 1 gives all blocks the same rate."""
    epochs: Count
    """Most passes over the training images."""
    views: Annotated[int, Field(ge=0, le=64)]
    """Size of the view bank per image; 0 augments afresh in every epoch, without a cache."""
    batch_size: Annotated[int, Field(ge=1, le=4096)]
    """Images in a training step."""
    weight_decay: Annotated[float, Field(ge=0, le=1)]
    """AdamW's decoupled weight decay; norm layers and biases are never decayed."""
    warmup: Fraction
    """Share of the steps in which the rate rises from zero; it then falls along a cosine."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    """Share of the target's probability that is spread over all classes while training."""
    refit: bool
    """Before the first step, re-estimate the suffix's norm statistics and solve a linear head on what it then sees."""
    norm: Literal["frozen", "stats", "train"]
    """Norm layers of the suffix: keep the running statistics, also update them, or use batch statistics."""
    patience: Count
    """Epochs without a better validation loss after which the phase stops."""
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
