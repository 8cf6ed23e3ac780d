"""Which files a stage can import, and the fingerprint of them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from thaw.errors import RunError
from thaw.pipeline import code
from thaw.pipeline.code import Code, Fingerprint

_FILES = {
    "stages/__init__.py": "",
    "stages/code.py": "from thaw.core import base",
    "stages/first.py": "import numpy\nfrom thaw.core import base\n",
    "stages/second.py": "from thaw.page import render\n",
    "thaw/__init__.py": "def __getattr__(name):\n    from thaw.core import public\n",
    "thaw/core/__init__.py": "",
    "thaw/core/base.py": "",
    "thaw/core/public.py": "",
    "thaw/core/lazy.py": "from . import base\nfrom ..core.below import value\n",
    "thaw/core/below.py": "value = 1\n",
    "thaw/core/notes.txt": "of no module",
    "thaw/page/__init__.py": "",
    "thaw/page/typed.py": "",
    "thaw/page/untyped.py": "",
    "thaw/page/render.py": (
        "from typing import TYPE_CHECKING\n"
        "from thaw.version import VERSION\n"
        "if TYPE_CHECKING:\n    from thaw.page import typed\nelse:\n    from thaw.page import untyped\n"
        "STYLE, FOLDER = 'style.css', 'templates'\n"
        "def draw():\n    import thaw.core.lazy\n"
    ),
    "thaw/page/style.css": "body {}",
    "thaw/page/templates/a.html": "<p>",
    "thaw/page/templates/deep/b.html": "<b>",
    "thaw/version.py": "VERSION = '1.0'\n",
}

Make = Callable[[str], Code]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write two small packages into a folder and return their code."""

    def write(name: str) -> Code:
        for file, text in _FILES.items():
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_text(text)
        return Code({package: tmp_path / name / package for package in code.PACKAGES})

    return write


def test_a_closure_has_the_packages_above_a_module_and_nothing_that_it_cannot_import(make: Make) -> None:
    assert list(make("a").closure("stages.first")) == [
        "stages/__init__.py",
        "stages/first.py",
        "thaw/__init__.py",
        "thaw/core/__init__.py",
        "thaw/core/base.py",
    ]


def test_a_closure_follows_imports_in_functions_and_relative_ones_but_not_those_of_type_checkers(make: Make) -> None:
    found = make("a").closure("stages.second").keys()
    assert found >= {"thaw/core/lazy.py", "thaw/core/base.py", "thaw/core/below.py", "thaw/page/untyped.py"}
    assert not found & {"thaw/page/typed.py", "thaw/core/public.py"}


def test_imports_of_type_checkers_are_told_on_request(make: Make) -> None:
    found = make("a")
    assert "thaw.page.typed" not in found.imports("thaw.page.render")
    assert "thaw.page.typed" in found.imports("thaw.page.render", typing_only=True)


def test_data_files_count_with_the_modules_that_name_them_or_their_folder(make: Make) -> None:
    found = make("a").closure("stages.second").keys()
    assert found >= {"thaw/page/style.css", "thaw/page/templates/a.html", "thaw/page/templates/deep/b.html"}
    assert "thaw/core/notes.txt" not in found


def test_the_version_is_part_of_no_fingerprint(make: Make) -> None:
    found = make("a")
    before = found.fingerprint("second")
    found.modules["thaw.version"].write_text("VERSION = '2.0'\n")
    assert "thaw.version" in found.imports("thaw.page.render")
    assert found.fingerprint("second") == before


def test_a_module_that_does_not_exist_is_named(make: Make) -> None:
    with pytest.raises(RunError, match=r"^there is no module stages\.third; run stages from the root of the project"):
        make("a").fingerprint("third")


def test_equal_sources_have_the_same_fingerprint_files_wherever_they_are(make: Make, tmp_path: Path) -> None:
    for name in ("a", "b"):
        code.write(tmp_path / "out" / name, make(name))
    shutil.rmtree(tmp_path / "a")
    written = {name: {path.name: path.read_bytes() for path in (tmp_path / "out" / name).iterdir()} for name in "ab"}
    assert sorted(written["a"]) == ["first.json", "second.json"]
    assert written["a"] == written["b"]
    assert str(tmp_path).encode() not in written["a"]["first.json"]


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        ("thaw/core/base.py", {"first", "second"}),
        ("thaw/core/__init__.py", {"first", "second"}),
        ("thaw/core/below.py", {"second"}),
        ("thaw/page/templates/deep/b.html", {"second"}),
        ("stages/first.py", {"first"}),
        ("thaw/core/public.py", set()),
        ("thaw/core/notes.txt", set()),
    ],
)
def test_an_edit_changes_the_fingerprints_of_the_stages_that_can_import_the_file(
    make: Make, tmp_path: Path, file: str, stages: set[str]
) -> None:
    before = make("a")
    old = {name: before.fingerprint(name) for name in before.stages}
    with (tmp_path / "a" / file).open("a") as handle:
        handle.write("\n")
    assert {name for name in before.stages if before.fingerprint(name).digest != old[name].digest} == stages


def test_a_fingerprint_reads_back_as_it_was_written(make: Make, tmp_path: Path) -> None:
    found = make("a")
    code.write(tmp_path / "out", found, only=["first"])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["first.json"]
    assert Fingerprint.read(tmp_path / "out" / "first.json") == found.fingerprint("first")
    assert list(json.loads((tmp_path / "out" / "first.json").read_text())) == ["stage", "digest", "files"]


def test_the_code_in_memory_is_that_of_this_repository(root: Path) -> None:
    found = code.loaded()
    assert found["thaw.pipeline.code"] == root / "thaw" / "pipeline" / "code.py"
    assert found["thaw"] == root / "thaw" / "__init__.py"
    assert {name.split(".")[0] for name in found} <= {"thaw", "stages"}


@pytest.mark.parametrize(
    "line", ["", "thaw-vision>=0.1", "# thaw-vision==0.1.0", "thaw-visions==9", "torch==2.14.1"], ids=repr
)
def test_requirements_without_a_pin_of_thaw_ask_for_no_version(tmp_path: Path, line: str) -> None:
    (tmp_path / "requirements.txt").write_text(f"{line}\n")
    code.check_version(tmp_path / "requirements.txt")


@pytest.mark.parametrize("line", ["thaw-vision==0.1.0", "Thaw-Vision[train,onnx] == 0.1.0  # ours"])
@pytest.mark.parametrize("installed", ["0.1.0", "0.2.0", "0.1.0.post1"])
def test_a_pin_of_thaw_must_be_the_version_that_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, installed: str
) -> None:
    metadata = tmp_path / f"thaw_vision-{installed}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: thaw-vision\nVersion: {installed}\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "requirements.txt"
    path.write_text(f"pillow==13.0.0\n{line}\n")
    if installed == "0.1.0":
        code.check_version(path)
        return
    with pytest.raises(RunError, match=f"pins thaw-vision==0.1.0, and {installed} is installed; run `pip install -r "):
        code.check_version(path)
