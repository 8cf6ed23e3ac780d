"""Every row of the fault list has tests that are named after it, and docs/reliability.md names some that exist."""

import ast
import re
from collections import defaultdict

import pytest

from tests.contract import repository

ROWS = range(1, 27)
_TEST = re.compile(r"test_row_(\d\d)_\w+")
_ROW = re.compile(r"\| (\d+) \| .+")


def _tests() -> dict[int, set[str]]:
    """Return the names of the tests of each row."""
    found: dict[int, set[str]] = defaultdict(set)
    for folder in ("faults", "pipeline"):
        for path in (repository.ROOT / "tests" / folder).glob("test_*.py"):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.FunctionDef) and (match := _TEST.fullmatch(node.name)):
                    found[int(match[1])].add(node.name)
    return found


def _said() -> dict[int, set[str]]:
    """Return the names in each row of the table in the section on rows."""
    text = (repository.ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    section = text.partition("\n### Rows\n")[2].partition("\n### ")[0]
    rows = (_ROW.fullmatch(line) for line in section.splitlines())
    return {int(row[1]): set(re.findall(r"`(test_row_\w+)`", row[0])) for row in rows if row}


def test_every_row_from_1_to_26_has_a_test_and_no_test_is_named_after_another() -> None:
    assert sorted(_tests()) == list(ROWS)


def test_every_row_from_1_to_26_is_on_the_page() -> None:
    assert sorted(_said()) == list(ROWS)


@pytest.mark.parametrize("row", ROWS)
def test_the_tests_that_the_page_names_for_a_row_are_there_and_of_that_row(row: int) -> None:
    assert _said()[row]
    assert _said()[row] <= _tests()[row]
