"""Candidates answered together: as each would alone, with what they share computed once."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests import tiny
from thaw.config.schema import ComputeParams
from thaw.errors import ArtifactError
from thaw.evaluation import selection, test_answers
from thaw.evaluation.comparison import choose
from thaw.head.layers import build_head
from thaw.networks.together import Member
from thaw.pipeline import artifacts, facts
from thaw.training import phase_folder
from thaw.training.model import Model, load, load_phase


def model(*, cut: int, changed: int | None = None) -> Model:
    """Return a classifier on the tiny backbone, frozen below `cut`, with the weights from block `changed` on moved."""
    backbone = tiny.backbone(in_channels=3, input_px=32)
    torch.manual_seed(cut)
    if changed is not None:
        for name, parameter in backbone.module.named_parameters():
            if backbone.block_of(name) >= changed:
                parameter.data += 0.05 * torch.randn_like(parameter)
    head = build_head(backbone.num_features, len(tiny.CLASSES), [], 0.0)
    head.get_parameter("weight").data.mul_(20)
    stored = tiny.changed(tiny.start(backbone).model, cut=cut, temperature=1.0 + cut)
    return Model([Member(backbone, head.eval())], stored, f"fingerprint {cut} {changed}")


def family() -> dict[str, Model]:
    """Return a head and two phases of one run."""
    blocks = len(tiny.backbone(in_channels=3, input_px=32).units)
    return {
        "head": model(cut=blocks),
        "top": model(cut=blocks - 1, changed=blocks - 1),
        "mid": model(cut=1, changed=1),
    }


@pytest.mark.parametrize("compute", [tiny.TORCH, tiny.BY_NAME], ids=["torch", "onnxruntime"])
def test_each_gets_the_answer_that_it_gives_alone(compute: ComputeParams, scratch: Path) -> None:
    images, models = tiny.packed(40), family()
    rows = images.rows("train")
    together = test_answers.answer(models, images, rows, compute=compute, label="test")
    assert list(together) == ["head", "top", "mid"]
    for name, single in models.items():
        np.testing.assert_allclose(together[name], single.predict(list(images.read(rows))), atol=1e-3)
    assert np.abs(together["top"] - together["mid"]).max() > 0.01


def test_phases_that_rest_on_different_backbones_are_refused(scratch: Path) -> None:
    images, models = tiny.packed(), family()
    models["top"] = replace(model(cut=2, changed=0), fingerprint="another")
    with pytest.raises(ArtifactError, match="the phases rest on different backbones; run `dvc repro`"):
        test_answers.answer(models, images, images.rows("val"), compute=tiny.TORCH, label="test")


def test_models_that_were_made_with_other_images_are_refused(scratch: Path) -> None:
    images, models = replace(tiny.packed(), fingerprint="another"), family()
    with pytest.raises(
        ArtifactError, match="head was made with other images than data/prepared has now, whose classes"
    ):
        test_answers.answer(models, images, images.rows("val"), compute=tiny.TORCH, label="test")


def trained_in_folds(root: Path) -> dict[str, Model]:
    """Write a backbone and two candidates that were trained in three folds; return those of one network each."""
    network = tiny.backbone(in_channels=3, input_px=32)
    with artifacts.new_folder(root / "backbone") as folder:
        tensors = {name: value.contiguous() for name, value in network.module.state_dict().items()}
        save_file(tensors, folder / "weights.safetensors")
        facts.write(folder / "model.json", tiny.backbone_facts(network))
    singles = {}
    for name, cut in (("head", len(network.units)), ("top", 4)):
        single = model(cut=cut, changed=None if name == "head" else cut)
        lineage = {"data": "fingerprint", "backbone": artifacts.verify(root / "backbone")}
        start = None if name == "head" else "head"
        stored = tiny.changed(single.facts, phase=name, start=start, temperature=None, lineage=lineage)
        above = {} if name == "head" else single.backbone.split(len(network.units) - cut)[1].state_dict()
        trained = {f"backbone.{key}": value for key, value in above.items()}
        trained |= phase_folder.head_tensors(single.members[0].head)
        folds = [
            {key: value * (1 + 0.3 * torch.rand(value.shape)) if value.ndim else value for key, value in own.items()}
            for own in [trained] * 3
        ]
        with artifacts.new_folder(root / "phases" / name) as folder:
            rows = np.arange(6)
            answers = phase_folder.Answers(np.eye(3, dtype=np.float32)[rows % 3], rows % 3, rows, rows // 2)
            phase_folder.write(folder, tensors=trained, model=stored, answers=answers, folds=folds, curves=())
        singles[name] = load_phase(root / "phases" / name, root / "backbone")
    return singles


def test_where_the_winner_is_an_ensemble_each_candidate_answers_as_that_of_its_folds(
    tmp_path: Path, scratch: Path
) -> None:
    singles, images = trained_in_folds(tmp_path), tiny.packed(40)
    rows = images.rows("train")
    ours = load_phase(tmp_path / "phases" / "top", tmp_path / "backbone", members=3)
    final = replace(ours, facts=tiny.changed(ours.facts, selected_from=["head", "top"], members=3, temperature=2.0))
    models = test_answers.load_candidates(final, tmp_path / "phases", tmp_path / "backbone")
    assert models["top"] is final
    assert [len(one.members) for one in models.values()] == [3, 3]
    backbones: dict[str, Any] = {name: {id(one.backbone) for one in found.members} for name, found in models.items()}
    assert (len(backbones["head"]), len(backbones["top"])) == (1, 3)
    together = test_answers.answer(models, images, rows, compute=tiny.TORCH, label="test")
    for name, found in models.items():
        squares = images.read(rows)
        each = [replace(singles[name], members=[member]).probabilities(squares) for member in found.members]
        logits = torch.from_numpy(np.log(each).mean(axis=0)) / found.temperature
        np.testing.assert_allclose(together[name], torch.softmax(logits, dim=1).numpy(), atol=1e-5)
        assert np.abs(together[name] - singles[name].probabilities(squares)).max() > 1e-3


def test_of_one_network_each_candidate_answers_as_what_was_trained_on_all_images(tmp_path: Path) -> None:
    singles = trained_in_folds(tmp_path)
    final = replace(singles["top"], facts=tiny.changed(singles["top"].facts, selected_from=["head", "top"]))
    models = test_answers.load_candidates(final, tmp_path / "phases", tmp_path / "backbone")
    assert [len(one.members) for one in models.values()] == [1, 1]
    with pytest.raises(ArtifactError, match=r"top was trained in 3 folds, not in 4; run `dvc repro`"):
        load_phase(tmp_path / "phases" / "top", tmp_path / "backbone", members=4)


@pytest.mark.parametrize("ensemble", [True, False])
def test_the_model_that_select_writes_answers_as_the_folders_that_it_is_made_of(tmp_path: Path, ensemble: bool) -> None:
    trained_in_folds(tmp_path)
    phases = selection.read_phases(tmp_path / "phases", {"top": "head"})
    results = choose(
        [phase.candidate for phase in phases], phases[0].labels, min_win_rate=0.6, draws=100, seed=0, metric="accuracy",
        folds=phases[0].folds, groups=np.full(6, "", object),
    )  # fmt: skip
    for phase, result in zip(phases, results, strict=True):
        written, folder = tmp_path / f"final-{phase.name}", tmp_path / "phases" / phase.name
        selection.write_final(
            written, tmp_path / "backbone", phase, result, candidates=["head", "top"], ensemble=ensemble
        )
        ours, made_of = load(written), load_phase(folder, tmp_path / "backbone", members=3 if ensemble else 1)
        assert ours.facts.members == (3 if ensemble else None)
        assert len(ours.members) == (3 if ensemble else 1)
        squares = tiny.pixels(4)
        calibrated = replace(made_of, facts=tiny.changed(made_of.facts, temperature=result.temperature))
        np.testing.assert_array_equal(ours.probabilities(squares), calibrated.probabilities(squares))
