"""Whatever a class or a file is called, no way out takes its name for more than a name."""

import csv
import html.parser
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from thaw import names
from thaw.evaluation import plots
from thaw.pipeline import tables
from thaw.serving.tables import Format, table

HOSTILE = [
    "</script><script>alert(1)</script>", "<!--<script>", "<DVC_METRIC_DATA>", "<img src=x onerror=alert(1)>",
    "=1+1", "=cmd|' /C calc'!A0", "@SUM(1)", "-2+3", "+1", " =1", "'=1", "'", "''", "\t=1", "-1", "007", "1e5",
    "\x1b[31mred", "\x1b]0;title\x07", "a\nb", "\u202egnp.exe", "\x9b31m",
    "`code`", "``", "a|b", "[x](http://e.example)", "![x](//e.example/y.png)", "@somebody", "# x", "www.e.example",
    "http://e.example", "**b**", "\\", "&lt;", "$x$", "~~s~~", "_x_",
]  # fmt: skip

# What names may hold: listing.py refuses carriage returns, NUL and what is not UTF-8.
NAME = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0\r"), min_size=1, max_size=20),
)
_FORMULA = re.compile(r"\s*[=+\-@\t]")
_NUMBER = re.compile(r"[+-]?[\d.]+([eE][+-]?\d+)?")


@given(NAME)
@example("\x1b[2J")
def test_a_terminal_is_sent_no_control_character(name: str) -> None:
    assert names.on_one_line(name).isprintable()
    assert all(line.isprintable() for line in names.for_terminal(f"a\n{name}").split("\n"))
    assert names.for_terminal(f"a\n{name}").count("\n") == 1 + name.count("\n")


@given(NAME)
def test_a_cell_is_no_formula_and_reads_back_as_it_was(name: str) -> None:
    cell = names.as_cell(name)
    assert names.from_cell(cell) == name
    assert not _FORMULA.match(cell) or _NUMBER.fullmatch(cell)


@given(st.lists(NAME, min_size=1, max_size=5))
def test_a_table_of_a_stage_holds_no_formula_and_reads_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, found: list[str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "t.csv"
    tables.write(path, pd.DataFrame({"label": found, "row": range(len(found))}))
    with path.open(encoding="utf-8", newline="") as file:
        cells = [row[0] for row in csv.reader(file)]
    assert not [cell for cell in cells if _FORMULA.match(cell) and not _NUMBER.fullmatch(cell)]
    assert tables.read(path)["label"].tolist() == found


@given(NAME)
def test_a_table_of_predict_holds_no_formula(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    path = tmp_path_factory.getbasetemp() / "p.csv"
    with table(Format.CSV, path, ["path", "class", f"p:{name}"]) as write:
        write({"path": name, "class": name, f"p:{name}": 0.5})
    with path.open(encoding="utf-8", newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if _FORMULA.match(cell) and not _NUMBER.fullmatch(cell)]


class Tags(html.parser.HTMLParser):
    """Collects the tags of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, _: object) -> None:
        """Note a tag."""
        self.seen.append(tag)


@given(NAME)
def test_markdown_shows_a_name_and_obeys_none(name: str) -> None:
    """Read by CommonMark with the tables of GitHub."""
    markdown = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    for text in (
        f"# {names.in_markdown(name)}: a classifier\n",
        f"Weakest: {names.as_code(name)}.\n",
        f"| a | b |\n|---|---|\n| {names.as_code_cell(name)} | 1 |\n",
    ):
        tags = Tags()
        tags.feed(markdown.render(text))
        assert set(tags.seen) <= {"h1", "p", "code", "table", "thead", "tbody", "tr", "th", "td"}
        assert tags.seen.count("td") in (0, 2)


@given(NAME)
def test_dvc_plots_writes_no_tag_into_its_page(name: str) -> None:
    table = pd.DataFrame({"series": [names.in_script(name)]})
    assert "<" not in json.dumps(table.to_dict("records"), ensure_ascii=False)


def test_the_tables_that_dvc_plots_draws_hold_no_tag(tmp_path: Path) -> None:
    labels = np.array([0, 1, 2, 0, 1, 2])
    shares = np.random.default_rng(0).dirichlet(np.ones(3), 6)
    plots.write_test_plots(tmp_path, labels, shares, ["</script><script>alert(1)</script>", "b", "<!--"])
    found = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.glob("*.csv")}
    assert {"confusion.csv", "roc.csv"} <= found.keys()
    assert "script>alert(1)" in found["confusion.csv"]
    assert not [name for name, text in found.items() if "<" in text]
