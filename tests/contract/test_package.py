"""The package as it is built and installed: what is in it, and that it works outside the repository and without extras.

The tests install the wheel without its dependencies, so that they need no network; `python -m bench.install` does the
same in fresh environments with dependencies, and measures them.
"""

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from PIL import Image

import thaw
from tests import tiny
from tests.contract import repository
from tests.exports import Twins
from thaw import extras

# Shared with every project that `thaw new` makes; they exist once in the repository, and once more in the wheel.
SHARED = ("stages", "dvc.yaml", "params.yaml", ".dvcignore", ".gitattributes", ".dvc/config", ".dvc/plots")

# Python imports this module when it starts; it makes an import of any library of an extra fail.
_WITHOUT_EXTRAS = """
import sys

LIBRARIES = {libraries}

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in LIBRARIES:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("built")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(repository.ROOT)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    """The wheel."""
    (found,) = built.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def base(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process in which the wheel is installed, and no library of an extra."""
    folder = tmp_path_factory.mktemp("base")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(folder)]
    subprocess.run([*command, str(wheel)], check=True, capture_output=True, timeout=300)
    libraries = {library for names in extras.LIBRARIES.values() for library in names}
    (folder / "sitecustomize.py").write_text(_WITHOUT_EXTRAS.format(libraries=libraries))
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PYTHONPATH": str(folder), "PATH": path, "COLUMNS": "200"}


def run(base: dict[str, str], folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command with the installed wheel, outside the repository."""
    assert not folder.is_relative_to(repository.ROOT)
    return subprocess.run(command, cwd=folder, env=base, capture_output=True, text=True, check=False, timeout=300)


def _tracked(*paths: str) -> set[str]:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *paths]
    listed = subprocess.run(command, cwd=repository.ROOT, check=True, capture_output=True, text=True).stdout
    return {name for name in listed.split("\0") if name and (repository.ROOT / name).exists()}


def test_the_wheel_holds_every_file_of_the_library_and_what_projects_share_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {
            name for name in archive.namelist() if not name.startswith(f"thaw_vision-{thaw.__version__}.dist-info/")
        }
        assert held == _tracked("thaw") | {f"thaw/template/shared/{name}" for name in _tracked(*SHARED)}
        for name in _tracked(*SHARED):
            assert archive.read(f"thaw/template/shared/{name}") == (repository.ROOT / name).read_bytes(), name


def test_the_source_distribution_holds_no_data_models_or_tests(built: Path) -> None:
    (found,) = built.glob("*.tar.gz")
    with tarfile.open(found) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    always = {".gitignore", "CHANGELOG.md", "LICENSE", "PKG-INFO", "README.md", "pyproject.toml"}
    assert held == _tracked("thaw", *SHARED) | always


def test_the_metadata_states_version_licence_pythons_and_extras(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(f"thaw_vision-{thaw.__version__}.dist-info/METADATA").decode()
    found = HeaderParser().parsestr(text)
    assert (found["Name"], found["Version"]) == (thaw.DISTRIBUTION, thaw.__version__)
    assert (found["License-Expression"], found["Requires-Python"]) == ("Apache-2.0", "<3.14,>=3.11")
    assert set(found.get_all("Provides-Extra", [])) == set(extras.LIBRARIES)
    needs = [Requirement(line) for line in found.get_all("Requires-Dist", [])]
    assert "onnxruntime" in {need.name for need in needs if need.marker is None}
    assert "torch" not in {need.name for need in needs if need.marker is None}


def test_the_changelog_has_an_entry_for_the_version() -> None:
    assert f"\n## {thaw.__version__}" in (repository.ROOT / "CHANGELOG.md").read_text(encoding="utf-8").replace("[", "")


def test_the_installed_command_states_its_version_and_all_commands(base: dict[str, str], tmp_path: Path) -> None:
    for command in (["thaw"], [sys.executable, "-m", "thaw"]):
        assert run(base, tmp_path, *command, "--version").stdout == f"thaw {thaw.__version__}\n"
    helps = [run(base, tmp_path, *command, "--help").stdout for command in (["thaw"], [sys.executable, "-m", "thaw"])]
    assert helps[0].replace("Usage: thaw", "Usage: python -m thaw").split() == helps[1].split()
    assert all(
        name in helps[0]
        for name in (
            "new",
            "update",
            "setup",
            "check",
            "plan",
            "blocks",
            "predict",
            "serve",
            "summary",
            "data",
            "compare",
            "ci",
            "--version",
        )
    )


def test_the_base_answers_and_explains_without_any_library_of_an_extra(
    base: dict[str, str], tmp_path: Path, twins: Twins
) -> None:
    Image.fromarray(tiny.pixels(1)[0]).save(tmp_path / "a.png")
    done = run(base, tmp_path, "thaw", "predict", "a.png", "--model", str(twins.exported), "--explain", "why")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("path,class,probability,")
    (row,) = done.stdout.splitlines()[1:]
    with Image.open(tmp_path / row.rpartition(",")[2]) as overlay:
        assert overlay.mode == "RGB"
    script = (
        "import json, sys, thaw; model = thaw.load_exported(sys.argv[1]); print(thaw.__file__); "
        "print(json.dumps(model.probabilities(model.read('a.png')[None])[0].tolist()))"
    )
    file, answer = run(base, tmp_path, sys.executable, "-c", script, str(twins.exported)).stdout.splitlines()
    assert Path(file).is_relative_to(base["PYTHONPATH"])
    expected = thaw.load(twins.final).predict([tmp_path / "a.png"])[0]
    assert json.loads(answer) == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (["plan"], "train"),
        (["blocks", "timm:test_resnet"], "train"),
        (["serve", "--model", "MODEL"], "serve"),
        (["predict", "a.png", "--model", "MODEL", "--output", "a.parquet"], "parquet"),
    ],
)
def test_a_command_without_its_extra_names_it_in_one_line(
    base: dict[str, str], tmp_path: Path, twins: Twins, words: list[str], extra: str
) -> None:
    (tmp_path / "params.yaml").write_bytes((repository.ROOT / "params.yaml").read_bytes())
    Image.fromarray(tiny.pixels(1)[0]).save(tmp_path / "a.png")
    given = [str(twins.exported) if word == "MODEL" else word for word in words]
    done = run(base, tmp_path, "thaw", *given)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    library, _, rest = line.partition(" is not installed; ")
    assert library in extras.LIBRARIES[extra]
    assert rest == f"run `pip install 'thaw-vision[{extra}]'`, in a clone of Thaw `make install`"
    assert not (tmp_path / "a.parquet").exists()


@pytest.mark.parametrize("name", ["load", "open_backbone"])
def test_a_public_name_without_its_extra_is_an_import_error_that_names_it(
    base: dict[str, str], tmp_path: Path, name: str
) -> None:
    done = run(base, tmp_path, sys.executable, "-c", f"from thaw import {name}")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("thaw.errors.MissingLibraryError: ")
    assert "pip install 'thaw-vision[train]'" in last
    caught = f"try: from thaw import {name}\nexcept ImportError as error: print(type(error).__name__)"
    assert run(base, tmp_path, sys.executable, "-c", caught).stdout == "MissingLibraryError\n"


def test_in_a_clone_the_clones_code_runs_even_where_another_thaw_is_installed(base: dict[str, str]) -> None:
    command = [sys.executable, "-c", "import thaw; print(thaw.__file__)"]  # the current folder is first, as with `-m`
    done = subprocess.run(command, cwd=repository.ROOT, env=base, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == repository.ROOT / "thaw" / "__init__.py"
