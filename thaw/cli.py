"""The command line of `thaw` and `python -m thaw`: new, update, setup, check, plan, blocks, predict, serve, summary."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from thaw import extras
from thaw.config.reader import PARAMS_FILE, load_params
from thaw.errors import ThawError
from thaw.pipeline import facts
from thaw.pipeline.facts import Metrics, Selection
from thaw.serving.tables import Format
from thaw.version import VERSION

app = typer.Typer(
    help="Fine-tune a pretrained image network in reproducible steps, and classify images with it.",
    no_args_is_help=True,
    add_completion=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"thaw {VERSION}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """What can be said before the command."""


@app.command()
def new(
    project: Annotated[Path, typer.Argument(help="The project's folder; it must not be there yet, or be empty.")],
    images: Annotated[
        Path | None, typer.Option("--images", help="A folder with a sub-folder of images for each class.")
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option("--manifest", help="A CSV with the columns path and label, instead of --images.")
    ] = None,
    backbone: Annotated[
        str | None, typer.Option("--backbone", help="The pretrained network, such as timm:resnet50; without it, ours.")
    ] = None,
    subdir: Annotated[
        bool, typer.Option("--subdir", help="Make the project a part of the git repository that it lies in.")
    ] = False,
) -> None:
    """Lay out a project of your own: look at the images, copy them, write settings, pipeline and tests."""
    from thaw.project import commands
    from thaw.project.layout import Wish

    commands.new(Wish(project, images, manifest, backbone, subdir))


@app.command()
def update() -> None:
    """Bring the project in this folder to the installed version; files that you have changed are shown as a diff."""
    from thaw.project import commands

    commands.update(Path.cwd())


@app.command()
def setup() -> None:
    """Make git merge dvc.lock stage by stage, and metrics, in this clone of the project; once per clone."""
    from thaw.project import commands

    commands.setup(Path.cwd())


@app.command()
def check(path: Annotated[Path, typer.Argument(help="The params file.")] = PARAMS_FILE) -> None:
    """Validate params.yaml: every mistake at once, without running a stage."""
    params = load_params(path)
    phases = ", ".join(params.unfreeze.phases) or "none"
    print(f"{path} is valid: {params.backbone.source} on {params.data.raw}, phases {phases}")


@app.command()
def plan(path: Annotated[Path, typer.Argument(help="The params file.")] = PARAMS_FILE) -> None:
    """Print the schedule before any time is spent: what each phase trains, how fast, and what it costs."""
    from thaw.training.plan import plan_tables

    console = Console()
    for table in plan_tables(load_params(path)):
        console.print(table)


@app.command()
def blocks(
    source: Annotated[str | None, typer.Argument(help="A backbone source; without it, the one in params.yaml.")] = None,
) -> None:
    """List a backbone's blocks, input first: parameters, and the activation's size at the cut below each."""
    from thaw.networks.sources.opening import describe, open_backbone
    from thaw.training.plan import blocks_table

    source = source or load_params().backbone.source
    backbone = open_backbone(source, pretrained=False, in_channels=describe(source).in_channels)
    Console().print(blocks_table(source, backbone))


@app.command()
def predict(
    images: Annotated[list[str], typer.Argument(help="Files, folders, patterns in quotes, or - for a list on stdin.")],
    form: Annotated[
        Format | None, typer.Option("--format", help="Without it, what --output ends in, or csv.", show_default=False)
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; without it, standard output.")
    ] = None,
    top: Annotated[
        int | None, typer.Option("--top", min=1, help="Only this many classes, best first; without it, all.")
    ] = None,
    explain: Annotated[
        Path | None, typer.Option("--explain", help="Folder for images that show what spoke for the answer.")
    ] = None,
    folder: Annotated[Path, typer.Option("--model", help="An exported model.")] = Path("models/export"),
) -> None:
    """Classify images: class and calibrated probabilities of each. What is no image is listed and passed over."""
    from thaw.serving import predict as command

    command.predict(images, form=form, output=output, top=top, explain=explain, folder=folder)


@app.command()
def serve(
    folder: Annotated[Path, typer.Option("--model", help="An exported model.")] = Path("models/export"),
    host: Annotated[str, typer.Option(help="The address to listen at; 0.0.0.0 is every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 8000,
    max_mb: Annotated[float, typer.Option(min=0.001, help="Largest image file that is accepted, in MB.")] = 20.0,
    seconds: Annotated[float, typer.Option(min=0.1, help="Longest wait for an image, and for its answer.")] = 30.0,
) -> None:
    """Answer in a browser and over HTTP: a page to drop images on, and POST /predict."""
    from thaw.serving.exported import Exported
    from thaw.serving.serve import Limits, serve

    serve(Exported.open(folder), Limits(int(max_mb * 1e6), seconds), host, port)


@app.command()
def summary() -> None:
    """Print the result of the last run: head against each phase against the majority class."""
    from thaw.evaluation import summary as shown

    selection = facts.read(Path("reports/selection.json"), Selection)
    table = shown.summary_table(facts.read(Path("reports/metrics.json"), Metrics), selection)
    shown.print_evidence(selection)
    Console().print(table)


def main() -> None:
    """Run the command line: what the commands `thaw` and `python -m thaw` call."""
    run_command(app)


def run_command(command: Callable[[], object]) -> None:
    """Call a command and leave with 1 and one line if it ends in a ThawError or lacks a library of an extra."""
    try:
        with extras.named():
            command()
    except ThawError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
