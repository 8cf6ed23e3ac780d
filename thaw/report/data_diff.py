"""`thaw data diff`: what changed between two prepared data sets, as text, Markdown, JSON, or a page with pictures."""

import json
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import chain
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import escape

from thaw.data import accepted, snapshots
from thaw.data.difference import Count, Difference, Pair, Rejection, compare, place, split_by
from thaw.data.snapshots import Image
from thaw.errors import ArtifactError, DataError, RunError
from thaw.names import as_code, on_one_line
from thaw.pipeline.artifacts import write_text
from thaw.pipeline.revisions import Tree
from thaw.report.pictures import Budget, thumbnail

_MOST_LINES, _MOST_CLASSES, _MOST_NAMED, _MOST_CARDS = 5, 12, 4, 60
_PICTURE_PX, _PICTURE_CHARACTERS = 112, 6_000_000
_TEMPLATES = Path(__file__).with_name("templates")
_REPORT = "reports/index.html"
_LINK_HERE, _SECTION_HERE = (f"<!-- thaw data diff: {what} -->" for what in ("link", "section"))
_LINK = '<li><a href="#changes">Changes</a></li>'
_ALWAYS = ("added", "removed", "replaced", "relabelled", "moved", "rejected", "duplicates")


class Form(StrEnum):
    """What is printed."""

    TEXT = "text"
    MARKDOWN = "md"
    JSON = "json"


@dataclass(frozen=True)
class Line:
    """An image that changed; where both pictures are named, the page shows both."""

    path: str
    words: str
    """What changed, and where the image is."""
    before: Image | None = None
    """The image as the first data set has it, if its picture is to be shown."""
    after: Image | None = None


@dataclass(frozen=True)
class Section:
    """All images that changed in one way."""

    name: str
    note: str
    lines: list[Line]
    count: int


def command(
    before: str | None,
    after: str | None,
    *,
    form: Form,
    page: Path | None = None,
    report: Path | None = None,
    gate: bool = False,
) -> None:
    """Print what changed from one revision to another, and write the page, or the report with it, if one is named.

    Without `before` it is HEAD, without `after` the workspace.
    Raises: ThawError if a data set cannot be had, or the page not written; with `gate` also if a good image is rejected
    now and nobody has accepted that.
    """
    (old_files, old), (new_files, new) = snapshots.of(before or "HEAD"), snapshots.of(after)
    found = compare(old, new)
    sections = sections_of(found)
    if form is Form.JSON:
        print(json.dumps(asdict(found), indent=2, ensure_ascii=False))
    else:
        lines = markdown(found, sections) if form is Form.MARKDOWN else text(found, sections)
        print("\n".join(lines))
    for path, render, option in ((page, html, "--html"), (report, in_report, "--report")):
        if path is not None:
            try:
                write_text(path, render(found, sections, old_files, new_files))
            except OSError as error:
                raise RunError(f"{path} cannot be written: {error.strerror}; name another file with {option}") from None
            print(f"{path} shows the images", file=sys.stderr)
    if gate and (open_cases := [one for one in found.spoilt if not one.accepted]):
        raise DataError(_to_accept(open_cases, found))


def accept(paths: Collection[str], since: str) -> None:
    """Accept that images which were good in a revision are rejected in the workspace: all, or those at some paths.

    Raises: DataError for a path at which no such image is; ThawError if a data set cannot be had.
    """
    (_, old), (_, new) = snapshots.of(since), snapshots.of(None)
    spoilt = {one.path: one.reason for one in compare(old, new).spoilt}
    if unknown := sorted(set(paths) - spoilt.keys()):
        raise DataError(
            f"{on_one_line(unknown[0])} is no image that was good in {since} and is rejected now; these are: "
            f"{', '.join(map(on_one_line, sorted(spoilt)[:_MOST_LINES])) or 'none'}"
        )
    taken = {path: reason for path, reason in spoilt.items() if not paths or path in paths}
    if not taken:
        print(f"nothing to accept: no image that was good in {since} is rejected now")
        return
    accepted.write(new.accepted, taken.items(), new.rejected)
    for path, reason in sorted(taken.items()):
        print(f"accepted: {on_one_line(path)}: {on_one_line(reason)}")
    print(f"commit {accepted.FILE} with the data")


def _to_accept(open_cases: list[Rejection], found: Difference) -> str:
    first = open_cases[0]
    more = f", and {len(open_cases) - 1} more" if len(open_cases) > 1 else ""
    are = "images that were good in {} are" if more else "image that was good in {} is"
    return (
        f"{len(open_cases)} {are.format(found.before)} rejected in {found.after} ({on_one_line(first.path)}: "
        f"{on_one_line(first.reason)}{more}); mend the file, or run `thaw data accept` and commit {accepted.FILE}"
    )


def sections_of(found: Difference) -> list[Section]:
    """Return what changed, first what a person should look at first."""
    before, after = found.folds.before, found.folds.after
    relabelled = Counter(f"{pair.before.label} -> {pair.after.label}" for pair in found.relabelled)
    alike = [_alike(group, after) for group in found.alike]
    spoilt, split = len(found.spoilt), split_by(found.folds)
    sections = {
        "rejected": (
            f"newly; {spoilt} of them good before" if spoilt else "newly",
            [_rejection(one, before) for one in found.rejected],
        ),
        "relabelled": (_named(relabelled), [_pair(pair, found.folds) for pair in found.relabelled]),
        "replaced": ("other bytes at the same path", [_pair(pair, found.folds, both=True) for pair in found.replaced]),
        "moved": ("between splits", [_pair(pair, found.folds) for pair in found.moved]),
        "duplicates": (
            f"new groups alike across splits or folds; {_change(found.num_alike)} groups in all",
            list(chain.from_iterable(alike)),
        ),
        "added": (
            _classes_and_splits(found.added, split),
            [Line(one.path, _at(one, after), None, one) for one in found.added],
        ),
        "removed": (
            _classes_and_splits(found.removed, split),
            [Line(one.path, _at(one, before), one) for one in found.removed],
        ),
        "readmitted": (
            "no longer rejected",
            [Line(one.path, _at(one, after), None, one) for one in found.readmitted],
        ),
        "renamed": ("same bytes and label", [_pair(pair, found.folds) for pair in found.renamed]),
        "refolded": ("between folds", [_pair(pair, found.folds) for pair in found.moved_folds]),
    }
    counts = {"duplicates": len(found.alike)}
    return [
        Section(name, note, lines, counts.get(name, len(lines)))
        for name, (note, lines) in sections.items()
        if lines or name in _ALWAYS
    ]


def text(found: Difference, sections: list[Section]) -> Iterator[str]:
    """Yield lines for a terminal: what changed in numbers, by class and split, and the first images of each kind."""
    yield f"{found.before} -> {found.after}: {_change(found.images)} images{_folds(found)}"
    wide = max(len(section.name) for section in sections)
    for section in sections:
        yield f"  {section.name:<{wide}} {section.count:>6}  {on_one_line(section.note)}".rstrip()
    if found.is_empty:
        return
    yield ""
    rows, more = _class_rows(found)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = (
            f"{cell:<{width}}" if column == 0 else f"{cell:>{width}}"
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield f"  {'  '.join(cells)}".rstrip()
    if more:
        yield f"  and {more} more classes, in --json"
    for section in sections:
        if section.lines:
            yield ""
            yield section.name
            for line in section.lines[:_MOST_LINES]:
                yield f"  {on_one_line(line.path)}: {on_one_line(line.words)}"
            if len(section.lines) > _MOST_LINES:
                yield f"  and {len(section.lines) - _MOST_LINES} more, in --json"


def markdown(found: Difference, sections: list[Section]) -> Iterator[str]:
    """Yield lines of Markdown; names stand in code spans, so that none of them is markup or calls on a person."""
    yield f"### Data: {as_code(found.before)} → {as_code(found.after)}"
    yield ""
    counts = ", ".join(f"{section.count} {section.name}" for section in sections)
    spoilt = f" Good before: {len(found.spoilt)} of the rejected." if found.spoilt else ""
    yield f"{_change(found.images, '→')} images: {counts}.{spoilt}{_folds(found, '→')}"
    if found.is_empty:
        return
    yield ""
    (head, *rows), more = _class_rows(found, "→")
    yield f"| {' | '.join(head)} |"
    yield f"|---|{'---:|' * (len(head) - 1)}"
    for name, *cells in rows:
        code = as_code(name).replace("|", "\\|")
        yield f"| {' | '.join([code, *cells])} |"
    if more:
        yield ""
        yield f"and {more} more classes."
    for section in sections:
        if section.lines:
            yield ""
            yield f"**{section.name}**"
            yield ""
            for line in section.lines[:_MOST_LINES]:
                yield f"- {as_code(line.path)}: {as_code(line.words)}"
            if len(section.lines) > _MOST_LINES:
                yield f"- and {len(section.lines) - _MOST_LINES} more"


def html(found: Difference, sections: list[Section], before: Tree, after: Tree) -> str:
    """Return the page: one file without a script, its pictures inside. Raises: ArtifactError if pictures are away."""
    return _render("data_diff.html", _for_templates(found, sections, before, after) | {"level": 2})


def in_report(found: Difference, sections: list[Section], before: Tree, after: Tree) -> str:
    """Return the report of the second data set with a section of what changed since the first.

    DVC's page is left as it is: no stage may depend on the revision that a data set is compared with.
    Raises: ArtifactError if the report or pictures are away, or if an earlier Thaw wrote the report.
    """
    page = after.read(_REPORT).decode()
    body = _render("changes.html", _for_templates(found, sections, before, after) | {"level": 3})
    head = f"<h2>What changed in the data, <bdi>{escape(found.before)}</bdi> → <bdi>{escape(found.after)}</bdi>?</h2>"
    for marker, new in ((_LINK_HERE, _LINK), (_SECTION_HERE, f'<section id="changes">\n{head}\n{body}</section>')):
        if marker not in page:
            raise ArtifactError(f"{_REPORT} of {after.shown} was written by an earlier Thaw; run `dvc repro report`")
        page = page.replace(marker, new, 1)
    return page


def _render(template: str, values: Mapping[str, object]) -> str:
    loader = FileSystemLoader(_TEMPLATES)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(values)


def _for_templates(found: Difference, sections: list[Section], before: Tree, after: Tree) -> dict[str, object]:
    cards = [section.lines[:_MOST_CARDS] for section in sections]
    olds, news = (
        _pictures(tree, (image for lines in cards for line in lines if (image := getattr(line, side)) is not None))
        for tree, side in ((before, "before"), (after, "after"))
    )
    budget = Budget(_PICTURE_CHARACTERS)
    shown_cards = [
        [
            (
                line,
                [_within(budget, uris.get(one.row)) for one, uris in ((line.before, olds), (line.after, news)) if one],
            )
            for line in lines
        ]
        for lines in cards
    ]
    rows, more = _class_rows(found, "→")
    return {
        "before": found.before,
        "after": found.after,
        "images": _change(found.images, "→"),
        "folds": _folds(found, "→"),
        "sections": list(zip(sections, shown_cards, strict=True)),
        "rows": rows,
        "more_classes": more,
    }


def _pictures(tree: Tree, images: Iterable[Image]) -> dict[int, str]:
    squares = snapshots.read_squares(tree, {image.row for image in images})
    return {row: thumbnail(square, _PICTURE_PX) for row, square in squares.items()}


def _within(budget: Budget, uri: str | None) -> str | None:
    return uri if uri is not None and budget.take(uri) else None


def _at(image: Image, num_folds: int) -> str:
    return f"{image.label}, {place(image, num_folds)}"


def _pair(pair: Pair, folds: Count, *, both: bool = False) -> Line:
    """Return what changed of an image: label, place and path, each only where it did."""
    before, after = pair.before, pair.after
    label = after.label if after.label == before.label else f"{before.label} -> {after.label}"
    places = (place(before, folds.before), place(after, folds.after))
    where = places[1] if places[0] == places[1] else f"{places[0]} -> {places[1]}"
    moved = "" if before.path == after.path else f"; was {before.path}"
    return Line(after.path, f"{label}, {where}{moved}", before if both else None, after)


def _rejection(found: Rejection, num_folds: int) -> Line:
    known = f"; was good: {_at(found.before, num_folds)}" if found.before else ""
    return Line(found.path, f"{found.reason}{known}{'; accepted' if found.accepted else ''}", found.before)


def _alike(group: list[Image], num_folds: int) -> list[Line]:
    first, *others = group
    return [Line(first.path, _at(first, num_folds), None, first)] + [
        Line(other.path, f"{_at(other, num_folds)}; looks like {first.path}", None, other) for other in others
    ]


def _classes_and_splits(images: list[Image], split: Callable[[Image], str]) -> str:
    if not images:
        return ""
    labels, splits = Counter(image.label for image in images), Counter(map(split, images))
    return f"{_named(labels)}; {_named(splits)}"


def _named(counts: Mapping[str, int]) -> str:
    """Return the most frequent names with their counts."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    more = f" and {len(ordered) - _MOST_NAMED} more" if len(ordered) > _MOST_NAMED else ""
    return ", ".join(f"{name} {count}" for name, count in ordered[:_MOST_NAMED]) + more


def _class_rows(found: Difference, arrow: str = "->") -> tuple[list[list[str]], int]:
    """Return a table by class and split, head first, and how many classes it leaves out: those that changed least."""
    classes = sorted(found.counts.items(), key=lambda item: (-_changed(item[1].values()), item[0]))
    rows = [
        [on_one_line(label), *(_change(count, arrow) for count in [_total(splits.values()), *splits.values()])]
        for label, splits in sorted(classes[:_MOST_CLASSES])
    ]
    return [["class", "all", *next(iter(found.counts.values()), {})], *rows], max(0, len(classes) - _MOST_CLASSES)


def _changed(counts: Iterable[Count]) -> int:
    return sum(abs(count.after - count.before) for count in counts)


def _total(counts: Iterable[Count]) -> Count:
    pairs = list(counts)
    return Count(sum(count.before for count in pairs), sum(count.after for count in pairs))


def _change(count: Count, arrow: str = "->") -> str:
    return str(count.after) if count.before == count.after else f"{count.before} {arrow} {count.after}"


def _folds(found: Difference, arrow: str = "->") -> str:
    return "" if found.folds.before == found.folds.after else f"; folds {_change(found.folds, arrow)}"
