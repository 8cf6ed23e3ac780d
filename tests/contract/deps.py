"""Write into each dvc.yaml which source files its stages import. Run as `python -m tests.contract.deps`."""

import re

from tests.contract import house


def rewritten(text: str) -> str:
    """The text of a dvc.yaml with the source files among the deps of every stage replaced by its import closure."""
    lines, module, indent, needed = [], "", None, set[str]()
    for line in text.splitlines():
        if match := re.match(r"\s+cmd: python -m (stages\.\w+)", line):
            module = match[1]
        if indent is not None and not line.startswith(f"{indent}  - "):
            lines += [f"{indent}  - {path}" for path in sorted(needed)]
            indent = None
        if match := re.match(r"(\s+)deps:$", line):
            indent, needed = match[1], house.closure(module)
        if indent is None or not house.is_source(line.strip().removeprefix("- ")):
            lines.append(line)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    for path in (house.ROOT / "dvc.yaml", *sorted((house.ROOT / "data").glob("*/dvc.yaml"))):
        path.write_text(rewritten(path.read_text(encoding="utf-8")), encoding="utf-8")
