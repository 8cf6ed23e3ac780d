"""What a stage imports is what its fingerprint lists, and packages import only from those below them."""

import json
import re
import subprocess
import sys

import pytest

from tests.contract import layers_page, repository
from tests.contract.layers_page import LAYERS
from thaw.pipeline import code

STAGES = sorted(repository.dvc_stages())
CORE = {f"thaw.{name}" for name in layers_page.CORE}
_KNOW_DVC = ("thaw.pipeline.revisions", "thaw.pipeline.storage")
TOP = {f"thaw.{name}" for name in layers_page.TOP}

# Import every stage in a child of its own, and report what of ours was loaded. The slow libraries are loaded once.
_LOADED = """
import importlib, json, os, sys
import torch, torchvision, timm, pandas, sklearn, pydantic
for name in sys.argv[1:]:
    if os.fork() == 0:
        importlib.import_module(f"stages.{name}")
        print(json.dumps([name, sorted(m for m in sys.modules if m.split(".")[0] in ("thaw", "stages"))]), flush=True)
        os._exit(0)
    if os.wait()[1]:
        sys.exit(f"stages.{name} cannot be imported")
"""


@pytest.mark.parametrize("name", [name for name in STAGES if name != code.STAGE])
def test_a_stage_depends_on_its_own_fingerprint_and_on_no_source_file(name: str) -> None:
    stage = repository.dvc_stages()[name]
    assert stage.code == {code.path_of(name).as_posix()}
    assert not [dep for dep in stage.deps if dep.split("/")[0] in code.PACKAGES]


def test_the_first_stage_depends_on_all_code_and_the_requirements_and_writes_the_fingerprints() -> None:
    stage = repository.dvc_stages()[code.STAGE]
    assert stage.deps == {*code.PACKAGES, "requirements.txt"}
    assert stage.outs == {code.FOLDER.as_posix()}
    assert repository.CODE.stages == [name for name in STAGES if name != code.STAGE]


def test_dvc_yaml_is_short() -> None:
    assert (repository.ROOT / "dvc.yaml").read_text(encoding="utf-8").count("\n") <= 160


def test_every_data_file_beside_the_code_belongs_to_a_module() -> None:
    found = {path for name in repository.CODE.modules for path in repository.CODE.closure(name).values()}
    files = [path for package in code.PACKAGES for path in (repository.ROOT / package).rglob("*") if path.is_file()]
    laid_out = repository.ROOT / "thaw" / "template"  # copied into new projects, read by no stage
    data = {
        path
        for path in files
        if path.suffix not in {".py", ".pyc"} and path.name != "py.typed" and not path.is_relative_to(laid_out)
    }
    assert data
    assert not sorted(data - found), "an edit there would rerun no stage"


def test_no_stage_loads_a_module_that_its_static_closure_lacks() -> None:
    command = [sys.executable, "-W", "ignore", "-c", _LOADED, *STAGES]
    done = subprocess.run(command, cwd=repository.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = dict(json.loads(line) for line in done.stdout.splitlines())
    assert sorted(loaded) == STAGES
    for name, modules in loaded.items():
        paths = {repository.CODE.modules[module] for module in modules}
        closure = set(repository.CODE.closure(f"stages.{name}").values())
        assert paths <= closure, f"{name} loads more than its imports show"


@pytest.mark.parametrize(
    ("name", "libraries"),
    [
        ("code", ("torch", "numpy", "pandas", "sklearn", "onnxruntime")),
        ("prepare", ("torch", "sklearn", "onnxruntime")),
        ("select", ("torch", "sklearn", "onnxruntime")),
        ("head", ("torchvision", "timm", "onnx", "onnxruntime")),
        ("unfreeze", ("onnx", "onnxscript", "onnx2pytorch")),
    ],
)
def test_a_stage_does_not_wait_for_libraries_that_it_has_no_use_for(name: str, libraries: tuple[str, ...]) -> None:
    script = f"import sys, stages.{name}; print(*(set({libraries}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=repository.ROOT, capture_output=True, text=True, check=True
    )
    assert not done.stdout.split()


def test_every_stage_file_is_a_stage_of_some_dvc_yaml() -> None:
    files = {path.stem for path in (repository.ROOT / "stages").glob("*.py")} - {"__init__"}
    assert files == set(STAGES)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_package_imports_only_from_the_core_and_from_packages_below_it(layer: str) -> None:
    allowed = {"thaw", *CORE, *(f"thaw.{lower}" for lower in LAYERS[: LAYERS.index(layer) + 1])}
    for module in [name for name in repository.CODE.modules if name.split(".")[:2] == ["thaw", layer]]:
        foreign = {
            other
            for other in repository.CODE.imports(module, typing_only=True)
            if other.split(".")[0] in code.PACKAGES and ".".join(other.split(".")[:2]) not in allowed
        }
        assert not foreign, f"{module} may not import {sorted(foreign)}"


def test_the_core_imports_nothing_above_itself() -> None:
    for module in CORE & repository.CODE.modules.keys():
        ours = {
            name for name in repository.CODE.imports(module, typing_only=True) if name.split(".")[0] in code.PACKAGES
        }
        assert ours <= CORE | {"thaw"}, f"{module} imports {sorted(ours - CORE)}"


def test_every_module_has_a_place_in_the_layers() -> None:
    placed = CORE | TOP | {"thaw"} | {f"thaw.{layer}" for layer in LAYERS}
    homeless = [name for name in repository.CODE.modules if name.startswith("thaw") and _floor(name) not in placed]
    assert not homeless, f"say in tests/contract/test_imports.py and docs/design.md where these belong: {homeless}"


def test_the_library_knows_nothing_of_stages_or_the_tests_and_two_modules_that_no_stage_reaches_know_dvc() -> None:
    for module in [name for name in repository.CODE.modules if name.startswith("thaw")]:
        roots = {name.split(".")[0] for name in repository.CODE.imports(module, typing_only=True)}
        foreign = {"stages", "tests", "bench"} if module in _KNOW_DVC else {"stages", "dvc", "tests", "bench"}
        assert not roots & foreign, module
    for name in STAGES:
        reached = set(repository.CODE.closure(f"stages.{name}").values())
        assert not reached & {repository.CODE.modules[module] for module in _KNOW_DVC}, name


def test_the_init_file_of_a_package_imports_nothing() -> None:
    for name in ("thaw", *(f"thaw.{layer}" for layer in LAYERS)):
        ours = repository.CODE.imports(name) & repository.CODE.modules.keys()
        assert not ours, f"{name} imports {sorted(ours)}; every stage would depend on them"


def test_the_init_file_of_thaw_holds_no_version_since_a_release_would_rerun_every_stage() -> None:
    assert not re.search(r"\d+\.\d+", (repository.ROOT / "thaw" / "__init__.py").read_text(encoding="utf-8"))


def _floor(name: str) -> str:
    return ".".join(name.split(".")[:2])


def test_the_page_on_layers_names_every_file_as_it_is() -> None:
    text = layers_page.PAGE.read_text(encoding="utf-8")
    assert text == layers_page.render(text), "run `make docs`"
