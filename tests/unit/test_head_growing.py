"""New classes join a classifier: what it knew stays, by name, and what it did not know is learned from means."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tests import tiny
from thaw.config.schema import HeadParams
from thaw.errors import BackboneError, ParamsError, TrainingError
from thaw.head import growing
from thaw.head.examples import FeatureSet
from thaw.head.features import Features
from thaw.head.fit import fit_head
from thaw.head.growing import grow, report_on
from thaw.head.layers import CosineHead
from thaw.head.linear import fit_linear, linear_module
from thaw.networks.sources import model as parents
from thaw.pipeline import artifacts, facts
from thaw.pipeline.model_facts import Grown, Parent

CENTRES = {"car": (4.0, 0.0, 0.0), "truck": (0.0, 4.0, 0.0), "bus": (0.0, 0.0, 4.0)}


def features(classes: list[str], *, parent: str | None = None, each: int = 30) -> Features:
    """Return clouds of points around each class's centre."""
    generator = np.random.default_rng(len(classes))

    def cloud() -> FeatureSet:
        points = np.concatenate([generator.normal(CENTRES[name], 1, (each, 3)) for name in classes])
        labels = np.repeat(np.arange(len(classes)), each)
        return FeatureSet(points.astype(np.float32), labels, np.ones(len(labels)))

    before = None if parent is None else Parent(model=parent, classes=classes, data="images")
    val, rows = cloud(), np.arange(2 * each * len(classes))
    return Features(
        cloud(), rows[len(val.labels) :], val, rows[: len(val.labels)], np.zeros(len(val.labels), np.int64),
        tiny.features_facts(classes, parent=before),
    )  # fmt: skip


def grown_of(source: str, data: Features, *, kind: str = "linear") -> tuple[nn.Module, Grown]:
    """Return the head that grew, and what became of the one before."""
    growth = grow(source, data, kind=kind)
    then, now = data.val_answers(growth.before), data.val_answers(growth.head)
    return growth.head, report_on(growth, data.facts.classes, data.val_labels(), then, now)


def model(
    folder: Path, classes: list[str], *, hidden: list[int] | None = None, kind: str | None = None
) -> tuple[str, str]:
    """Write a model with a fitted head for these classes; return its source and fingerprint."""
    data = features(classes)
    asked: dict[str, Any] = {"hidden": hidden or [], "dropout": 0.0}
    if kind == "cosine":
        params = HeadParams.model_validate({**asked, "kind": kind, "lr": 0.05, "epochs": 20})
        head = fit_head(params, data, seed=0).head
        asked["kind"] = kind
    else:  # as a model says that was made before there were kinds
        head = linear_module(fit_linear(data.train, len(classes)))
    with artifacts.new_folder(folder) as new:
        save_file({f"head.{name}": value for name, value in head.state_dict().items()}, new / "weights.safetensors")
        facts.write(new / "model.json", tiny.model_facts(classes=classes, head=asked))
    return f"model:{folder}", artifacts.verify(folder)


def test_known_classes_keep_their_rows_by_name_and_a_new_one_is_recognised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, fingerprint = model(tmp_path / "cars", ["truck", "car"])
    data = features(["bus", "car", "truck"], parent=fingerprint)
    head, grown = grown_of(source, data)
    weight = load_file(tmp_path / "cars" / "weights.safetensors")["head.weight"]
    between = weight[1] - weight[0]  # car minus truck
    assert isinstance(head, nn.Linear)
    torch.testing.assert_close(head.weight[1] - head.weight[2], between)
    assert (grown.kept, grown.new, grown.dropped) == (["car", "truck"], ["bus"], [])
    assert "kept car, truck, new bus; of 60 validation images of known classes" in capsys.readouterr().out
    assert grown.images_of_kept == 60
    assert grown.accuracy_before > 0.9
    assert grown.accuracy_after > grown.accuracy_before - 0.05
    assert list(grown.recalls) == ["car", "truck"], "the new class was not known"
    for when in ("before", "after"):
        shares = [recall.images * getattr(recall, when) for recall in grown.recalls.values()]
        assert sum(shares) / 60 == pytest.approx(getattr(grown, f"accuracy_{when}"))
    answers = data.val_answers(head).argmax(axis=1)
    assert (answers == data.val_labels())[data.val_labels() == 0].mean() > 0.8


def test_a_class_that_is_gone_is_dropped_and_told(tmp_path: Path) -> None:
    source, fingerprint = model(tmp_path / "m", ["bus", "car", "truck"])
    head, grown = grown_of(source, features(["car", "truck"], parent=fingerprint))
    assert isinstance(head, nn.Linear)
    assert head.out_features == 2
    assert grown.dropped == ["bus"]


def test_a_head_that_cannot_grow_says_what_to_do(tmp_path: Path) -> None:
    source, fingerprint = model(tmp_path / "m", ["car", "truck"])
    with pytest.raises(ParamsError, match=r"the backbone is not that model's, .* set backbone.source to model:"):
        grow(source, features(["car", "bus"], parent="another"))
    with pytest.raises(ParamsError, match=r"which knows car, truck, and none of the data's classes: bus; set it"):
        grow(source, features(["bus"], parent=fingerprint))
    narrow = features(["car", "bus"], parent=fingerprint)
    narrow = replace(narrow, train=replace(narrow.train, features=narrow.train.features[:, :2]))
    with pytest.raises(ParamsError, match=r"whose head sees 3 features; here there are 2; set backbone.taps, backbone"):
        grow(source, narrow)
    deep, fingerprint = model(tmp_path / "deep", ["car", "truck"], hidden=[8])
    with pytest.raises(ParamsError, match="whose head has hidden layers; only a linear or a cosine one grows"):
        grow(deep, features(["car", "bus"], parent=fingerprint))
    source, fingerprint = model(tmp_path / "angles", ["car", "truck"], kind="cosine")
    with pytest.raises(ParamsError, match=r"whose head is of kind cosine, and here it is linear; set head.kind to cos"):
        grow(source, features(["car", "bus"], parent=fingerprint))
    with pytest.raises(BackboneError, match="nowhere: there is no such folder; give a copy of a run's models/final"):
        grow(f"model:{tmp_path / 'nowhere'}", features(["car", "bus"], parent=fingerprint))
    empty = features(["car", "bus"], parent=fingerprint)
    empty = replace(empty, train=replace(empty.train, labels=np.zeros_like(empty.train.labels)))
    with pytest.raises(TrainingError, match="1 of 2 classes have no training image"):
        grow(source, empty, kind="cosine")


def test_a_cosine_head_keeps_directions_by_name_and_a_new_one_is_imprinted(tmp_path: Path) -> None:
    source, fingerprint = model(tmp_path / "m", ["truck", "car"], kind="cosine")
    data = features(["bus", "car", "truck"], parent=fingerprint)
    head, grown = grown_of(source, data, kind="cosine")
    before = load_file(tmp_path / "m" / "weights.safetensors")
    assert isinstance(head, CosineHead)
    assert torch.equal(head.weight[1:], before["head.weight"].flip(0))
    assert torch.equal(head.log_scale, before["head.log_scale"])
    points = data.train.features[data.train.labels == 0].astype(np.float64)
    mean = (points / np.linalg.norm(points, axis=1, keepdims=True)).mean(axis=0)
    new = head.weight.detach()[0].double().numpy()
    np.testing.assert_allclose(new / np.linalg.norm(new), mean / np.linalg.norm(mean), atol=1e-6)
    assert np.linalg.norm(new) == pytest.approx(float(before["head.weight"].norm(dim=1).mean()), rel=1e-5)
    assert grown.new == ["bus"]
    assert min(grown.accuracy_before, grown.accuracy_after) > 0.9
    answers = data.val_answers(head).argmax(axis=1)
    assert (answers == data.val_labels())[data.val_labels() == 0].mean() > 0.8


def test_a_head_grows_from_a_model_that_was_brought_from_where_dvc_has_it(tmp_path: Path, scratch: Path) -> None:
    source, fingerprint = model(tmp_path / "m", ["truck", "car"])
    name = f"{tmp_path}#models/final@v1"  # no such repository: only what was brought before can serve
    kept = scratch / "downloads" / artifacts.sha256_of_bytes(name.encode())[:16]
    kept.parent.mkdir(parents=True)
    shutil.copytree(tmp_path / "m", kept)
    _, grown = grown_of(f"model:{name}", features(["bus", "car"], parent=fingerprint))
    assert grown.model == fingerprint
    assert parents.folder_of(source.removeprefix("model:")) == tmp_path / "m"
    (kept / "weights.safetensors").write_bytes(b"damaged")
    with pytest.raises(BackboneError, match=r"#models/final@v1 could not be brought: .* is no git repository; co"):
        grow(f"model:{name}", features(["bus", "car"], parent=fingerprint))


def test_a_head_that_grows_from_an_ensemble_takes_the_rows_of_its_first_network_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model(tmp_path / "one", ["truck", "car"])
    tensors = load_file(tmp_path / "one" / "weights.safetensors")
    others = {name: -value for name, value in tensors.items()}
    with artifacts.new_folder(tmp_path / "two") as new:
        for number, own in enumerate((tensors, others)):
            save_file(own, new / f"fold-{number:02d}.safetensors")
        facts.write(new / "model.json", tiny.model_facts(classes=["truck", "car"], members=2))
    heads = []
    for name in ("one", "two"):
        data = features(["bus", "car"], parent=artifacts.verify(tmp_path / name))
        growth = growing.grow(f"model:{tmp_path / name}", data)
        answers = np.zeros((len(data.val_labels()), 2))
        growing.report_on(growth, ["bus", "car"], data.val_labels(), answers, answers)
        heads.append(growth.head.state_dict())
    assert all(torch.equal(value, heads[1][name]) for name, value in heads[0].items())
    first, second = capsys.readouterr().out.splitlines()
    assert "the first of" not in first
    assert "grown from model:" in second
    assert ", the first of its 2 networks; kept car" in second
