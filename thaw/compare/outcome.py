"""What `thaw compare` finds: the figures of both models, the change, and whether the challenger may take over."""

from typing import Literal

from thaw.config.schema import Metric
from thaw.evaluation.verdict import LOWER_IS_BETTER, side_of
from thaw.pipeline.facts import Facts
from thaw.pipeline.report_facts import Figures, interval

Word = Literal["better", "not_shown", "worse"]
_WORDS: dict[int, Word] = {1: "better", 0: "not_shown", -1: "worse"}


class Model(Facts):
    """One of the two, and its figures on the images that are compared."""

    revision: str
    commit: str | None = None
    """Absent for the workspace."""
    metrics: Figures
    """Accuracy, log loss where the two can be compared by it, and the metric that the word goes by."""


class Counts(Facts):
    """How many test images of the challenger there are, by what they are to the champion."""

    compared: int
    common: int
    """Tested in both runs."""
    relabelled: int
    """Of the common ones, those whose label has changed."""
    new: int
    """Not tested in the champion's run."""
    seen: int
    """Of the new ones, those that the champion has learned from, or may have: they are not compared."""
    asked: int
    """Those that the exported model of the champion was asked about, and answered."""
    gone: int
    """Tested in the champion's run alone."""

    @property
    def left_out(self) -> int:
        """Test images of the challenger that are not compared."""
        return self.common + self.new - self.compared


class Gate(Facts):
    """Whether the challenger may take the champion's place."""

    margin: float
    """`compare.margin`, in units of the metric."""
    passed: bool
    """False where the whole interval of the change is worse than the margin."""


class Outcome(Facts):
    """What `thaw compare --json` prints."""

    champion: Model
    challenger: Model
    images: Counts
    metric: Metric
    """What word and gate go by: `select.metric`, or accuracy where a note says why."""
    change: Figures
    """From champion to challenger, as `evaluation.verdict.change_of` returns it."""
    word: Word
    """Whether the whole interval of the change is better than 0, or worse, or neither is shown."""
    gate: Gate
    notes: list[str]
    """What a reader must know of the figures, each without a full stop."""


def word_of(change: Figures, metric: Metric) -> Word:
    """Return on which side of 0 the interval of the change lies."""
    return _WORDS[side_of(change, metric)]


def gate_of(change: Figures, metric: Metric, margin: float) -> Gate:
    """Return a gate that fails if the whole interval of the change is worse than the margin, in units of the metric.

    Without an interval nothing is sure, and the gate lets pass.
    """
    ends = interval(change, metric)
    if ends is None:
        return Gate(margin=margin, passed=True)
    return Gate(margin=margin, passed=ends[0] <= margin if metric in LOWER_IS_BETTER else ends[1] >= -margin)
