"""Rows 16 to 18 of the fault list: weights, cached activations and restored objects that are not what they say."""

import re
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from tests import tiny
from tests.faults.rows import accepted, flip_a_bit, recovers, refused
from tests.faults.test_weights import Canary
from tests.pipeline.clone import Clone, stages_run
from tests.pipeline.fixtures import MEMORY_BYTES, Run
from thaw.pipeline import artifacts
from thaw.pipeline.artifacts import MANIFEST

Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def weighed(finished: Run, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A copy of the finished clone to which each test brings weights under a name of their own."""
    clone = finished.clone.copy(tmp_path_factory.mktemp("weights") / "thaw")
    return replace(clone, memory_bytes=MEMORY_BYTES)


def _canary(path: Path, weights: Weights) -> None:
    torch.save(weights | {"b": Canary(path.with_name("canary"))}, path)


def _zip_bomb(path: Path, weights: Weights) -> None:
    plain = path.with_name("plain.pth")
    torch.save(weights | {"b": torch.zeros(2_000_000)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))


def _lying_header(path: Path, weights: Weights) -> None:
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path)
    data = path.read_bytes()
    path.write_bytes((2**40).to_bytes(8, "little") + data[8:])


def _nan(path: Path, weights: Weights) -> None:
    torch.save(weights | {"conv1.0.weight": torch.full_like(weights["conv1.0.weight"], torch.nan)}, path)


def _other_shape(path: Path, weights: Weights) -> None:
    torch.save(weights | {"conv1.0.weight": weights["conv1.0.weight"][:3]}, path)


def _page(path: Path, weights: Weights) -> None:
    path.write_text("<!DOCTYPE html><html><body>404 Not Found</body></html>")


@pytest.mark.parametrize(
    ("name", "make", "line"),
    [
        (
            "canary.pth",
            _canary,
            "{path} would call posix.mkdir when it is opened, so it was not opened; weights need no such call",
        ),
        ("bomb.pth", _zip_bomb, "{path} is compressed, "),
        ("header.safetensors", _lying_header, "{path} is not a whole safetensors file ("),
        ("nan.pth", _nan, "the weights of file:{name} hold NaN or infinity in conv1.0.weight; bring them again"),
        (
            "shape.pth",
            _other_shape,
            "the weights of file:{name} are not those of test_resnet: conv1.0.weight has shape",
        ),
        ("page.pth", _page, "{path} is no file of torch or safetensors: it begins with b'<!DOCTYP'; bring it again"),
    ],
)
def test_row_16_what_are_no_weights_is_refused_and_runs_no_code(
    weighed: Clone, name: str, make: Callable[[Path, Weights], None], line: str
) -> None:
    path = Path("weights", name)
    (weighed.root / "weights").mkdir(exist_ok=True)
    make(weighed.root / path, dict(tiny.backbone().module.state_dict()))
    weighed.update({"backbone.source": f"file:{path}@timm:test_resnet", "backbone.sha256": None})
    refused(
        weighed, "dvc", "repro", "backbone", says=line.format(path=path, name=name), lacks="models/backbone"
    )  # fmt: skip
    assert not (weighed.root / "weights" / "canary").exists()


def test_row_16_weights_whose_hash_only_begins_as_asked_are_refused_and_the_right_hash_recovers(
    finished: Run, weighed: Clone
) -> None:
    facts = artifacts.read_json(finished.clone.root / "models" / "backbone" / "model.json")
    sha256 = facts["backbone"]["sha256"]
    weighed.update({"backbone.source": "package:efficientnet_lite0", "backbone.sha256": sha256[:16] + "0" * 48})
    line = f"the weights of package:efficientnet_lite0 have SHA-256 {sha256}, but backbone.sha256 is {sha256[:16]}000"
    refused(weighed, "dvc", "repro", "backbone", says=line, lacks="models/backbone")
    (weighed.root / "params.yaml").write_bytes((finished.clone.root / "params.yaml").read_bytes())
    recovers(weighed, finished, "backbone")


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _drop_a_row(path: Path) -> None:
    np.save(path, np.load(path)[:-1])


def _spoil_a_row(path: Path) -> None:
    values = np.load(path)
    values[3] = np.nan
    np.save(path, values)


def test_row_17_views_that_are_damaged_or_under_another_key_are_built_again(finished: Run, copy: Clone) -> None:
    cache = copy.root / ".thaw" / "cache"
    views = sorted(path.parent for path in cache.glob("*/000.npy"))
    damage = [_truncate, flip_a_bit, _drop_a_row, _spoil_a_row]
    assert len(views) >= len(damage)
    for number, view in enumerate(views):
        damage[number % len(damage)](view / "000.npy")
    stale = cache / ("0" * 64)
    views[-1].rename(stale)
    before = (stale / MANIFEST).read_bytes()
    copy.forget("unfreeze@top")
    output = accepted(copy, "dvc", "repro", "unfreeze@top")
    assert re.search(r"^top: activations: (\d+) of \1 views computed and cached", output, re.MULTILINE), output
    assert (stale / MANIFEST).read_bytes() == before, "it was not read"
    assert copy.hashes() == finished.clone.hashes()
    assert copy.lock() == finished.clone.lock()


def _cached(clone: Clone, md5: str) -> Path:
    return clone.root / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]


def test_row_18_a_flipped_bit_in_the_cache_of_dvc_is_named_and_what_the_message_says_mends_it(
    finished: Run, copy: Clone
) -> None:
    listing = _cached(copy, copy.lock()["prepare"]["outs"][0]["md5"])
    entries = yaml.safe_load(listing.read_text(encoding="utf-8"))
    flip_a_bit(_cached(copy, next(entry["md5"] for entry in entries if entry["relpath"].startswith("images"))))
    artifacts.remove(copy.root / "data" / "prepared")
    copy.succeed("dvc", "checkout", "dvc.yaml")
    says = "data/prepared/images-00000.npy is not what its manifest says"
    command = ("dvc", "repro", "--force", "--single-item", "features")
    (line,) = (
        line for line in refused(copy, *command, says=says, lacks="data/features") if line.startswith(says)
    )  # fmt: skip
    first, last = re.findall("`([^`]+)`", line)
    copy.succeed(*first.split())
    artifacts.remove(copy.root / re.findall(r"delete (\S+),", line)[0])
    output = accepted(copy, *last.split())
    assert stages_run(output) == ["prepare"]
    assert copy.hashes() == finished.clone.hashes()
