"""A model from somebody else is data: whichever door it comes in by, the Python that it names does not run."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file
from typer.testing import CliRunner

from stages import backbone as stage
from tests import tiny
from thaw.cli import app
from thaw.config.reader import read_tree
from thaw.errors import BackboneError, ThawError
from thaw.networks.backbone import load_backbone
from thaw.networks.sources.opening import describe, fetch_tensors, open_backbone, random_tensors
from thaw.pipeline import artifacts, facts
from thaw.project.layout import Wish, new_project
from thaw.training.model import load, load_phase

_CODE = """
from pathlib import Path

import torch
from torch import nn

Path(__file__).with_name("canary").touch()


def net():
    Path(__file__).with_name("canary").touch()
    torch.manual_seed(9)
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU())
    return nn.Sequential(stem, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
"""
_NAMED = "parents.cars.evil:net"


def forget_module() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "parents"]:
        del sys.modules[name]


@pytest.fixture
def cars(workspace: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Somebody's models/final and models/backbone in one, in the current folder, with a module that it names."""
    folder = workspace / "parents" / "cars"
    monkeypatch.syspath_prepend(workspace)
    folder.mkdir(parents=True)
    (folder / "evil.py").write_text(_CODE)
    network = open_backbone(f"python:{_NAMED}")
    (folder / "canary").unlink()
    forget_module()
    head = {"head.weight": torch.zeros(3, network.num_features), "head.bias": torch.zeros(3)}
    tensors = {f"backbone.{name}": value.contiguous() for name, value in network.module.state_dict().items()}
    model = tiny.model_facts(network.spec, blocks=network.blocks, cut=len(network.blocks))
    for path, stored in ((folder, model), (workspace / "models" / "backbone", tiny.backbone_facts(network))):
        with artifacts.new_folder(path) as new:
            named = tensors | head if path == folder else network.module.state_dict()
            save_file({name: value.contiguous() for name, value in named.items()}, new / "weights.safetensors")
            facts.write(new / "model.json", stored)
            (new / "evil.py").write_text(_CODE)
    yield folder
    forget_module()


def with_backbone(workspace: Path, **settings: object) -> None:
    tree = read_tree(workspace / "params.yaml")
    tree["backbone"] = settings
    (workspace / "params.yaml").write_text(yaml.safe_dump(tree))


def run_stage() -> None:
    with_backbone(Path.cwd(), source="model:parents/cars")
    stage.main()


DOORS: dict[str, Callable[[], object]] = {
    "thaw.load": lambda: load("parents/cars"),
    "a phase": lambda: load_phase(Path("parents/cars"), Path("models/backbone")),
    "models/backbone": lambda: load_backbone(Path("models/backbone"), in_channels=3),
    "its description": lambda: describe("model:parents/cars"),
    "its weights": lambda: fetch_tensors("model:parents/cars", sha256=None),
    "open_backbone": lambda: open_backbone("model:parents/cars"),
    "without its weights": lambda: open_backbone("model:parents/cars", pretrained=False),
    "random weights": lambda: random_tensors("model:parents/cars"),
    "the stage backbone": run_stage,
    "thaw new": lambda: new_project(Wish(Path("demo"), backbone="model:parents/cars")),
}


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
def test_python_that_a_folder_names_is_not_run(cars: Path, door: Callable[[], object]) -> None:
    line = rf"model\.json names python:{_NAMED}, which is code that .*/params\.yaml does not name, so it was not run"
    with pytest.raises(BackboneError, match=line) as caught:
        door()
    assert "\n" not in str(caught.value)
    assert not list(Path.cwd().rglob("canary"))


def test_no_command_runs_it_either(cars: Path) -> None:
    with_backbone(Path.cwd(), source="model:parents/cars")
    for words in (["blocks"], ["blocks", "model:parents/cars"], ["plan"], ["predict", "--model", "parents/cars", "x"]):
        done = CliRunner().invoke(app, words)
        assert isinstance(done.exception, ThawError), words
    assert not list(Path.cwd().rglob("canary"))


@pytest.mark.parametrize(
    "settings",
    [{"source": f"python:{_NAMED}"}, {"source": "model:parents/cars", "python": _NAMED}],
    ids=["the source", "beside a model"],
)
def test_it_runs_where_params_yaml_names_the_same_callable(cars: Path, settings: dict[str, object]) -> None:
    with_backbone(Path.cwd(), **settings)
    assert load("parents/cars").backbone.spec.name == _NAMED
    assert (cars / "canary").exists()


def test_the_params_of_another_project_count_where_the_caller_names_it(cars: Path, tmp_path: Path) -> None:
    project = tmp_path / "rust"
    project.mkdir()
    with_backbone(tmp_path, source=f"python:{_NAMED}")
    Path("params.yaml").rename(project / "params.yaml")
    with pytest.raises(BackboneError, match="so it was not run"):
        load("parents/cars")
    assert load("parents/cars", project=project).backbone.spec.name == _NAMED


@pytest.mark.parametrize("python", ["parents.cars.evil:main", "other:net", None])
def test_another_callable_opens_nothing(cars: Path, python: str | None) -> None:
    with_backbone(Path.cwd(), source="model:parents/cars", python=python)
    with pytest.raises(BackboneError, match="so it was not run"):
        load("parents/cars")
    assert not (cars / "canary").exists()


def test_a_callable_beside_a_source_that_calls_none_is_a_setting_without_effect(cars: Path) -> None:
    with_backbone(Path.cwd(), source="timm:resnet18", python=_NAMED)
    done = CliRunner().invoke(app, ["check"])
    assert str(done.exception) == (
        f'params.yaml: backbone.python is "{_NAMED}", which only a model: source calls, and backbone.source is '
        '"timm:resnet18"; set it to null'
    )
