"""The commands, as a user types them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from tests import tiny
from thaw.cli import app, run_command


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> "Command":
    monkeypatch.setenv("COLUMNS", "200")
    return Command(capsys)


class Command:
    """Runs `python -m thaw ...` in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *arguments: str | Path) -> tuple[int, str, str]:
        """Return the exit code, what was printed, and what was printed to stderr."""
        with pytest.raises(SystemExit) as left:
            run_command(lambda: app([str(argument) for argument in arguments]))
        out, err = self.capsys.readouterr()
        return int(left.value.code or 0), out, err


@pytest.fixture
def data_set(workspace: Path, params_text: str) -> Path:
    """A folder of twelve images in three classes, and a params.yaml of one phase for them."""
    for index, pixels in enumerate(tiny.pixels(12)):
        path = workspace / "raw" / tiny.CLASSES[index % 3] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    tree = yaml.safe_load(params_text)
    tree["data"]["raw"], tree["backbone"] = "raw", {"source": "timm:test_resnet", "sha256": None, "input_px": 64}
    top = tree["unfreeze"]["phases"]["top"] | {"depth": 2, "lr": 0.0004, "lr_scale": 0.5}
    tree["unfreeze"]["phases"] = {"top": top}
    (workspace / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    return workspace


def edit(folder: Path, pattern: str, replacement: str) -> None:
    path = folder / "params.yaml"
    text, count = re.subn(pattern, replacement, path.read_text(), count=1)
    assert count == 1
    path.write_text(text)


def test_check_says_what_is_valid(command: Command, workspace: Path) -> None:
    code, out, _ = command("check")
    assert code == 0
    assert out.startswith("params.yaml is valid: ")
    assert "phases top" in out


def test_check_lists_every_mistake_and_fails(command: Command, workspace: Path) -> None:
    edit(workspace, "seed: 0", "seed: -1")
    edit(workspace, "test_fraction: 0.25", "size_px: 1")
    code, out, err = command("check")
    assert (code, out) == (1, "")
    assert [line.split(" is ")[0] for line in err.splitlines()] == ["params.yaml: seed", "params.yaml: prepare.size_px"]


def test_check_of_another_file_names_it(command: Command, workspace: Path) -> None:
    (workspace / "params.yaml").rename(workspace / "other.yaml")
    assert command("check", "other.yaml")[0] == 0
    code, _, err = command("check")
    assert code == 1
    assert err.startswith("params.yaml")
    assert len(err.splitlines()) == 1


def test_the_module_is_a_command_and_needs_no_torch_to_check(root: Path) -> None:
    script = (
        "import sys; sys.argv = ['thaw', 'check']; import runpy\n"
        "try: runpy.run_module('thaw', run_name='__main__')\n"
        "finally: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "params.yaml is valid" in done.stdout
    assert done.stdout.splitlines()[-1] == "False"


def test_blocks_are_listed_input_first_with_their_parameters_and_activations(command: Command) -> None:
    code, out, _ = command("blocks", "timm:test_resnet")
    assert code == 0
    assert "timm:test_resnet: 6 blocks, 96 features, 160 px" in out
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    assert [row[1] for row in rows] == ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4"]
    assert [row[0] for row in rows] == ["6", "5", "4", "3", "2", "1"]
    total = sum(parameter.numel() for parameter in tiny.backbone().module.parameters())
    assert sum(int(row[2].replace(",", "")) for row in rows) == total
    assert rows[0][3:] == ["3x160x160", "150"]


def test_blocks_of_params_yaml_are_the_default(command: Command, workspace: Path) -> None:
    code, out, _ = command("blocks")
    assert code == 0
    assert "package:efficientnet_lite0: 9 blocks, 1280 features, 224 px" in out


def test_blocks_of_a_misspelt_source_are_one_line_with_the_nearest_names(command: Command) -> None:
    code, out, err = command("blocks", "timm:test_resnt")
    assert (code, out) == (1, "")
    assert err.startswith("timm has no model 'test_resnt'; the nearest are test_resnet")
    assert len(err.splitlines()) == 1


def test_plan_shows_each_phase_with_the_rate_of_each_block(command: Command, data_set: Path) -> None:
    code, out, err = command("plan")
    assert code == 0, err
    assert out.startswith("top: from head")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    assert [row[0] for row in rows] == ["head", "layer4", "layer3", "layer2", "layer1", "bn1", "conv1"]
    assert [row[2] for row in rows] == ["0.0004", "0.0002", "0.0001", "frozen", "frozen", "frozen", "frozen"]
    assert "lowest rate 0.25 of the head's" in " ".join(out.split())
    assert "of 9 images" in " ".join(out.split())


def test_plan_says_that_a_rate_is_found_in_the_run_and_its_share_in_each_block(
    command: Command, data_set: Path
) -> None:
    edit(data_set, "lr: 0.0004", "lr: auto")
    code, out, err = command("plan")
    assert code == 0, err
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    assert [row[2] for row in rows[:4]] == ["auto", "auto x 0.5", "auto x 0.25", "frozen"]
    assert "lowest rate 0.25 of the head's; auto: found by a range test before the first step" in " ".join(out.split())
    edit(data_set, "depth: 2", "depth: [{pattern: '*bn*', lr: 0.002}]")
    edit(data_set, "lr_scale: 0.5", "lr_scale: 1.0")
    code, out, err = command("plan")
    assert code == 0, err
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    assert [row[2] for row in rows] == ["auto", "0.002", "frozen"]


def test_plan_refuses_cutmix_where_the_cut_leaves_tokens(command: Command, data_set: Path) -> None:
    edit(data_set, "timm:test_resnet", "timm:test_vit")
    edit(data_set, "input_px: 64", "input_px: 160")
    edit(data_set, "depth: 2", "depth: 2\n      cutmix: 1.0")
    edit(data_set, "norm: train", "norm: frozen")
    code, out, err = command("plan")
    assert (code, out) == (1, "")
    assert err.startswith("params.yaml: unfreeze.phases.top.cutmix needs rows and columns to cut a box from")


def test_plan_counts_the_hidden_layers_of_the_head(command: Command, data_set: Path) -> None:
    edit(data_set, r"hidden: \[\]", "hidden: [10]")
    code, out, err = command("plan")
    assert code == 0, err
    (head,) = [line.split("│")[2].strip() for line in out.splitlines() if line.startswith("│ head")]
    assert head == f"{(96 + 1) * 10 + (10 + 1) * 3:,}"


def test_plan_of_a_data_set_that_is_not_there_is_one_line(command: Command, workspace: Path) -> None:
    for key in ("raw", "labels"):
        edit(workspace, rf"{key}: \S+", f"{key}: nowhere")
    code, _, err = command("plan")
    assert code == 1
    assert err == "params.yaml: data.raw is nowhere, which does not exist; give a folder of classes or a CSV\n"


def test_plan_of_a_depth_that_is_not_there_is_one_line(command: Command, data_set: Path) -> None:
    edit(data_set, r"depth: \d+", "depth: 50")
    code, _, err = command("plan")
    assert code == 1
    assert err == "depth is 50; test_resnet has 6 blocks: give 0 to 6, or all\n"


def test_help_names_every_command(command: Command) -> None:
    code, out, _ = command("--help")
    assert code == 0
    assert all(name in out for name in ("setup", "check", "plan", "blocks", "predict", "summary"))
