"""What was advised before the time was spent, drawn, and whether it was right."""

from dataclasses import dataclass

from thaw.pipeline.advice_facts import Advice
from thaw.pipeline.report_facts import Selection, Verdict
from thaw.report.charts import Chart, Series, line_chart
from thaw.report.sources import Sources

_COLOURS = (0, 2, 3, 4, 5, 6)  # 1 is the grey of references
_OUTCOMES = {
    "helped": "It was right: on the test images the phase that was chosen is better than the head.",
    "kept": "Whether it was right is not shown by the test images: the phase that was chosen may be no better than the "
    "head there.",
    "hurt": "It was wrong: on the test images the phase that was chosen is worse than the head.",
    "better": "It was right that unfreezing pays, and validation refused it: on the test images a phase that was not "
    "chosen is better than the head.",
    "not_shown": "Whether it was right is not shown by the test images: no phase was chosen, and none is surely better "
    "or worse there.",
    "worse": "It was wrong: no phase was chosen, and the nearest is worse than the head on the test images.",
    "no_phase": "No phase was trained, so nothing shows whether it was right.",
}
"""What a verdict on the test images says of the advice to unfreeze."""
_CONTRARY = {
    "helped": "It was wrong: a phase that params.yaml asked for is better than the head on the test images.",
    "hurt": "It was right: a phase that params.yaml asked for is worse than the head on the test images.",
    "better": "It was wrong: a phase that params.yaml asked for is better than the head on the test images, though "
    "validation did not choose it.",
    "worse": "It was right: the phases that params.yaml asked for are no better than the head on the test images.",
    "kept": "Whether it was right is not shown by the test images.",
    "not_shown": "Whether it was right is not shown by the test images.",
    "no_phase": "No phase was trained, so nothing shows whether it was right.",
}
"""Likewise, of the advice to leave the network frozen, or of none."""


@dataclass(frozen=True)
class Advised:
    """The advice as the page shows it."""

    sentence: str
    outcome: str
    not_trained: list[tuple[str, str]]
    """Each phase that was not trained, and why."""
    chart: Chart | None
    """None where nothing was tried."""
    gradients: list[tuple[str, str]]
    """By block, input first: norm of the gradient over that of the weights."""


def advised(sources: Sources) -> Advised | None:
    """Return what was advised; None where there is no advice."""
    if sources.advice is None or sources.advice.regime == "not_asked":
        return None
    return Advised(
        sentence=sources.advice.sentence,
        outcome=outcome(sources.advice, sources.metrics.verdict),
        not_trained=_skipped(sources.selection),
        chart=_chart(sources.advice),
        gradients=[(block, f"{value:.3g}") for block, value in sources.advice.gradients.items()],
    )


def outcome(advice: Advice, verdict: Verdict) -> str:
    """Return in a sentence whether the test images say that the advice was right."""
    return (_OUTCOMES if advice.steps else _CONTRARY)[verdict.word]


def _skipped(selection: Selection) -> list[tuple[str, str]]:
    return list(selection.not_trained.items())


def _chart(advice: Advice) -> Chart | None:
    """Draw what each trial gained over what it started from, by depth; the dashed lines are ends of the interval."""
    if not advice.trials:
        return None
    series = []
    for colour, lr in zip(_COLOURS, sorted({tried.lr for tried in advice.trials}), strict=False):
        own = [tried for tried in advice.trials if tried.lr == lr]
        series.append(Series(f"at {lr:g}", [t.depth_blocks for t in own], [-t.change for t in own], colour))
        known = [(t.depth_blocks, t.low, t.high) for t in own if t.low is not None and t.high is not None]
        for end, values in (("from", [-high for _, _, high in known]), ("to", [-low for _, low, _ in known])):
            series.append(Series(f"at {lr:g}, 95 % {end}", [depth for depth, *_ in known], values, colour, dashed=True))
    deepest = max(tried.depth_blocks for tried in advice.trials)
    best = max(advice.trials, key=lambda tried: -tried.change)
    return line_chart(
        "Gain of a short trial over what it started from",
        f"The largest gain in {advice.cost} is {-best.change:.3f}, at {best.depth_blocks} blocks and {best.lr:g}.",
        [one for one in series if len(one.x)],
        x_label="Blocks unfrozen",
        y_label=f"Gain in {advice.cost}",
        x_range=(0, deepest + 1),
        x_marks=[(depth, str(depth)) for depth in sorted({tried.depth_blocks for tried in advice.trials})],
    )
