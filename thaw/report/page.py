"""Put the report together: one HTML file, its style, script, charts and pictures inside."""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from thaw.report import advice, confusion, figures, gallery, text
from thaw.report.sources import Sources
from thaw.training.model import Model

TEMPLATES = Path(__file__).with_name("templates")
_MOST_REJECTED = 200


def render(sources: Sources, model: Model, *, raw: str, settings: Mapping[str, Any], licence: str | None = None) -> str:
    """Return the page.

    `raw` is data.raw, `licence` data.license, `settings` the sections of params.yaml that the run depends on.

    The same inputs give the same text: no time, no path of this machine. Names of classes and files are text to the
    page, whatever they hold; beyond that, its policy lets a browser run no script but the page's own, and load nothing.
    """
    table, classes = confusion.matrix(sources.test, sources.images.classes), sources.images.classes
    counts = confusion.counted(sources.test, len(classes))
    worst, has_heat = gallery.worst(sources, model)
    doubtful, num_doubtful = gallery.doubtful(sources)
    rejected = list(sources.rejected[["path", "reason"]].itertuples(index=False, name=None))
    context = {
        "verdict": text.verdict(sources),
        "contradictions": text.contradictions(sources.audit),
        "bars": text.bars(sources),
        "tiles": text.tiles(sources),
        "findings": sources.selection.findings,
        "phases": text.phase_rows(sources),
        "advised": advice.advised(sources),
        "training": figures.training_charts(sources),
        "schedule": figures.schedule(sources),
        "matrix": table,
        "class_rows": confusion.class_rows(counts, classes, sources.classes.root),
        "known_classes": text.known_classes(sources),
        "answers": figures.answer_charts(sources),
        "development": development(sources),
        "learning_curve": figures.learning_curve(sources),
        "worst": worst,
        "has_heat": has_heat,
        "doubtful": doubtful,
        "num_doubtful": num_doubtful,
        "audit": sources.audit,
        "rejected": rejected[:_MOST_REJECTED],
        "num_rejected": len(rejected),
        "lookalikes": gallery.lookalikes(sources),
        "lineage": text.lineage(sources, raw, licence),
        "settings": text.flat(settings),
        "chosen": sources.selection.chosen,
        "looked_at": sources.selection.looked_at,
        "cost": sources.selection.cost,
        "num_test": sources.metrics.test["n"],
        "viewer": gallery.viewer(sources),
    }
    return _environment().get_template("report.html").render(context | _inlined())


@dataclass(frozen=True)
class Development:
    """What the same tables show on the development images, each answered out of its fold."""

    matrix: confusion.Matrix
    worst: list[gallery.Entry]


def development(sources: Sources) -> Development | None:
    """Return the confusions and the largest losses among the development images; None where there is one fold.

    A few validation images of one split say nothing that the test images do not say better.
    """
    if sources.selection.folds == 1 or sources.validation is None:
        return None
    return Development(
        confusion.matrix(sources.validation, sources.images.classes),
        gallery.largest_losses(sources, sources.validation),
    )


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"three": _three, "signed": _signed, "rate": _rate, "p_value": _p_value}
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    return environment


def _inlined() -> dict[str, str]:
    """Return style and script, which are ours and stand in the page as they are, and the script's hash."""
    style, script = (Path(TEMPLATES, name).read_text(encoding="utf-8") for name in ("style.css", "script.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return {"style": Markup(style), "script": Markup(script), "script_hash": digest}  # noqa: S704, no outside text


def _three(value: float) -> str:
    return f"{value:.3f}".replace("-", "−")


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−") if round(value, 3) else "0.000"


def _rate(value: float) -> str:
    return f"{value:.2g}"


def _p_value(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
