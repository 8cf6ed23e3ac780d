"""The bench of predict: both sides answer alike for the same files, and its figures are what it says."""

from pathlib import Path

import pytest
from PIL import Image

from bench import predict
from tests import tiny
from tests.exports import Twins
from thaw.errors import DataError
from thaw.serving.exported import Exported
from thaw.training import model


def test_both_sides_answer_alike_and_the_ratio_is_that_of_their_rates(twins: Twins, tmp_path: Path) -> None:
    for index, pixels in enumerate(tiny.pixels(4)):
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    paths = sorted(tmp_path.iterdir())
    facts = predict.throughput(model.load(twins.final), Exported.open(twins.exported), paths, num_rounds=3)
    rates = facts["images_per_second"]
    assert facts["images"] == 4
    assert len(facts["each_round"]) == 3
    assert facts["ratio"] == pytest.approx(rates["onnx"] / rates["torch_eager"], rel=0.05)
    assert sorted(entry["onnx"] for entry in facts["each_round"])[1] == rates["onnx"]
    assert facts["largest_difference"] < 1e-5


def test_a_peak_is_that_of_the_command_and_all_images_must_be_answered(twins: Twins, tmp_path: Path) -> None:
    Image.fromarray(tiny.pixels(1)[0]).save(tmp_path / "a.png")
    assert 40 < predict.peak([tmp_path / "a.png"] * 3, folder=str(twins.exported)) < 400
    with pytest.raises(DataError, match="predict answered for 1 of 2 images; nothing was measured"):
        predict.peak([tmp_path / "a.png", tmp_path / "gone.png"], folder=str(twins.exported))


def test_images_are_spread_over_the_folder(tmp_path: Path) -> None:
    for index in range(10):
        (tmp_path / f"{index}.png").write_bytes(b"")
    assert [path.stem for path in predict.spread(str(tmp_path), 3)] == ["0", "3", "6"]
    with pytest.raises(DataError, match="has 10 files; ask for at most as many with --images"):
        predict.spread(str(tmp_path), 11)
