"""The command `predict`: from named files to a table of answers, with what could not be used listed beside it."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from thaw.errors import DataError
from thaw.names import on_one_line
from thaw.progress import progress
from thaw.serving import inputs
from thaw.serving.answers import answer, columns, printable, row
from thaw.serving.exported import Exported
from thaw.serving.tables import Format, format_of, table


def predict(
    images: Sequence[str],
    *,
    form: Format | None,
    output: Path | None,
    top: int | None,
    explain: Path | None,
    folder: str,
    version: str | None,
) -> None:
    """Write a row for each image that can be used, and a line to stderr for each that cannot.

    Raises: DataError if there is nothing to answer for, typer.Exit with 1 if a file could not be used.
    """
    form = format_of(form, output)
    total = inputs.count(images)
    if total == 0:
        raise _nothing(images)
    model = Exported.open(folder, version=version)
    names = columns(model.classes, top=top, explained=explain is not None)
    num_used = num_broken = 0
    try:
        with table(form, output, names) as write:
            answers = answer(model, inputs.images(images, _say), explain=explain)
            for one in progress(answers, total=total, label="predict"):
                if one.probabilities is None:
                    num_broken += 1
                    _say(one.reason)
                else:
                    num_used += 1
                    write(row(one, model.classes, names, model.name))
            if not num_used + num_broken:
                raise _nothing(images)
            sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None
    if explain is not None and num_used:
        print(f"{num_used} overlays in {printable(explain)}, by {model.facts.explanation}", file=sys.stderr)
    if num_broken:
        num_all = num_used + num_broken
        counts = f"{num_broken} of {num_all} files could not be used; the other {num_used} were classified"
        print(counts, file=sys.stderr)
        raise typer.Exit(1)


def _say(text: str) -> None:
    print(_line(text), file=sys.stderr)


def _nothing(images: Sequence[str]) -> DataError:
    where = "standard input" if [*images] == [inputs.STDIN] else ", ".join(images)
    return DataError(f"{_line(where)}: no files there; give image files, folders, archives, patterns in quotes, or -")


def _line(text: str) -> str:
    return on_one_line(" ".join(text.encode("utf-8", "backslashreplace").decode().splitlines()))
