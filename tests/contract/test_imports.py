"""What a stage imports is what its deps list, and packages import only from those below them."""

import json
import subprocess
import sys

import pytest

from tests.contract import house

STAGES = sorted(house.dvc_stages())
# The packages of thaw/, each above all that stand before it.
LAYERS = (
    "config", "pipeline", "data", "augment", "networks", "activations", "head", "training", "evaluation", "serving",
    "export", "report",
)  # fmt: skip
CORE = {"thaw.errors", "thaw.memory", "thaw.progress"}
TOP = {"thaw.cli", "thaw.__main__"}

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


@pytest.mark.parametrize("name", STAGES)
def test_the_deps_of_a_stage_are_exactly_the_source_files_it_can_import(name: str) -> None:
    stage = house.dvc_stages()[name]
    expected = house.closure(stage.module)
    missing, needless = sorted(expected - stage.code), sorted(stage.code - expected)
    assert not missing, f"run `make deps`: {name} lacks {missing}"
    assert not needless, f"run `make deps`: {name} does not import {needless}"


def test_no_stage_loads_a_module_that_its_static_closure_lacks() -> None:
    command = [sys.executable, "-W", "ignore", "-c", _LOADED, *STAGES]
    done = subprocess.run(command, cwd=house.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = dict(json.loads(line) for line in done.stdout.splitlines())
    assert sorted(loaded) == STAGES
    for name, modules in loaded.items():
        paths = {house.sources()[module].relative_to(house.ROOT).as_posix() for module in modules}
        assert paths <= house.closure(f"stages.{name}"), f"{name} loads more than its imports show"


@pytest.mark.parametrize(
    ("name", "libraries"),
    [
        ("prepare", ("torch", "sklearn", "onnxruntime")),
        ("select", ("torch", "sklearn", "onnxruntime")),
        ("head", ("torchvision", "timm", "onnx", "onnxruntime")),
        ("unfreeze", ("onnx", "onnxscript", "onnx2pytorch")),
    ],
)
def test_a_stage_does_not_wait_for_libraries_that_it_has_no_use_for(name: str, libraries: tuple[str, ...]) -> None:
    code = f"import sys, stages.{name}; print(*(set({libraries}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=house.ROOT, capture_output=True, text=True, check=True)
    assert not done.stdout.split()


def test_every_stage_file_is_a_stage_of_some_dvc_yaml() -> None:
    files = {path.stem for path in (house.ROOT / "stages").glob("*.py")} - {"__init__"}
    assert files == set(STAGES)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_package_imports_only_from_the_core_and_from_packages_below_it(layer: str) -> None:
    allowed = {"thaw", *CORE, *(f"thaw.{lower}" for lower in LAYERS[: LAYERS.index(layer) + 1])}
    for module in [name for name in house.sources() if name.split(".")[:2] == ["thaw", layer]]:
        foreign = {
            other
            for other in house.imports(module, typing_only=True)
            if other.split(".")[0] in house.OURS and ".".join(other.split(".")[:2]) not in allowed
        }
        assert not foreign, f"{module} may not import {sorted(foreign)}"


def test_the_core_imports_nothing_above_itself() -> None:
    for module in CORE & house.sources().keys():
        ours = {name for name in house.imports(module, typing_only=True) if name.split(".")[0] in house.OURS}
        assert ours <= CORE | {"thaw"}, f"{module} imports {sorted(ours - CORE)}"


def test_every_module_has_a_place_in_the_layers() -> None:
    placed = CORE | TOP | {"thaw"} | {f"thaw.{layer}" for layer in LAYERS}
    homeless = [name for name in house.sources() if name.startswith("thaw") and _floor(name) not in placed]
    assert not homeless, f"say in tests/contract/test_imports.py and docs/design.md where these belong: {homeless}"


def test_the_library_knows_nothing_of_stages_dvc_or_the_tests() -> None:
    for module in [name for name in house.sources() if name.startswith("thaw")]:
        roots = {name.split(".")[0] for name in house.imports(module, typing_only=True)}
        assert not roots & {"stages", "dvc", "tests", "bench"}, module


def test_the_init_file_of_a_package_imports_nothing() -> None:
    for layer in LAYERS:
        ours = house.imports(f"thaw.{layer}") & house.sources().keys()
        assert not ours, f"thaw/{layer}/__init__.py imports {sorted(ours)}; every stage would depend on them"


def _floor(name: str) -> str:
    return ".".join(name.split(".")[:2])
