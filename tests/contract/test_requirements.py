"""requirements.txt is exact, installed, and nothing in it goes unused; pyproject.toml has a range around each pin."""

import ast
import re
import tomllib
from functools import cache
from importlib.metadata import packages_distributions, version

import pytest
from packaging.requirements import Requirement

from tests.contract import repository
from thaw import extras
from thaw.pipeline import code

_LINE = re.compile(r"^([A-Za-z0-9_.-]+)==([A-Za-z0-9_.]+)(?:\s+# not imported by us: (\S.*))?$")
FILES = ("requirements.txt", "requirements-build.txt", "requirements-dev.txt")
BASE = "base"  # what is installed without an extra
_OURS = {*code.PACKAGES, "tests", "bench"}


def _lines(name: str) -> list[str]:
    text = (repository.ROOT / name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith(("#", "-r "))]


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@cache
def _imported(*folders: str) -> frozenset[str]:
    """Distributions behind every import in the folders."""
    owners, found = packages_distributions(), set()
    for path in [path for folder in folders for path in (repository.ROOT / folder).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.split(".")[0])
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
                ("find_spec", "import_module", "files")
            ):
                found |= {str(item.value).split(".")[0] for item in node.args if isinstance(item, ast.Constant)}
    return frozenset(_plain(owner) for name in found - _OURS for owner in owners.get(name, ()))


@cache
def _ranges() -> dict[str, dict[str, Requirement]]:
    """The ranges of pyproject.toml by extra, then by distribution."""
    project = tomllib.loads((repository.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lists = {BASE: project["dependencies"], **project["optional-dependencies"]}
    return {extra: {_plain(found.name): found for found in map(Requirement, lines)} for extra, lines in lists.items()}


def _pins(*names: str) -> dict[str, str]:
    """The versions of requirements files by distribution."""
    return {_plain(match[1]): match[2] for name in names for line in _lines(name) if (match := _LINE.match(line))}


def _optional() -> set[str]:
    """What a clone installs for its tests alone: the distributions of extras that no stage needs."""
    return {name for extra in ("sweep", "mlflow", "wandb") for name in _ranges()[extra]}


@pytest.mark.parametrize("name", FILES)
def test_every_requirement_is_pinned_exactly_and_installed_as_pinned(name: str) -> None:
    for line in _lines(name):
        match = _LINE.match(line)
        assert match, f"{name}: {line!r} must read NAME==VERSION, then perhaps '# not imported by us: REASON'"
        installed = version(match[1]).partition("+")[0]
        assert installed == match[2], f"{name}: {line}, but {installed} is installed; run `make install`"


def test_every_requirement_is_imported_or_says_why_not() -> None:
    tests = ("tests", "bench")
    for name, folders in zip(FILES, (("thaw", "stages"), tests, tests), strict=True):
        for line in _lines(name):
            match = _LINE.match(line)
            assert match
            used = _plain(match[1]) in _imported(*folders)
            assert used or match[3], f"{name}: nothing imports {match[1]}; drop it, or say why it is needed"
            assert not (used and match[3]), f"{name}: {match[1]} is imported after all"


def test_what_the_library_and_the_stages_import_is_required() -> None:
    listed = {*_pins("requirements.txt"), *_optional()}
    assert _imported("thaw", "stages") <= listed, f"add {sorted(_imported('thaw', 'stages') - listed)}"


def test_what_the_tests_and_the_benches_import_is_required() -> None:
    listed = {*_pins(*FILES)}
    assert _imported("tests", "bench") <= listed, f"add {sorted(_imported('tests', 'bench') - listed)}"


def test_the_package_and_requirements_txt_need_the_same_distributions() -> None:
    ranges = {name for extra in _ranges().values() for name in extra}
    assert ranges == {*_pins("requirements.txt"), *_optional()}
    assert _optional() <= {*_pins("requirements-dev.txt")}


@pytest.mark.parametrize("extra", sorted(_ranges()))
def test_every_range_of_the_package_has_a_lower_end_and_admits_the_pin(extra: str) -> None:
    for name, found in _ranges()[extra].items():
        assert found.specifier.contains(_pins(*FILES)[name]), f"pyproject.toml: {found}, pinned: {_pins(*FILES)[name]}"
        assert ">=" in {entry.operator for entry in found.specifier}, found


@pytest.mark.parametrize("extra", sorted(extras.LIBRARIES))
def test_the_error_of_a_missing_library_names_an_extra_that_brings_it(extra: str) -> None:
    owners = packages_distributions()
    for library in extras.LIBRARIES[extra]:
        assert {_plain(owner) for owner in owners[library]} & set(_ranges()[extra]), library


def test_every_library_that_an_extra_brings_is_known_to_that_error() -> None:
    owners = packages_distributions()
    known = {_plain(owner) for names in extras.LIBRARIES.values() for name in names for owner in owners[name]}
    brought = {name for extra, names in _ranges().items() if extra != BASE for name in names}
    assert (brought - set(_ranges()[BASE])) & _imported("thaw", "stages") <= known


def test_the_answering_modules_need_the_base_alone() -> None:
    answering = ("thaw.serving.predict", "thaw.serving.exported", "thaw.config.reader", "thaw.extras", "thaw.version")
    reached = {path for module in answering for path in repository.CODE.closure(module).values()}
    modules = [name for name, path in repository.CODE.modules.items() if path in reached]
    owners = packages_distributions()
    roots = {other.split(".")[0] for module in modules for other in repository.CODE.imports(module)} - _OURS
    needed = {_plain(owner) for root in roots for owner in owners.get(root, ())}
    for extra, name in (
        ("parquet", "pyarrow"),
        ("heic", "pillow-heif"),
        ("dicom", "pydicom"),
    ):  # where a file asks for it
        assert name in _ranges()[extra]
        needed -= {name}
    assert needed <= set(_ranges()[BASE])
