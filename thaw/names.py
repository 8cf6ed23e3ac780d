"""Names that others chose, of classes and files, written where something would read them as more than a name.

A terminal obeys control characters, Markdown and HTML their marks, a spreadsheet a cell that begins with `=`. Each way
out has its own function here, and the text comes in as it is. Tables that stages read have the escape undone by
`from_cell`; nothing else is read back.
"""

import re
from collections.abc import Sequence

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001 - a spreadsheet takes them, too
QUOTE = "'"
"""Stands before the text of a cell that a spreadsheet would take for a formula."""
_MARKS = re.compile(r"([\\`*_{}\[\]<>()#!|~&@$:.])")


def on_one_line(name: str) -> str:
    """Return a name on one line, what does not print (line breaks, marks that reorder text) as its escape."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in name)


def for_terminal(text: str) -> str:
    """Return lines of text with every character that a terminal would obey, line breaks apart, as its escape."""
    return "\n".join(on_one_line(line) for line in text.split("\n"))


def as_code(name: str) -> str:
    """Return a name as a code span of Markdown, whatever it holds."""
    plain, fence = on_one_line(name), "`"
    while fence in plain:
        fence += "`"
    pad = " " if plain.startswith("`") or plain.endswith("`") else ""
    return f"{fence}{pad}{plain}{pad}{fence}"


def as_code_cell(name: str) -> str:
    """Return a name as a code span within a table of Markdown; nothing for no name."""
    return as_code(name).replace("|", "\\|") if name else ""


def in_markdown(name: str) -> str:
    """Return a name as plain words of Markdown: none of its characters is a mark, calls on a person, or is HTML."""
    return _MARKS.sub(r"\\\1", on_one_line(name))


def as_cell(text: str) -> str:
    """Return text for a cell of a CSV: behind a quote if a spreadsheet would take it for a formula."""
    starts = text.startswith((QUOTE, *_FORMULA)) or text.lstrip().startswith(_FORMULA)
    return QUOTE + text if starts and not _NUMBER.fullmatch(text) else text


def from_cell(cell: str) -> str:
    """Return the text that `as_cell` was given."""
    return cell.removeprefix(QUOTE)


def in_script(name: str) -> str:
    """Return a name for a script in a page that somebody else writes: `<`, which could end it, as a quotation mark."""
    return name.replace("<", "\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}")


def few(names: Sequence[str]) -> str:
    """Return the first three names, with dots where there are more, for a sentence."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
