"""What `import thaw` offers, and what it costs: nothing until a name is used."""

import subprocess
import sys

import pytest

import thaw
from tests.contract import repository
from thaw import networks, version
from thaw.networks.sources import opening
from thaw.serving.exported import Exported
from thaw.training import model

_ADDED = """
import sys
before = set(sys.modules)
import thaw
print(*sorted(set(sys.modules) - before))
print(thaw.__version__)
print(*sorted(set(sys.modules) - before))
"""


def test_importing_thaw_loads_one_module_of_ours_and_none_of_another_library() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _ADDED], cwd=repository.ROOT, capture_output=True, text=True, check=True
    )
    at_first, number, later = done.stdout.splitlines()
    assert number == version.VERSION
    assert {name for name in at_first.split() if name.partition(".")[0] not in sys.stdlib_module_names} == {"thaw"}
    assert {name for name in later.split() if name.partition(".")[0] not in sys.stdlib_module_names} == {
        "thaw", "thaw.errors", "thaw.extras", "thaw.version",
    }  # fmt: skip


def test_the_public_names_are_those_of_the_modules_behind_them() -> None:
    assert thaw.open_backbone is opening.open_backbone
    assert networks.open_backbone is opening.open_backbone
    assert thaw.load is model.load
    assert thaw.load_exported == Exported.open
    for name in thaw.__all__:
        assert getattr(thaw, name) is not None
        assert name in dir(thaw)


def test_a_name_that_does_not_exist_is_refused_by_python_and_by_mypy() -> None:
    with pytest.raises(AttributeError, match=r"module 'thaw' has no attribute 'laod'; it has .*\bload\b"):
        thaw.laod  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(AttributeError, match=r"module 'thaw\.networks' has no attribute 'open'; it has open_backbone"):
        networks.open  # type: ignore[attr-defined]  # noqa: B018


def test_no_stage_depends_on_the_version_or_the_extras_so_that_a_release_reruns_only_what_its_code_changed() -> None:
    for name in repository.CODE.stages:
        assert not {"thaw/version.py", "thaw/extras.py"} & repository.CODE.closure(f"stages.{name}").keys(), name
