"""requirements.txt is the truth: exact, installed, and nothing in it goes unused."""

import ast
import re
from functools import cache
from importlib.metadata import packages_distributions, version

import pytest

from tests.contract import house

_LINE = re.compile(r"^([A-Za-z0-9_.-]+)==([A-Za-z0-9_.]+)(?:\s+# not imported by us: (\S.*))?$")
FILES = ("requirements.txt", "requirements-dev.txt")


def _lines(name: str) -> list[str]:
    text = (house.ROOT / name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith(("#", "-r "))]


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@cache
def _imported(*folders: str) -> frozenset[str]:
    """Distributions behind every import in the folders."""
    owners, found = packages_distributions(), set()
    for path in [path for folder in folders for path in (house.ROOT / folder).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.split(".")[0])
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
                ("find_spec", "import_module", "files")
            ):
                found |= {str(item.value).split(".")[0] for item in node.args if isinstance(item, ast.Constant)}
    return frozenset(_plain(owner) for name in found for owner in owners.get(name, ()))


@pytest.mark.parametrize("name", FILES)
def test_every_requirement_is_pinned_exactly_and_installed_as_pinned(name: str) -> None:
    for line in _lines(name):
        match = _LINE.match(line)
        assert match, f"{name}: {line!r} must read NAME==VERSION, then perhaps '# not imported by us: REASON'"
        installed = version(match[1]).partition("+")[0]
        assert installed == match[2], f"{name}: {line}, but {installed} is installed; run `make install`"


def test_every_requirement_is_imported_or_says_why_not() -> None:
    for name, folders in (("requirements.txt", ("thaw", "stages")), ("requirements-dev.txt", ("tests", "bench"))):
        for line in _lines(name):
            match = _LINE.match(line)
            assert match
            used = _plain(match[1]) in _imported(*folders)
            assert used or match[3], f"{name}: nothing imports {match[1]}; drop it, or say why it is needed"
            assert not (used and match[3]), f"{name}: {match[1]} is imported after all"


def test_what_the_library_and_the_stages_import_is_required() -> None:
    listed = {_plain(match[1]) for line in _lines("requirements.txt") if (match := _LINE.match(line))}
    assert _imported("thaw", "stages") <= listed, f"add {sorted(_imported('thaw', 'stages') - listed)}"


def test_what_the_tests_and_the_benches_import_is_required() -> None:
    listed = {_plain(match[1]) for name in FILES for line in _lines(name) if (match := _LINE.match(line))}
    assert _imported("tests", "bench") <= listed, f"add {sorted(_imported('tests', 'bench') - listed)}"
