"""The shipped params fit every architecture: `backbone.source` alone changes, and check, plan and all phases pass."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from PIL import Image

from tests import tiny
from tests.conftest import ROOT
from thaw.config.reader import load_params, read_tree
from thaw.config.schema import Params
from thaw.networks.sources.opening import open_backbone
from thaw.training.parts import Start
from thaw.training.phase import run_phase
from thaw.training.plan import plan_tables

# The norm that `auto` stands for in each, and the number of blocks that 1/3 and 2/3 of them are. timm's networks named
# test_ are real ones of their kind, made small.
_ARCHITECTURES = {
    "timm:test_resnet": ("train", 2, 4),
    "timm:test_convnext": ("frozen", 2, 4),
    "timm:test_vit": ("frozen", 3, 5),
    "timm:test_efficientnet": ("train", 2, 5),
    "timm:test_byobnet": ("train", 2, 3),
    "timm:test_nfnet": ("frozen", 2, 4),
    "timm:lcnet_035": ("train", 3, 5),
    "timm:tinynet_e": ("train", 3, 6),
    "torchvision:mobilenet_v3_small": ("train", 5, 9),
    "torchvision:shufflenet_v2_x0_5": ("train", 2, 3),
}


@pytest.fixture
def raw(workspace: Path, scratch: Path) -> Path:
    """A folder with twelve images in two classes, and the shipped params.yaml."""
    for number, pixels in enumerate(tiny.pixels(12, size_px=64, classes=2)):
        path = workspace / "raw" / tiny.CLASSES[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return workspace


def settings(folder: Path, source: str) -> Params:
    """Return the shipped params for a source: random weights, since tests download nothing, on one thread."""
    tree = read_tree(ROOT / "params.yaml")
    tree["data"] = {"raw": "raw", "labels": "raw"}
    tree["backbone"] |= {"source": source, "pretrained": False}
    tree["compute"] = {"threads": 1, "workers": 0, "frozen_engine": "torch"}
    (folder / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    return load_params()


@pytest.mark.parametrize("source", _ARCHITECTURES)
def test_another_source_alone_passes_check_plan_and_a_run(
    raw: Path, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    norm, *depths = _ARCHITECTURES[source]
    params = settings(raw, source)
    titles = [str(table.title) for table in plan_tables(params)]
    images = tiny.packed(9, size_px=params.prepare.size_px, classes=2)
    start: Start | None = None
    for (name, phase), depth, title in zip(params.unfreeze.phases.items(), depths, titles, strict=True):
        network = replace(open_backbone(source, pretrained=False), fingerprint="weights")
        trained = run_phase(
            name,
            phase,
            images=images,
            backbone=network,
            start=start or tiny.start(network, classes=2),
            augment=params.augment,
            seed=params.seed,
            compute=params.compute,
            on_epoch=lambda _: None,
        )
        assert f"{depth} of {len(network.blocks)} blocks" in title
        assert (trained.model.depth_blocks, trained.model.norm, trained.model.warm_start) == (
            depth,
            norm,
            True,
        )
        assert f"{name}: frozen " in (printed := capsys.readouterr().out)
        assert f"norm {norm}, warm start on" in printed
        start = Start(trained.outcome.tensors, trained.model)


def test_shares_of_the_shipped_params_are_three_and_six_blocks_of_the_default_network() -> None:
    network = open_backbone("package:efficientnet_lite0", pretrained=False)
    depths = [phase.depth for phase in load_params(ROOT / "params.yaml").unfreeze.phases.values()]
    assert [len(network.blocks) - network.cut_index(depth) for depth in depths if not isinstance(depth, list)] == [3, 6]


@pytest.mark.parametrize(
    ("share", "blocks"), [("1/12", 1), ("1/6", 1), ("1/4", 2), ("5/12", 3), ("1/2", 3), ("3/4", 5), ("1/1", 6)]
)
def test_a_share_of_six_blocks_is_rounded_half_up_and_is_at_least_one(share: str, blocks: int) -> None:
    network = tiny.backbone()
    assert len(network.blocks) == 6
    assert network.cut_index(share) == 6 - blocks
