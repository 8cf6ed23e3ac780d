"""The lock files: what requirements*.txt ask for is in them, and all that those need, by hash; nothing else is."""

import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.contract import audit
from tests.contract.repository import ROOT

NAMES = ("requirements-build", "requirements", "requirements-dev", "requirements-tools")
INSTALLED = NAMES[:3]  # what `make test` has; .venv/tools has the last
_ENTRY = re.compile(
    r"^([a-z0-9-]+==[^ ;]+(?: ; .+?)?) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE
)


def _lock(name: str) -> str:
    return (ROOT / f"{name}.lock").read_text(encoding="utf-8")


def _asked(path: Path) -> Iterator[tuple[str, str]]:
    """The pins of a requirements file and of those that it names."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("-r "):
            yield from _asked(path.with_name(line.removeprefix("-r ")))
        elif line and not line.startswith("#"):
            name, _, pin = line.partition("#")[0].strip().partition("==")
            yield canonicalize_name(name), pin


@pytest.mark.parametrize("name", NAMES)
def test_every_pin_of_the_requirements_is_locked_as_it_stands(name: str) -> None:
    asked = dict(_asked(ROOT / f"{name}.txt"))
    pins = audit.locked(_lock(name))
    assert asked == {key: pins.get(key) for key in asked}, f"{name}.lock is not {name}.txt's; run `make lock`"


@pytest.mark.parametrize("name", INSTALLED)
def test_what_is_locked_is_what_the_requirements_need_and_no_more(name: str) -> None:
    pins = audit.locked(_lock(name))
    needed, waiting = set[str](), [Requirement(f"{key}=={pin}") for key, pin in _asked(ROOT / f"{name}.txt")]
    seen = set[tuple[str, frozenset[str]]]()
    while waiting:
        found = waiting.pop()
        key = (canonicalize_name(found.name), frozenset(found.extras))
        if key in seen:
            continue
        seen.add(key)
        needed.add(key[0])
        for entry in map(Requirement, distribution(found.name).requires or ()):
            extras = {"", *found.extras}
            if entry.marker is None or any(entry.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(entry)
    assert needed == set(pins), "run `make lock`, and `make install`"


@pytest.mark.parametrize("name", INSTALLED)
def test_what_is_locked_is_installed(name: str) -> None:
    for key, pin in audit.locked(_lock(name)).items():
        try:
            installed = version(key).partition("+")[0]
        except PackageNotFoundError:
            installed = "nothing"
        assert installed == pin, f"{name}.lock: {key}=={pin}, but {installed} is installed; run `make install`"


@pytest.mark.parametrize("name", NAMES)
def test_every_entry_has_a_hash_and_only_one_package_is_built_from_source(name: str) -> None:
    head, entries = _lock(name).split("\n", 3)[:3], _ENTRY.findall(_lock(name))
    assert head[0].startswith("# Written by `make lock`")
    # pip forgets what it read before `:all:`, so the exception must come after it.
    assert head[1:] == ["--only-binary :all:", "--no-binary antlr4-python3-runtime"]
    text = "".join(f"{entry} \\\n{hashes}" for entry, hashes in entries)
    assert text == _lock(name).split("\n", 3)[3], "a line is no entry with hashes; run `make lock`"


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize(("system", "machine"), [("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64")])
def test_every_supported_platform_finds_its_packages_in_the_same_files(python: str, system: str, machine: str) -> None:
    environment = {
        "python_version": python, "python_full_version": f"{python}.0", "sys_platform": system,
        "platform_system": system.capitalize(), "platform_machine": machine,
    }  # fmt: skip
    run, tests = (audit.locked(_lock(name), environment) for name in ("requirements", "requirements-dev"))
    assert run.items() <= tests.items(), "both are installed into one environment"
    assert audit.locked(_lock("requirements-build"), environment).items() <= tests.items()
    assert {"torch", "dvc", "diskcache"} <= set(run)
    assert ("nvidia-cublas" in run) == (system == "linux")


def test_the_makefile_installs_by_hash_and_builds_with_what_is_locked_alone() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    calls = [line.strip() for line in text.splitlines() if "pip install" in line]
    # The first is LOCKED, by which all files are installed; the second installs this folder, and nothing from an index.
    assert len(calls) == 2
    assert {"--require-hashes", "--no-build-isolation"} <= set(calls[0].split())
    assert calls[1].endswith("--no-deps --no-build-isolation --editable .")
    assert re.findall(r"\$\(LOCKED\) -r (\S+)\.lock", text) == list(NAMES)
