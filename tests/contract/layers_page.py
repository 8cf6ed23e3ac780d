"""The table of decision 0023, made from the packages themselves. Run as `python -m tests.contract.layers_page`."""

import ast

from tests.contract.repository import CODE, ROOT

PAGE = ROOT / "docs" / "decisions" / "0023-packages-and-layers.md"
_START, _END = "| package | may import | file | holds |\n", "\n## A walk of one image"

# The packages of thaw/, each above all that stand before it.
LAYERS = (
    "config", "pipeline", "data", "augment", "networks", "activations", "head", "training", "evaluation", "advice",
    "serving", "export", "report", "compare", "trials", "project",
)  # fmt: skip
CORE = ("errors", "extras", "memory", "names", "progress", "version")
TOP = ("cli", "__main__")


def render(text: str) -> str:
    """The page with its table made anew."""
    before, _, rest = text.partition(_START)
    _, _, after = rest.partition(_END)
    return f"{before}{_START}|---|---|---|---|\n{_rows()}{_END}{after}"


def _rows() -> str:
    rows = _package("core", "", [f"thaw.{name}" for name in CORE])
    for place, layer in enumerate(LAYERS):
        below = f"core, {', '.join(LAYERS[:place])}" if place else "core"
        inside = [name for name in CODE.modules if name.startswith(f"thaw.{layer}.")]
        rows += _package(layer, below, inside)
    rows += _package("commands", "everything", [f"thaw.{name}" for name in TOP])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _package(name: str, below: str, modules: list[str]) -> list[tuple[str, str, str, str]]:
    """The rows of a package; what it may import stands in the first."""
    files = [CODE.modules[module] for module in modules if CODE.modules[module].name != "__init__.py"]
    rows = []
    for number, path in enumerate(files):
        first = (f"**{name}**", below or "nothing") if number == 0 else ("", "")
        rows.append(
            (*first, f"`{path.relative_to(ROOT / 'thaw').as_posix()}`", _holds(path.read_text(encoding="utf-8")))
        )
    return rows


def _holds(source: str) -> str:
    """The first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0].replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
