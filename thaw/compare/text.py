"""The outcome in words: a few lines for a terminal, or Markdown for the reviewer of a change."""

from thaw.compare.outcome import Counts, Outcome
from thaw.evaluation.verdict import LOWER_IS_BETTER, NAMES, signed
from thaw.pipeline.report_facts import interval
from thaw.pipeline.revisions import shown

_WORDS = {"better": "is better than", "not_shown": "is not shown to differ from", "worse": "is worse than"}


def in_markdown(outcome: Outcome) -> str:
    """Return at most 12 lines: what is found, a table of figures, and a list of what is behind them."""
    title, *figures = _table(outcome)
    lines = [f"**{_headline(outcome)}**", "", _row(title), "|:---|---:|---:|---:|:---|", *map(_row, figures), ""]
    return "\n".join([*lines, *(f"- {line}" for line in _remarks(outcome))])


def in_plain(outcome: Outcome) -> str:
    """Return the same for a terminal."""
    rows = _table(outcome)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([_headline(outcome), "", *lines, "", *_remarks(outcome)])


def _row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def _headline(outcome: Outcome) -> str:
    challenger, champion = (shown(side.revision, side.commit) for side in (outcome.challenger, outcome.champion))
    return f"The challenger, {challenger}, {_WORDS[outcome.word]} the champion, {champion}, in {NAMES[outcome.metric]}"


def _table(outcome: Outcome) -> list[tuple[str, ...]]:
    """Return the rows of the table, its title first: a row for each metric that both models have."""
    before, after = outcome.champion.metrics, outcome.challenger.metrics
    rows: list[tuple[str, ...]] = [
        (f"{outcome.images.compared:,} test images", "champion", "challenger", "change", "95 % interval")
    ]
    for name, value in before.items():
        ends = interval(outcome.change, name)
        between = f"{signed(ends[0])} to {signed(ends[1])}" if ends else "no interval"
        rows.append((NAMES[name], f"{value:.3f}", f"{after[name]:.3f}", signed(outcome.change[name]), between))
    return rows


def _remarks(outcome: Outcome) -> list[str]:
    """Return what is behind the figures, in at most four lines."""
    notes = [" ".join(f"Note: {'; '.join(outcome.notes)}".split())] if outcome.notes else []
    return [_differing(outcome), _counted(outcome.images), *notes, _gate(outcome)]


def _differing(outcome: Outcome) -> str:
    p_value, gained, lost = outcome.change.get("mcnemar_p"), outcome.change["gained"], outcome.change["lost"]
    if p_value is None:
        tested = "no p of McNemar's test, since images come in groups"
    else:
        tested = f"McNemar's p {'below 0.001' if p_value < 0.001 else f'{p_value:.3f}'}"
    return f"Right in the challenger alone: {gained:,} images; in the champion alone: {lost:,}; {tested}"


def _counted(images: Counts) -> str:
    known = f"{images.common:,} common ({images.relabelled:,} relabelled), {images.new:,} new, {images.gone:,} gone"
    asked = f"; the champion's exported model answered {images.asked:,} of them" if images.asked else ""
    seen = f", {images.seen:,} of these since the champion may have learned from them" if images.seen else ""
    left_out = f"; {images.left_out:,} left out{seen}" if images.left_out else ""
    return f"Test images: {known}{asked}{left_out}"


def _gate(outcome: Outcome) -> str:
    limit = outcome.gate.margin if outcome.metric in LOWER_IS_BETTER else -outcome.gate.margin
    side = "above" if outcome.metric in LOWER_IS_BETTER else "below"
    rule = f"it fails if the whole interval of the change in {NAMES[outcome.metric]} lies {side} {signed(limit)}"
    return f"Gate: {'passed' if outcome.gate.passed else 'failed'}; {rule} (compare.margin)"
