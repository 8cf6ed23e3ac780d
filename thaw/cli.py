"""The command line: `thaw --help` lists the commands."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from thaw import extras
from thaw.config.reader import PARAMS_FILE, load_params, read_tree
from thaw.errors import ThawError
from thaw.names import for_terminal
from thaw.pipeline import facts
from thaw.pipeline.report_facts import Metrics, Selection
from thaw.serving.tables import Format
from thaw.version import VERSION

app = typer.Typer(
    help="Fine-tune a pretrained image network in reproducible steps, and classify images with it.",
    no_args_is_help=True,
    add_completion=False,
)
data = typer.Typer(help="What a data set is made of, and what changed in it.", no_args_is_help=True)
app.add_typer(data, name="data")
labels = typer.Typer(help="Labels in a CSV that git keeps, beside images that DVC keeps.", no_args_is_help=True)
app.add_typer(labels, name="labels")
ci = typer.Typer(help="What a job does after `dvc repro`: keep the results, report on them.", no_args_is_help=True)
app.add_typer(ci, name="ci")

EXPORT = "models/export"
Model = Annotated[
    str, typer.Option("--model", help="An exported model: a folder, or REPOSITORY#PATH@REVISION, which DVC brings.")
]
Version = Annotated[
    str | None,
    typer.Option("--model-version", envvar="THAW_MODEL_VERSION", help="What answers call it.", show_default=False),
]


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
        Path | None,
        typer.Option("--images", help="A folder with a sub-folder of images for each class, or an archive of one."),
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option("--manifest", help="A table with the columns path and label, instead of --images.")
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option("--column", help="What the table calls a column, such as path=file_name.")
    ] = None,
    ignore_column: Annotated[
        list[str] | None, typer.Option("--ignore-column", help="A column that looks as if it mattered and does not.")
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

    named = dict(pair.partition("=")[::2] for pair in column or [])
    commands.new(Wish(project, images, manifest, backbone, subdir, columns=named, ignore_columns=ignore_column or ()))


@app.command()
def update() -> None:
    """Bring the project in this folder to the installed version; files that you have changed are shown as a diff."""
    from thaw.project import commands

    commands.update(Path.cwd())


@app.command()
def setup() -> None:
    """Once per clone: git merges dvc.lock stage by stage, and a push waits for its data; remotes get what they lack."""
    from thaw.project import commands

    commands.setup(Path.cwd())


@app.command()
def verify(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A remote by its name; without it, the project's own.")
    ] = None,
    remote: Annotated[bool, typer.Option("--remote", help="Look into a remote, and not into the cache.")] = False,
    pushed: Annotated[
        bool, typer.Option("--pushed", help="Only look whether all that HEAD names is in the remote; for CI.")
    ] = False,
    since: Annotated[
        str | None, typer.Option("--since", help="With --pushed: every commit after this revision, not HEAD alone.")
    ] = None,
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete what is damaged, so that DVC brings it anew.")
    ] = False,
    deadline: Annotated[
        float, typer.Option("--deadline", min=1, help="Longest silence of a remote, in seconds.")
    ] = 60.0,
) -> None:
    """Hash anew what dvc.lock and .dvc files name, in DVC's cache or in a remote; exit with 1 if it is damaged."""
    from thaw.project import commands

    if remote and pushed:
        raise ThawError("--remote and --pushed exclude each other; drop one of them")
    if (name and not (remote or pushed)) or (since and not pushed) or (delete and pushed):
        raise ThawError(
            "NAME goes with --remote or --pushed, --since with --pushed, and --delete with neither or --remote"
        )
    what = commands.Verified.PUSHED if pushed else commands.Verified.REMOTE if remote else commands.Verified.CACHE
    commands.verify(what, name, since=since, delete=delete, deadline_s=deadline)


@app.command()
def check(
    path: Annotated[Path, typer.Argument(help="The params file.")] = PARAMS_FILE,
    data: Annotated[
        bool, typer.Option("--data", help="Look at every image too, and print what `prepare` would decide.")
    ] = False,
) -> None:
    """Validate params.yaml: every mistake at once, without running a stage; with --data, the images as well."""
    from thaw.project import ignoring

    params = load_params(path)
    ignoring.check(path.parent, read_tree(path))
    phases = ", ".join(params.unfreeze.phases) or "none"
    print(f"{path} is valid: {params.backbone.source} on {params.data.raw}, phases {phases}")
    if data:
        from thaw.data import preparing

        task = preparing.Task(
            params.data, params.prepare, params.seed, params.select.folds, workers=params.compute.workers
        )
        for line in preparing.look(task):
            print(for_terminal(f"prepare: {line}"))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def repro(context: typer.Context) -> None:
    """Look at params.yaml and the data, then call `dvc repro` with the same arguments.

    What DVC would hang on, die of, run or obey is a line each: pipes, broken links, names, dvc.yaml among the images.
    """
    from thaw.project import repro as command

    command.repro(context.args)


@app.command()
def doctor(
    fix: Annotated[bool, typer.Option("--fix", help="Mend what is torn, and keep each torn file.")] = False,
) -> None:
    """Say what a kill or a full disk has left torn, of DVC's files, tables and caches; exit with 1 if something is."""
    from thaw.project import doctor as command

    for line in command.doctor(fix=fix):
        print(line, flush=True)


@app.command()
def plan(path: Annotated[Path, typer.Argument(help="The params file.")] = PARAMS_FILE) -> None:
    """Print the schedule before any time is spent: what each phase trains, how fast, and what it costs."""
    from thaw.training.plan import plan_tables

    console = Console()
    for table in plan_tables(load_params(path)):
        console.print(table)


@app.command()
def advise() -> None:
    """Print what the stage `advise` found out: how deep unfreezing pays, how fast, or not at all, and the evidence."""
    from thaw.training import advised
    from thaw.training.plan import advice_tables

    console = Console()
    advice = advised.open_advice()
    for table in advice_tables(advice):
        console.print(table)
    console.print(advice.sentence, markup=False, highlight=False)


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
    images: Annotated[
        list[str], typer.Argument(help="Files, folders, archives, patterns in quotes, or - for a list on stdin.")
    ],
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
    folder: Model = EXPORT,
    version: Version = None,
) -> None:
    """Classify images: class and calibrated probabilities of each. What is no image is listed and passed over."""
    from thaw.serving import predict as command

    command.predict(images, form=form, output=output, top=top, explain=explain, folder=folder, version=version)


@app.command()
def serve(
    folder: Model = EXPORT,
    version: Version = None,
    host: Annotated[str, typer.Option(help="The address to listen at; 0.0.0.0 is every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 8000,
    max_mb: Annotated[float, typer.Option(min=0.001, help="Largest image file that is accepted, in MB.")] = 20.0,
    seconds: Annotated[float, typer.Option(min=0.1, help="Longest wait for an image, and for its answer.")] = 30.0,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(envvar="THAW_ALLOW_HOST", help="A name that requests may call this server by; '*' is any."),
    ] = None,
) -> None:
    """Answer in a browser and over HTTP: a page to drop images on, and POST /predict."""
    from thaw.serving.exported import Exported
    from thaw.serving.serve import serve
    from thaw.serving.uploads import Limits

    serve(Exported.open(folder, version=version), Limits(int(max_mb * 1e6), seconds), host, port, allow_host or ())


@data.command("diff")
def data_diff(
    before: Annotated[
        str | None, typer.Argument(metavar="[A]", help="A commit, branch, tag or experiment; without it, HEAD.")
    ] = None,
    after: Annotated[str | None, typer.Argument(metavar="[B]", help="Another one; without it, the workspace.")] = None,
    as_markdown: Annotated[bool, typer.Option("--md", help="Print Markdown, for a comment on a change.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    page: Annotated[Path | None, typer.Option("--html", help="Write a page that shows the images, one file.")] = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="Write the report with a section of what changed.")
    ] = None,
    gate: Annotated[
        bool, typer.Option("--gate", help="Exit with 1 if a good image is rejected now and nobody has accepted that.")
    ] = False,
) -> None:
    """Say which images were added, removed, replaced, relabelled, moved or newly rejected, from A to B."""
    from thaw.report import data_diff as command

    if as_markdown and as_json:
        raise ThawError("--md and --json exclude each other; drop one of them")
    form = command.Form.MARKDOWN if as_markdown else command.Form.JSON if as_json else command.Form.TEXT
    command.command(before, after, form=form, page=page, report=report, gate=gate)


@data.command("fetch")
def data_fetch(
    address: Annotated[
        str | None, typer.Argument(help="An archive or a folder: https://..., s3://..., gs://..., file://...")
    ] = None,
    to: Annotated[
        str | None,
        typer.Option("--to", help="The place below data/; without it, data/ and the last part of the address."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Fetch nothing; exit with 1 if what was fetched before has changed there.")
    ] = False,
) -> None:
    """Bring images from an address into the project once, put them into DVC, and set data.raw."""
    from thaw.project import fetching

    if (address is None) != check:
        raise ThawError("give an address to fetch, or --check alone, which looks whether what was fetched has changed")
    for line in fetching.check(Path.cwd()) if address is None else fetching.fetch(Path.cwd(), address, to):
        print(for_terminal(line))


@data.command("accept")
def data_accept(
    paths: Annotated[list[str] | None, typer.Argument(help="Paths as rejected.csv has them; without, all.")] = None,
    since: Annotated[str, typer.Option("--since", help="The revision in which they were good.")] = "HEAD",
) -> None:
    """Accept that images which were good are rejected now: write them into data/accepted.csv, for `diff --gate`."""
    from thaw.report import data_diff as command

    command.accept(paths or [], since)


@labels.command("export")
def labels_export(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The CSV; without it, labels.csv.", show_default=False)
    ] = None,
) -> None:
    """Write the labels of class folders into a CSV, and set data.labels; later, add rows for new images."""
    from thaw.project import labels as command

    for line in command.export(Path.cwd(), output):
        print(line)


@app.command()
def summary() -> None:
    """Print the result of the last run: head against each phase against the majority class."""
    from thaw.evaluation import summary as shown

    selection = facts.read(Path("reports/selection.json"), Selection)
    table = shown.summary_table(facts.read(Path("reports/metrics.json"), Metrics), selection)
    shown.print_evidence(selection)
    Console().print(table)


@app.command()
def compare(
    champion: Annotated[str, typer.Argument(help="The revision to compare with: a commit, branch, tag or experiment.")],
    challenger: Annotated[
        str | None, typer.Option("--with", help="A revision as challenger; without it, the workspace.")
    ] = None,
    gate: Annotated[
        bool, typer.Option("--gate", help="Leave with 1 if the challenger is surely worse beyond compare.margin.")
    ] = False,
    md: Annotated[bool, typer.Option("--md", help="Print Markdown, for a comment or a summary.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, for a program.")] = False,
) -> None:
    """Compare two models on the same test images, champion and challenger; after an error the exit code is 2."""
    from thaw.compare import command, text

    if md and json:
        raise typer.BadParameter("--md and --json contradict each other; give one of them")
    try:
        with extras.named():
            outcome = command.compare(champion, challenger, load_params())
    except ThawError as error:
        print(for_terminal(str(error)), file=sys.stderr)
        raise typer.Exit(2) from None
    print(outcome.model_dump_json(indent=2) if json else text.in_markdown(outcome) if md else text.in_plain(outcome))
    if gate and not outcome.gate.passed:
        raise typer.Exit(1)


@app.command()
def trials(
    baseline: Annotated[str, typer.Argument(help="The commit, branch or tag that the trials start from.")] = "HEAD",
    json: Annotated[bool, typer.Option("--json", help="Print JSON, for a program.")] = False,
) -> None:
    """List the experiments of DVC: what each changes, its out-of-fold loss, and the change from the baseline."""
    from thaw.trials import listing, text

    found = listing.trials(baseline, load_params())
    if json:
        print(found.model_dump_json(indent=2))
    elif not found.trials:
        print(f"no trial starts from {baseline}; `dvc exp run select -S KEY=VALUE` makes one, `thaw sweep` many")
    else:
        Console(width=min(Console().width, text.COLUMNS)).print(text.table(found))


@app.command()
def sweep(
    space: Annotated[
        list[str],
        typer.Argument(help="KEY=LOW..HIGH, KEY=LOW..HIGH:log or KEY=A,B,C of params.yaml; or a YAML file of such."),
    ],
    trials: Annotated[int, typer.Option("--trials", min=1, help="Trials of the study, earlier ones included.")] = 20,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Trials that run side by side.")] = 1,
    study: Annotated[str, typer.Option("--study", help="Its name; experiments get it with a number.")] = "sweep",
    storage: Annotated[
        str | None, typer.Option("--storage", help="A URL of Optuna's or a file; without it, a file in .thaw/.")
    ] = None,
) -> None:
    """Search for better values: each trial is a DVC experiment, stopped when it is surely worse than the best."""
    from thaw.project import before_dvc
    from thaw.trials import sweep as command

    before_dvc.check()
    command.sweep(command.Wish(space, trials, jobs, study, storage))


@ci.command("keep")
def ci_keep(branch: Annotated[str, typer.Argument(help="The branch of origin that dvc.lock is committed to.")]) -> None:
    """Push data, models and runs to DVC's remote, then dvc.lock to a branch of origin; both only where new."""
    from thaw.project import ci as jobs

    for line in jobs.keep(branch):
        print(line)


@ci.command("report")
def ci_report(
    base: Annotated[str, typer.Argument(help="The revision to compare HEAD with, such as origin/main.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the report into a file, too.")] = None,
) -> None:
    """Print what HEAD changes in model and data as Markdown; in a job, also as step summary and as a comment."""
    from thaw.project import ci as jobs

    jobs.report(base, output)


def main() -> None:
    """Run the command line: what the commands `thaw` and `python -m thaw` call."""
    run_command(app)


def run_command(command: Callable[[], object]) -> None:
    """Call a command and leave with 1 and one line if it ends in a ThawError or lacks a library of an extra."""
    try:
        with extras.named():
            command()
    except ThawError as error:
        print(for_terminal(str(error)), file=sys.stderr)
        sys.exit(1)
