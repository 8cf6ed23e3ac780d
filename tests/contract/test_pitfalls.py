"""docs/pitfalls.md names a test for each mistake, and each of these tests exists."""

import ast
import re
from functools import cache

import pytest

from tests.contract import repository

_ROW = re.compile(r"\| (\d+) \| (.+?) \| (.+?) \|")
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def _rows() -> dict[int, list[tuple[str, str]]]:
    text = (repository.ROOT / "docs" / "pitfalls.md").read_text(encoding="utf-8")
    matches = (_ROW.fullmatch(line) for line in text.splitlines())
    return {int(row[1]): _TEST.findall(row[3]) for row in matches if row}


@cache
def _tests(path: str) -> set[str]:
    tree = ast.parse((repository.ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_mistake_from_1_to_21_has_its_row() -> None:
    assert sorted(_rows()) == list(range(1, 22))


@pytest.mark.parametrize("number", range(1, 22))
def test_every_test_that_is_named_for_a_mistake_exists(number: int) -> None:
    named = _rows()[number]
    assert named, f"docs/pitfalls.md names no test for mistake {number}"
    for path, name in named:
        assert (repository.ROOT / path).is_file(), f"docs/pitfalls.md names {path}, which does not exist"
        assert name in _tests(path), f"docs/pitfalls.md names {name}, which {path} does not have"
