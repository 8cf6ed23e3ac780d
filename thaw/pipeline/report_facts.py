"""What validation and test show, as it lies on disk: selection.json, validation.json, metrics.json and classes.json."""

from collections.abc import Mapping
from typing import Literal

from pydantic import ConfigDict, Field, RootModel, field_validator

from thaw.config.schema import Metric
from thaw.pipeline.facts import COMMON, Facts

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
    not_trained: dict[str, str] = Field(default_factory=dict)
    """Why each phase that was not trained was not, by its name; it is no candidate."""

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

    model_config = ConfigDict(strict=True, **COMMON)


def interval(figures: Mapping[str, int | float], name: str) -> tuple[float, float] | None:
    """Return the ends of a metric's 95 % interval; None where it has none."""
    return (figures[f"{name}_low"], figures[f"{name}_high"]) if f"{name}_low" in figures else None
