"""A phase from end to end on a tiny network: cached or not, interrupted or not, the same bits."""

import copy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests import tiny
from tests.unit.test_networks_cut import Branching
from thaw.activations import costs, prefix
from thaw.activations import sources as activation_sources
from thaw.activations.engine import Engine
from thaw.config.schema import AugmentParams, ComputeParams, PhaseParams
from thaw.errors import ArtifactError, ParamsError, TrainingError
from thaw.networks.backbone import Backbone
from thaw.pipeline import artifacts, guard, machine
from thaw.training import phase_folder
from thaw.training.parts import Start
from thaw.training.phase import Seen, Trained, run_phase

pytestmark = pytest.mark.usefixtures("scratch")

UNCACHED = tiny.TORCH.model_copy(update={"cache_gib": 1e-9})
FLIPS = tiny.augment(flip="both", brightness=0.2)


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a cache pay even for a network as quick as these, whatever this machine measures."""
    for name in ("_READ_BYTES_S", "_WRITE_BYTES_S"):
        monkeypatch.setattr(costs, name, 1e18)


class InterruptedRunError(Exception):
    """What stands for a killed process."""


def train(
    params: PhaseParams,
    *,
    name: str = "top",
    network: str = "test_resnet",
    compute: ComputeParams = tiny.TORCH,
    stop_after: int | None = None,
    start: Start | None = None,
    seed: int = 3,
    augment: AugmentParams = FLIPS,
    **data: Any,
) -> Trained:
    backbone = tiny.backbone(network, input_px=32 if network != "test_vit" else 160)
    size_px = 40 if network != "test_vit" else 160
    begin = start or tiny.start(backbone)
    begin = Start(begin.tensors, tiny.changed(begin.model, augment={"flip": "both", "tta": False}))

    def on_epoch(seen: Seen) -> None:
        if seen.row["epoch"] == stop_after:
            raise InterruptedRunError

    return run_phase(
        name, params, images=tiny.packed(size_px=size_px, **data), backbone=backbone, start=begin, augment=augment,
        seed=seed, compute=compute, on_epoch=on_epoch,
    )  # fmt: skip


def assert_same(left: Trained, right: Trained) -> None:
    assert left.outcome.tensors.keys() == right.outcome.tensors.keys()
    for name, value in left.outcome.tensors.items():
        assert torch.equal(value, right.outcome.tensors[name]), name
    np.testing.assert_array_equal(left.outcome.answers.logits, right.outcome.answers.logits)
    assert left.curves == right.curves


def forget(scratch: Path, part: str) -> None:
    artifacts.remove(scratch / part)


@pytest.mark.parametrize(
    ("network", "changes"),
    [
        ("test_resnet", {"norm": "train"}),
        ("test_resnet", {"norm": "frozen", "depth": "all"}),
        ("test_efficientnet", {"norm": "stats", "depth": 3}),
        ("test_vit", {"lr": 0.001, "views": 3, "norm": "frozen"}),
        ("test_resnet", {"warm_start": True}),
    ],
)
def test_a_cached_phase_is_bit_for_bit_the_same_phase_without_a_cache(
    scratch: Path, network: str, changes: dict[str, Any]
) -> None:
    params = tiny.phase(**changes)
    cached = train(params, network=network)
    assert list((scratch / "cache").glob("[0-9a-f]*"))
    forget(scratch, "cache")
    forget(scratch, "checkpoints")
    fresh = train(params, network=network, compute=UNCACHED)
    assert not (scratch / "cache").exists() or not list((scratch / "cache").glob("[0-9a-f]*"))
    assert_same(cached, fresh)
    assert cached.model.frozen_sha256 == fresh.model.frozen_sha256


def test_a_second_run_reads_the_cache_and_gives_the_same(scratch: Path) -> None:
    first = train(tiny.phase())
    times = {path: path.stat().st_mtime_ns for path in (scratch / "cache").rglob("*.npy")}
    assert len(times) == 2 + 1
    forget(scratch, "checkpoints")
    assert_same(first, train(tiny.phase()))
    assert {path: path.stat().st_mtime_ns for path in (scratch / "cache").rglob("*.npy")} == times


def test_cutmix_changes_a_phase_with_maps_at_the_cut_and_is_refused_before_anything_is_cached_without(
    scratch: Path,
) -> None:
    plain, cut = (train(tiny.phase(epochs=1, cutmix=alpha)).curves for alpha in (0.0, 1.0))
    assert plain[1]["train_loss"] != cut[1]["train_loss"]
    forget(scratch, "cache")
    with pytest.raises(ParamsError, match=r"unfreeze.phases.top.cutmix needs rows and columns .* with all, it is the"):
        train(tiny.phase(cutmix=1.0, norm="frozen"), network="test_vit")
    assert not (scratch / "cache").exists()
    assert len(train(tiny.phase(depth="all", epochs=1, cutmix=1.0, norm="frozen"), network="test_vit").curves) == 2


def test_a_phase_that_finds_its_rate_says_so_and_leaves_the_curve(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = train(tiny.phase(lr="auto", lr_scale=0.5, epochs=1, warm_start=True))
    lr = trained.model.lr
    assert lr is not None
    assert f"top: lr is {lr:g}, found by trying " in capsys.readouterr().out
    with artifacts.new_folder(tmp_path / "top") as folder:
        trained.write(folder)
    table = pd.read_csv(tmp_path / "top" / "range_test.csv")
    assert list(table.columns) == ["rate", "loss", "change", "smoothed", "chosen"]
    assert table["chosen"].sum() == 1
    assert abs(np.log10(float(table[table["chosen"] == 1]["rate"].iloc[0]) / lr)) < 0.06
    last = trained.curves[-1]
    network = tiny.backbone()
    assert last[f"lr:{network.blocks[-2]}"] / last["lr:head"] == pytest.approx(0.25)
    assert phase_folder.frozen_digest(network, 4) == trained.model.frozen_sha256
    given = train(tiny.phase(lr=lr, lr_scale=0.5, epochs=1, warm_start=True))
    assert_same(trained, given)
    assert given.model.lr == lr


def test_a_rate_is_found_beside_rules_that_give_theirs() -> None:
    network = tiny.backbone(input_px=32)
    trained = train(tiny.phase(depth=rules((f"{network.blocks[-1]}.*", 0.004)), lr="auto", epochs=1))
    curves = trained.curves[-1]
    assert trained.model.lr is not None
    assert curves[f"lr:{network.blocks[-1]}.*"] / 0.004 == pytest.approx(curves["lr:head"] / trained.model.lr)


@pytest.mark.parametrize("norm", ["frozen", "stats", "train"])
def test_nothing_below_the_cut_moves_buffers_included(norm: str) -> None:
    before = {name: value.clone() for name, value in tiny.backbone().module.state_dict().items()}
    trained = train(tiny.phase(norm=norm, epochs=6))
    ours = {name.removeprefix("backbone.") for name in trained.outcome.tensors if name.startswith("backbone.")}
    network = tiny.backbone()
    assert ours == {name for name in before if network.block_of(name) >= 4}
    moved = {name for name in ours if not torch.equal(trained.outcome.tensors[f"backbone.{name}"], before[name])}
    statistics = {name for name in ours if "running_" in name or "num_batches" in name}
    assert moved == (ours - statistics if norm == "frozen" else ours)


@pytest.mark.parametrize("what", ["backbone", "data"])
def test_a_start_of_another_backbone_or_other_images_is_refused(what: str) -> None:
    start = tiny.start(tiny.backbone())
    lineage = start.model.lineage.model_copy(update={what: "another"})
    start = replace(start, model=tiny.changed(start.model, lineage=lineage))
    with pytest.raises(ArtifactError, match=f"top: head, which it starts from, was made with another {what} than is"):
        train(tiny.phase(), start=start)


def test_a_frozen_tensor_that_moves_is_found_out() -> None:
    network = tiny.backbone()
    before = phase_folder.frozen_digest(network, 3)
    phase_folder.check_frozen(before, phase_folder.frozen_digest(network, 3), "top")
    network.module.get_buffer("layer1.0.bn1.running_mean").add_(1e-6)
    after = phase_folder.frozen_digest(network, 3)
    with pytest.raises(TrainingError, match="top: a tensor has moved although it is frozen"):
        phase_folder.check_frozen(before, after, "top")
    network.module.get_parameter("layer4.0.conv1.weight").data.add_(1)
    assert phase_folder.frozen_digest(network, 3) == after


@cache
def uninterrupted(norm: str) -> Trained:
    return train(tiny.phase(norm=norm, warm_start=norm == "train"))


@pytest.mark.parametrize(("epoch", "norm"), [(0, "train"), (1, "train"), (2, "train"), (3, "train"), (2, "stats")])
def test_a_phase_that_is_interrupted_ends_as_one_that_was_not(scratch: Path, epoch: int, norm: str) -> None:
    params = tiny.phase(norm=norm, warm_start=norm == "train")
    whole = uninterrupted(norm)
    forget(scratch, "checkpoints")
    with pytest.raises(InterruptedRunError):
        train(params, stop_after=epoch)
    assert_same(whole, train(params))


def test_a_phase_resumes_in_mid_way_and_not_from_the_start(scratch: Path) -> None:
    with pytest.raises(InterruptedRunError):
        train(tiny.phase(), stop_after=2)
    forget(scratch, "cache")
    seen: list[float] = []
    state = next((scratch / "checkpoints").glob("[!.]*/part-00"))
    assert artifacts.read_json(state / "state.json")["epoch"] == 2
    network = tiny.backbone()
    begin = tiny.start(network)
    begin = Start(begin.tensors, tiny.changed(begin.model, augment={"flip": "both", "tta": False}))
    run_phase(
        "top", tiny.phase(), images=tiny.packed(), backbone=network, start=begin, augment=FLIPS, seed=3,
        compute=tiny.TORCH, on_epoch=lambda now: seen.append(now.row["epoch"]),
    )  # fmt: skip
    assert seen == [0, 1, 2, 3]


def test_a_damaged_checkpoint_is_not_resumed(scratch: Path) -> None:
    whole = train(tiny.phase())
    tensors = next((scratch / "checkpoints").glob("*/part-00/tensors.safetensors"))
    data = bytearray(tensors.read_bytes())
    data[-5] ^= 1
    tensors.write_bytes(data)
    assert_same(whole, train(tiny.phase()))


@pytest.mark.parametrize("changes", [{"lr": 0.003}, {"views": 1}, {"norm": "frozen"}, {"label_smoothing": 0.1}])
def test_other_settings_start_a_run_of_their_own(scratch: Path, changes: dict[str, Any]) -> None:
    train(tiny.phase(epochs=1))
    train(tiny.phase(epochs=1, **changes))
    assert len(list((scratch / "checkpoints").glob("[!.]*"))) == 2


def test_another_machine_number_of_threads_or_engine_starts_a_run_of_its_own(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(compute: ComputeParams) -> int:
        with pytest.raises(InterruptedRunError):
            train(tiny.phase(), compute=compute, stop_after=1)
        return len(list((scratch / "checkpoints").glob("[!.]*")))

    assert [interrupted(tiny.TORCH), interrupted(tiny.TORCH)] == [1, 1]
    assert interrupted(tiny.TORCH.model_copy(update={"threads": 2})) == 2
    assert interrupted(tiny.BY_NAME) == 3
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "another processor")
    assert interrupted(tiny.TORCH) == 4


def test_all_that_decides_the_numbers_of_a_phase_is_in_the_name_of_its_checkpoint(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def checkpoints(**changes: Any) -> int:
        train(tiny.phase(epochs=1), **changes)
        return len(list((scratch / "checkpoints").glob("[!.]*")))

    assert [checkpoints(), checkpoints()] == [1, 1]
    assert checkpoints(seed=4) == 2
    assert checkpoints(augment=tiny.augment(flip="both", brightness=0.3)) == 3
    assert checkpoints(name="mid") == 4
    for number, (place, name, value) in enumerate(
        [
            (Engine, "made_by", ["another version"]),
            (guard, "code_digest", lambda: "other code"),
            (prefix, "_HEADROOM", 1e9),  # activations are then kept in float32
        ],
        start=5,
    ):
        with monkeypatch.context() as patched:
            patched.setattr(place, name, value)
            assert checkpoints() == number, name


def train_on_grey(compute: ComputeParams, norm: str) -> Trained:
    """Train on images near the mean, so that their activations are small, and those of brighter views far larger."""
    images = tiny.packed()
    grey = np.random.default_rng(0).integers(127, 129, images.shards[0].shape).astype(np.uint8)
    images = replace(images, shards=(grey,))
    backbone = tiny.backbone()
    first = next(iter(backbone.module.parameters()))
    first.data *= 3e5  # the network has no other biases than zeros: all activations grow alike
    begin = tiny.start(backbone)
    return run_phase(
        "top", tiny.phase(norm=norm, epochs=2, lr=1e-6), images=images, backbone=backbone, start=begin,
        augment=tiny.augment(brightness=0.9), seed=3, compute=compute,
    )  # fmt: skip


@pytest.mark.parametrize("norm", ["train", "stats"])
def test_a_later_activation_beyond_float16_starts_the_phase_again_in_float32_cached_or_not(
    scratch: Path, norm: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "beyond float16; keep them in float32: the phase starts again with all activations in float32"
    cached = train_on_grey(tiny.TORCH, norm)
    assert capsys.readouterr().out.count(said) == 1
    kinds = {np.load(path).dtype.name for path in (scratch / "cache").rglob("*.npy")}
    forget(scratch, "cache")
    forget(scratch, "checkpoints")
    fresh = train_on_grey(UNCACHED, norm)
    assert capsys.readouterr().out.count(said) == 1
    assert_same(cached, fresh)
    forget(scratch, "checkpoints")
    monkeypatch.setattr(prefix, "_HEADROOM", 1e9)
    assert_same(cached, train_on_grey(tiny.TORCH, norm))
    assert said not in capsys.readouterr().out
    assert "float32" in kinds


def follow(trained: Trained) -> Start:
    lineage = trained.model.lineage.model_copy(update={"parent": "top"})
    return Start(trained.outcome.tensors, trained.model.model_copy(update={"lineage": lineage}))


def test_a_run_that_is_interrupted_after_a_phase_boundary_ends_as_one_that_was_not(scratch: Path) -> None:
    top, deeper = tiny.phase(depth=1, epochs=2), tiny.phase(start="top", depth=3, epochs=2)
    whole = train(deeper, name="mid", start=follow(train(top)))
    for epoch in (0, 1):
        forget(scratch, "checkpoints")
        with pytest.raises(InterruptedRunError):
            train(deeper, name="mid", start=follow(train(top)), stop_after=epoch)
        assert_same(whole, train(deeper, name="mid", start=follow(train(top))))


def test_a_phase_begins_with_the_last_weights_of_the_one_that_it_starts_from() -> None:
    top = train(tiny.phase(depth=1))
    deeper = train(tiny.phase(start="top", depth=3, epochs=1), name="mid", start=follow(top))
    assert deeper.curves[0]["epoch"] == 0
    # The other cut rounds other activations to float16.
    assert deeper.curves[0]["val_loss"] == pytest.approx(top.curves[-1]["val_loss"], abs=5e-3)
    assert deeper.model.depth_blocks == 3
    assert deeper.model.start == "top"


def test_a_phase_shallower_than_its_start_is_refused_with_what_to_do() -> None:
    backbone = tiny.backbone()
    begin = tiny.start(backbone, depth_blocks=3)
    with pytest.raises(
        ParamsError,
        match=r"unfreeze.phases.top.depth is 2, 2 of 6 blocks, but head, .* has unfrozen 3 blocks; .* give at",
    ):
        train(tiny.phase(depth=2), start=begin)


def rules(*pairs: tuple[str, float | None]) -> list[dict[str, Any]]:
    return [{"pattern": pattern, "lr": lr} for pattern, lr in pairs]


def moved(trained: Trained) -> set[str]:
    """Return the names of the backbone's tensors that a phase left other than they were."""
    before = tiny.backbone(input_px=32).module.state_dict()
    named = {name.removeprefix("backbone."): value for name, value in trained.outcome.tensors.items()}
    return {name for name, value in before.items() if name in named and not torch.equal(named[name], value)}


@pytest.mark.parametrize("norm", ["frozen", "stats", "train"])
def test_rules_train_the_norms_alone(norm: str) -> None:
    trained = train(tiny.phase(depth=rules(("*bn*", 0.01)), norm=norm, epochs=1, lr=1e-3))
    names = dict(tiny.backbone(input_px=32).module.named_parameters())
    assert {name for name in moved(trained) if name in names} == {name for name in names if "bn" in name}


@pytest.mark.parametrize("warm_start", [False, True])
def test_rules_train_one_block_and_nothing_of_those_above_it_moves_buffers_included(warm_start: bool) -> None:
    network = tiny.backbone(input_px=32)
    lowest = network.blocks[0]
    params = tiny.phase(
        depth=rules(("*bias", None), (f"{lowest}.*", 0.01)), norm="train", epochs=1, lr=1e-3, warm_start=warm_start
    )
    trained = train(params)
    changed = moved(trained)
    assert changed
    assert {network.block_of(name) for name in changed} == {0}
    assert not any(name.endswith("bias") for name in changed)
    assert trained.model.cut == 0
    assert [key for key in trained.curves[-1] if key.startswith("lr:")] == ["lr:head", f"lr:{lowest}.*"]


def test_a_network_that_cannot_be_traced_trains_uncached_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    spec = tiny.backbone().spec.model_copy(update={"library": "python", "name": "own"})
    torch.manual_seed(0)
    network = Backbone(Branching().eval(), spec, "weights")
    before = {name: value.clone() for name, value in network.module.state_dict().items()}
    trained = run_phase(
        "top", tiny.phase(depth=1, epochs=1, norm="train", warm_start=True), images=tiny.packed(), backbone=network,
        start=tiny.start(network), augment=tiny.augment(), seed=3, compute=tiny.AUTO, on_epoch=lambda _: None,
    )  # fmt: skip
    assert "top: this network cannot be traced and cut, so every epoch runs all of it" in capsys.readouterr().out
    after = network.module.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(after[name], value)}
    assert {network.block_of(name) for name in changed} <= {2}
    assert [row["epoch"] for row in trained.curves] == [0, 1]


def test_rules_above_what_the_start_has_trained_are_cut_below_it() -> None:
    deep = train(tiny.phase(depth=3, epochs=1))
    network = tiny.backbone(input_px=32)
    again = train(
        tiny.phase(start="top", depth=rules((f"{network.blocks[-1]}.*", 0.01)), epochs=1), name="last",
        start=follow(deep),
    )  # fmt: skip
    assert again.model.cut == deep.model.cut


def test_rules_that_match_nothing_are_refused_with_a_name_that_there_is() -> None:
    with pytest.raises(TrainingError, match=r"train no parameter of the backbone; .* must match names such as conv1\."):
        train(tiny.phase(depth=rules(("layer9.*", 0.1))))
    with pytest.raises(TrainingError, match=r"the rule for layer9\.\* matches no parameter"):
        train(tiny.phase(depth=rules(("layer9.*", 0.1), ("layer4.*", 0.1))))


def test_views_0_augments_afresh_in_every_epoch_and_caches_validation_only(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[int]] = []
    batch = activation_sources.Fresh.batch

    def spy(self: activation_sources.Fresh, rows: np.ndarray[Any, Any], views: np.ndarray[Any, Any]) -> list[Tensor]:
        seen.append(set(views.tolist()))
        return batch(self, rows, views)

    monkeypatch.setattr(activation_sources.Fresh, "batch", spy)
    train(tiny.phase(views=0))
    assert [views for index, views in enumerate(seen) if index % 4 == 0] == [{1}, {2}, {3}]
    assert all(len(views) == 1 and views != {0} for views in seen)
    assert len(list((scratch / "cache").glob("*/manifest.json"))) == 1


def test_a_phase_that_is_unfrozen_to_the_input_trains_every_tensor() -> None:
    trained = train(tiny.phase(depth="all", epochs=1))
    names = {name.removeprefix("backbone.") for name in trained.outcome.tensors if name.startswith("backbone.")}
    assert names == set(tiny.backbone().module.state_dict())
    assert trained.model.cut == 0


def test_what_a_phase_leaves_gives_its_validation_logits_again(tmp_path: Path) -> None:
    trained = train(tiny.phase())
    with artifacts.new_folder(tmp_path / "top") as folder:
        trained.write(folder)
    tensors, model = phase_folder.read(tmp_path / "top")
    assert model.lineage.parent == artifacts.verify(tmp_path / "top")
    network = tiny.backbone(seed=0)
    head = phase_folder.assemble(network, tensors, model)
    images, rows = tiny.packed(), trained.outcome.answers.rows
    seen = prefix.Views(images, network.spec, 3, FLIPS).plain(rows)
    with torch.inference_mode():
        logits = head(network.module.eval()(seen)).numpy()
    np.testing.assert_allclose(logits, trained.outcome.answers.logits, atol=0.02)


def test_grey_images_train_a_grey_network() -> None:
    backbone = tiny.backbone(in_channels=1)
    images = tiny.packed(channels=1)
    before = copy.deepcopy(backbone.module.state_dict())
    trained = run_phase(
        "top", tiny.phase(depth="all", lr=1e-3, epochs=1), images=images, backbone=backbone, start=tiny.start(backbone),
        augment=tiny.augment(), seed=0, compute=tiny.TORCH, on_epoch=lambda _: None,
    )  # fmt: skip
    assert {f"backbone.{name}" for name in before} < set(trained.outcome.tensors)


def weights_losses_and_probabilities(trained: Trained) -> tuple[dict[str, Tensor], list[float], Tensor]:
    losses = [value for row in trained.curves for key, value in row.items() if "loss" in key]
    return {**trained.outcome.tensors}, losses, torch.from_numpy(trained.outcome.answers.logits).double().softmax(1)


def test_the_same_number_of_threads_gives_the_same_bits_and_another_one_other_last_digits() -> None:
    two = tiny.TORCH.model_copy(update={"threads": 2})
    try:
        first, again, one = (
            weights_losses_and_probabilities(train(tiny.phase(), compute=compute)) for compute in (two, two, tiny.TORCH)
        )
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(value, again[0][name]) for name, value in first[0].items())
    assert first[1] == again[1]
    assert torch.equal(first[2], again[2])
    # Measured on this network: losses within 6e-7, probabilities within 7e-7.
    assert first[1] == pytest.approx(one[1], abs=1e-5)
    torch.testing.assert_close(first[2], one[2], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("threads", "shown"), [(1, "1 thread"), (2, "2 threads")])
def test_a_phase_says_what_computed_it(threads: int, shown: str) -> None:
    try:
        trained = train(tiny.phase(epochs=1), compute=tiny.TORCH.model_copy(update={"threads": threads}))
    finally:
        torch.set_num_threads(1)
    instructions = torch.backends.cpu.get_cpu_capability()
    assert trained.model.lineage.computed_on == f"{machine.processor()} ({instructions}), {shown}"


def test_what_a_phase_keeps_is_what_its_file_stores_in_half_the_bytes(tmp_path: Path) -> None:
    trained = train(tiny.phase(depth=2, epochs=2))
    with artifacts.new_folder(tmp_path / "top") as folder:
        trained.write(folder)
    stored = load_file(tmp_path / "top" / "weights.safetensors")
    matrices = {name for name, value in stored.items() if name.startswith("backbone.") and value.ndim > 1}
    assert {stored[name].dtype for name in matrices} == {torch.float16}
    assert torch.float16 not in {value.dtype for name, value in stored.items() if name not in matrices}
    read, _ = phase_folder.read(tmp_path / "top")
    assert all(torch.equal(read[name], value) for name, value in trained.outcome.tensors.items())
