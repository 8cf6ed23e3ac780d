"""The command line: `python -m thaw check | plan | blocks | predict | summary`."""

import csv
import json
import os
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from thaw import files
from thaw.errors import DataError, ThawError
from thaw.params import PARAMS_FILE, load_params

app = typer.Typer(
    help="Fine-tune a pretrained image network in reproducible steps.", no_args_is_help=True, add_completion=False
)


class Format(StrEnum):
    """How predictions are written."""

    CSV = "csv"
    JSON = "json"


@app.command()
def check(path: Annotated[Path, typer.Argument(help="The params file.")] = PARAMS_FILE) -> None:
    """Validate params.yaml: every mistake at once, without running a stage."""
    params = load_params(path)
    phases = ", ".join(params.unfreeze.phases) or "none"
    print(f"{path} is valid: {params.backbone.source} on {params.data.raw}, phases {phases}")


@app.command()
def plan(path: Annotated[Path, typer.Argument(help="The params file.")] = PARAMS_FILE) -> None:
    """Print the schedule before any time is spent: what each phase trains, how fast, and what it costs."""
    from thaw.plan import plan_tables

    console = Console()
    for table in plan_tables(load_params(path)):
        console.print(table)


@app.command()
def blocks(
    source: Annotated[str | None, typer.Argument(help="A backbone source; without it, the one in params.yaml.")] = None,
) -> None:
    """List a backbone's blocks, input first: parameters, and the activation's size at the cut below each."""
    from thaw.network.source import describe, open_backbone
    from thaw.plan import blocks_table

    source = source or load_params().backbone.source
    backbone = open_backbone(source, pretrained=False, in_channels=describe(source).in_channels)
    Console().print(blocks_table(source, backbone))


@app.command()
def predict(
    paths: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    form: Annotated[Format, typer.Option("--format", help="csv, or json with one object a line.")] = Format.CSV,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write; without it, standard output.")] = None,
    folder: Annotated[Path, typer.Option("--model", help="The model's folder.")] = Path("models/final"),
) -> None:
    """Classify images: class and probabilities of each. Files that are no images are listed and passed over."""
    from thaw import model as models
    from thaw.progress import progress

    found = models.find_images(paths)
    if not found:
        raise DataError(f"{', '.join(map(str, paths))}: no files there; give image files, or folders of them")
    model = models.load(folder)
    rows: list[dict[str, str | float]] = []
    broken = 0
    for path, answer in progress(model.answer_files(found), total=len(found), label="predict"):
        if isinstance(answer, DataError):
            broken += 1
            print(str(answer).encode("utf-8", "backslashreplace").decode(), file=sys.stderr)
        else:
            rows.append(_row(path, model.classes, [float(value) for value in answer]))
    _write(rows, model.classes, form, out)
    if broken:
        print(
            f"{broken} of {len(found)} files could not be used; the other {len(rows)} were classified", file=sys.stderr
        )
        raise typer.Exit(1)


@app.command()
def summary() -> None:
    """Print the result of the last run: head against each phase against the majority class."""
    from thaw.evidence import summary as shown

    selection = files.read_json(Path("reports/selection.json"))
    table = shown.summary_table(files.read_json(Path("reports/metrics.json")), selection)
    shown.print_evidence(selection)
    Console().print(table)


def _row(path: Path, classes: list[str], probabilities: list[float]) -> dict[str, str | float]:
    probability, answer = max(zip(probabilities, classes, strict=True), key=lambda pair: pair[0])
    row: dict[str, str | float] = {
        "path": os.fsencode(path).decode("utf-8", "backslashreplace"),
        "class": answer,
        "probability": probability,
    }
    return row | {f"p:{name}": value for name, value in zip(classes, probabilities, strict=True)}


def _write(rows: list[dict[str, str | float]], classes: list[str], form: Format, out: Path | None) -> None:
    if form is Format.CSV:
        text = _as_csv(rows, classes)
    else:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if out is None:
        sys.stdout.write(text)
        return
    try:
        files.write_text(out, text)
    except OSError as error:
        raise ThawError(f"{out} cannot be written: {error.strerror}; name another file with --out") from None


def _as_csv(rows: list[dict[str, str | float]], classes: list[str]) -> str:
    from io import StringIO

    buffer = StringIO()
    writer = csv.DictWriter(
        buffer, ["path", "class", "probability", *(f"p:{name}" for name in classes)], lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def run_command(command: Callable[[], object]) -> None:
    """Call a command and leave with 1 and one line if it ends in a ThawError."""
    try:
        command()
    except ThawError as error:
        print(error, file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    run_command(app)
