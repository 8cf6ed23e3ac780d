"""Checkpoints as trainers write them: the right weights, bit for bit, or a refusal with its cause and the way out."""

import argparse
import collections
import datetime as dt
import enum
import functools
import pickle
import shlex
import subprocess
import sys
import tarfile
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models

from stages import backbone as stage
from thaw.errors import BackboneError
from thaw.networks.backbone import assemble, load_backbone
from thaw.networks.sources.opening import fetch, open_backbone, taken_by
from thaw.networks.sources.weights import read_tensors
from thaw.pipeline import code, facts
from thaw.pipeline.model_facts import BackboneFacts, TakenFacts

ARCHITECTURE = "timm:test_resnet"
Weights = dict[str, Tensor]


@functools.cache
def network() -> nn.Module:
    """A network that was trained on seven classes."""
    torch.manual_seed(11)
    made: nn.Module = timm.create_model("test_resnet", num_classes=7)
    return made


def weights(plus: float = 0.0) -> Weights:
    """Its weights; `plus` more for those of another network."""
    tensors: Mapping[str, Tensor] = network().state_dict()
    return {name: tensor + plus if tensor.is_floating_point() else tensor.clone() for name, tensor in tensors.items()}


def behind(prefix: str, plus: float = 0.0) -> Weights:
    return {f"{prefix}{name}": tensor for name, tensor in weights(plus).items()}


def numbered() -> Weights:
    """As fastai names them: the network's parts are numbered, and a head of its own follows."""
    places = {"conv1": "0.0", "bn1": "0.1", "layer1": "0.4", "layer2": "0.5", "layer3": "0.6", "layer4": "0.7"}
    parted = {name: name.partition(".") for name in weights()}
    return {f"{places.get(part, '1.8')}.{rest}": weights()[name] for name, (part, _, rest) in parted.items()}


class Settings(dict[str, Any]):
    """What mmengine and Lightning keep settings in: a mapping with a type of its own."""


@dataclass
class Config:
    rate: float = 0.1


@dataclass(slots=True)
class Slots:
    rate: float = 0.1


class Stage(enum.Enum):
    LAST = 3


def optimizer() -> dict[str, Any]:
    parameter = nn.Parameter(torch.ones(3))
    made = torch.optim.AdamW([parameter])
    parameter.grad = torch.ones(3)
    made.step()
    return made.state_dict()


@dataclass(frozen=True)
class Form:
    """What a trainer saves, where in it the weights lie, and what is said to be unused."""

    make: Callable[[], object]
    key: str = "."
    prefix: str = ""
    how: str = "names"
    also: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    tensors: tuple[str, ...] = ("fc",)
    """Beside those of the network."""


FORMS = {
    "plain": Form(weights),
    "data parallel": Form(
        lambda: {
            "epoch": 9,
            "state_dict": behind("module."),
            "best_acc1": torch.tensor(71.0),
            "optimizer": optimizer(),
        },
        "state_dict",
        "module.",
        unused=("best_acc1", "epoch", "optimizer"),
    ),
    "tutorial of torch": Form(
        lambda: {"epoch": 5, "model_state_dict": weights()}, "model_state_dict", unused=("epoch",)
    ),
    "net": Form(lambda: {"net": weights(), "acc": 93.1}, "net", unused=("acc",)),
    "timm with a Namespace and an average": Form(
        lambda: {
            "arch": "a",
            "state_dict": weights(),
            "state_dict_ema": weights(0.5),
            "args": argparse.Namespace(lr=0.1, path=Path("a")),
        },
        "state_dict",
        also=("state_dict_ema",),
        unused=("arch", "args"),
    ),
    "the average first": Form(lambda: {"model_ema": weights(0.5), "model": weights()}, "model", also=("model_ema",)),
    "compiled and distributed": Form(lambda: {"model": behind("_orig_mod.module.")}, "model", "_orig_mod.module."),
    "MoCo": Form(
        lambda: {
            "state_dict": behind("module.encoder_q.")
            | behind("module.encoder_k.", 0.5)
            | {"module.queue": torch.ones(2)}
        },
        "state_dict",
        "module.encoder_q.",
        also=("state_dict.module.encoder_k",),
        tensors=("fc", "queue"),
    ),
    "DINO": Form(
        lambda: {"student": behind("module.backbone.", 0.0), "teacher": behind("backbone.", 0.5)},
        "student",
        "module.backbone.",
        also=("teacher",),
    ),
    "a teacher alone, in lists": Form(
        lambda: {"all": [{"teacher": behind("backbone.")}]}, "all.0.teacher", "backbone."
    ),
    "SwAV": Form(
        lambda: behind("module.") | {"module.prototypes.weight": torch.ones(2), "module.head.0.bias": torch.ones(2)},
        prefix="module.",
        tensors=("fc", "prototypes", "head"),
    ),
    "lightly": Form(
        lambda: {"state_dict": behind("backbone.") | behind("backbone_momentum.", 0.5)},
        "state_dict",
        "backbone.",
        also=("state_dict.backbone_momentum",),
    ),
    "a prefix that nobody has used before": Form(lambda: behind("my.own-wrapper.x."), prefix="my.own-wrapper.x."),
    "the same weights under two names": Form(lambda: behind("one.") | behind("two."), prefix="one.", also=("two",)),
    "Lightning": Form(
        lambda: {
            "pytorch-lightning_version": "2.4.0",
            "state_dict": behind("model."),
            "hyper_parameters": Settings(make=functools.partial(torch.optim.AdamW, lr=0.1), path=Path("data")),
            "optimizer_states": [optimizer()],
        },
        "state_dict",
        "model.",
        unused=(
            "pytorch-lightning_version",
            f"hyper_parameters (of type {__name__}.Settings)",
            "optimizer_states",
        ),
    ),
    "mmpretrain": Form(
        lambda: {"meta": {"classes": ("a", "b")}, "state_dict": behind("backbone.")},
        "state_dict",
        "backbone.",
        unused=("meta",),
    ),
    "arrays of numpy, as Detectron has them": Form(
        lambda: {"model": {name: tensor.numpy() for name, tensor in weights().items()}, "__author__": "x"},
        "model",
        unused=("__author__",),
    ),
    "values of many types": Form(
        lambda: {
            "net": weights(),
            "numpy": np.float64(1.5),
            "time": dt.datetime.now(tz=dt.UTC),
            "default": collections.defaultdict(list, {"a": [1]}),
            "deque": collections.deque([1, 2], maxlen=4),
            "space": types.SimpleNamespace(a=1),
            "torch": (torch.device("cuda:0"), torch.float16, torch.Size([3])),
            "set": frozenset({1}),
            "random": (np.random.default_rng(0), np.random.RandomState(0).get_state()),
        },
        "net",
        unused=("numpy", "time", "default", "deque", "space", "torch", "set", "random"),
    ),
    "objects of classes that are not here": Form(
        lambda: {"net": weights(), "config": Config(), "schedule": torch.optim.lr_scheduler.StepLR},
        "net",
        unused=(f"config (of type {__name__}.Config)", "schedule"),
    ),
    "objects with slots": Form(
        lambda: {"net": weights(), "config": Slots()}, "net", unused=(f"config (of type {__name__}.Slots)",)
    ),
    "a mapping with a type of its own": Form(lambda: Settings(weights())),
    "parameters": Form(
        lambda: {
            name: nn.Parameter(tensor) if tensor.is_floating_point() else tensor for name, tensor in weights().items()
        }
    ),
    "weights beside a whole network": Form(
        lambda: {"model": weights(), "ema": network()}, "model", unused=("ema (of type timm.models.resnet.ResNet)",)
    ),
    "another head": Form(
        lambda: {name.replace("fc.", "head.classifier."): tensor for name, tensor in weights().items()},
        tensors=("head",),
    ),
    "fastai": Form(
        lambda: {"model": numbered(), "opt": optimizer()}, "model", how="order", tensors=("1",), unused=("opt",)
    ),
}


def opened(path: Path, key: str = "", architecture: str = ARCHITECTURE) -> tuple[dict[str, Tensor], TakenFacts]:
    """Return the weights of the network that a file gives, and what the stage says was taken."""
    source = f"file:{path}{key}@{architecture}"
    spec, found = fetch(source, sha256=None)
    backbone = assemble(spec, found.tensors)
    taken = taken_by(found, source, backbone)
    assert taken is not None
    return dict(backbone.module.state_dict()), taken


def assert_equal(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert set(found) == set(expected) - {"fc.weight", "fc.bias"}
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


# In torch's old format source code lies beside a network, which its restricted reader refuses.
_IN_BOTH = [(name, is_zip) for name in FORMS for is_zip in (True, False) if is_zip or "whole network" not in name]


@pytest.mark.parametrize(("name", "is_zip"), _IN_BOTH)
def test_the_weights_are_found_and_the_rest_is_named(tmp_path: Path, name: str, is_zip: bool) -> None:
    form, path = FORMS[name], tmp_path / "w.ckpt"
    torch.save(form.make(), path, _use_new_zipfile_serialization=is_zip)
    found, taken = opened(path)
    assert_equal(found, weights())
    assert (taken.key, taken.prefix, taken.how) == (form.key, form.prefix, form.how)
    assert taken.tensors == len(weights()) - 2
    assert tuple(taken.also) == form.also
    assert sorted(taken.unused) == sorted(form.unused)
    assert tuple(taken.unused_tensors) == form.tensors


@pytest.mark.parametrize("name", ["w.pt", "w.bin", "w.ckpt", "w.pth", "w.pth.tar", "w.safetensors", "weights"])
@pytest.mark.parametrize("is_torch", [True, False])
def test_the_content_says_what_a_file_is_and_not_its_name(tmp_path: Path, name: str, is_torch: bool) -> None:
    named = behind("model.")
    torch.save(named, tmp_path / name) if is_torch else save_file(named, tmp_path / name)
    assert_equal(opened(tmp_path / name)[0], weights())


@pytest.mark.parametrize(
    ("form", "key", "plus"),
    [
        ("timm with a Namespace and an average", "state_dict_ema", 0.5),
        ("timm with a Namespace and an average", "state_dict", 0.0),
        ("MoCo", "state_dict.module.encoder_k", 0.5),
        ("MoCo", "state_dict", 0.0),
        ("DINO", "teacher", 0.5),
        ("DINO", "teacher.backbone", 0.5),
        ("a teacher alone, in lists", "all.0.teacher", 0.0),
        ("plain", ".", 0.0),
    ],
)
def test_a_key_chooses_among_the_weights_in_a_file(tmp_path: Path, form: str, key: str, plus: float) -> None:
    torch.save(FORMS[form].make(), tmp_path / "w.pth")
    found, taken = opened(tmp_path / "w.pth", f"#{key}")
    assert_equal(found, weights(plus))
    assert key in (taken.key, f"{taken.key}.{taken.prefix[:-1]}")


def test_a_key_chooses_among_prefixes_in_safetensors(tmp_path: Path) -> None:
    save_file(behind("model.") | behind("model_ema.", 0.5), tmp_path / "w.safetensors")
    assert_equal(opened(tmp_path / "w.safetensors")[0], weights())
    assert_equal(opened(tmp_path / "w.safetensors", "#model_ema")[0], weights(0.5))


def test_a_hash_mark_in_the_name_of_a_file_is_part_of_the_name(tmp_path: Path) -> None:
    torch.save(weights(), tmp_path / "w#3.pth")
    assert_equal(opened(tmp_path / "w#3.pth")[0], weights())


def test_a_key_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    torch.save({"student": weights(), "teacher": weights(0.5)}, tmp_path / "w.pth")
    with pytest.raises(BackboneError, match=r"has no weights at #ema; there are file:.*#student@.*, file:.*#teacher@"):
        opened(tmp_path / "w.pth", "#ema")


def test_networks_of_which_none_is_plainly_meant_are_refused_with_how_to_choose(tmp_path: Path) -> None:
    torch.save({"fold0": weights(), "fold1": weights(0.5)}, tmp_path / "w.pth")
    with pytest.raises(
        BackboneError, match=r"holds this network 2 times.*; choose file:.*#fold0@\S+ or file:.*#fold1@"
    ):
        opened(tmp_path / "w.pth")
    assert_equal(opened(tmp_path / "w.pth", "#fold1")[0], weights(0.5))


def test_a_larger_network_that_has_all_names_of_the_smaller_one_is_not_taken_for_it(tmp_path: Path) -> None:
    large, small = (timm.create_model(name, num_classes=2).state_dict() for name in ("resnet50", "resnet18"))
    torch.save({"a_teacher": large, "student": small}, tmp_path / "w.pth")
    found, taken = opened(tmp_path / "w.pth", architecture="timm:resnet18")
    assert_equal(found, small)
    assert taken.also == []
    with pytest.raises(BackboneError, match=r"not those of resnet18: layer1.0.conv1.weight has shape \[64, 64, 1, 1\]"):
        opened(tmp_path / "w.pth", "#a_teacher", "timm:resnet18")


def test_weights_of_before_norms_counted_batches_are_taken(tmp_path: Path) -> None:
    torch.save({name: tensor for name, tensor in weights().items() if "num_batches" not in name}, tmp_path / "w.pth")
    found, taken = opened(tmp_path / "w.pth")
    assert_equal(found, weights())
    assert taken.filled == sum("num_batches" in name for name in weights())


def test_names_as_authors_publish_them_are_converted_by_timm(tmp_path: Path) -> None:
    own = timm.create_model("convnext_atto", num_classes=2).state_dict()
    changes = {"stem.": "downsample_layers.0.", "conv_dw": "dwconv", "mlp.fc": "pwconv", ".blocks.": "."}
    published = {}
    for name, tensor in own.items():
        other = name.replace("head.norm", "norm").replace("head.fc", "head")
        for one, another in changes.items():
            other = other.replace(one, another)
        parts = other.split(".")
        if "downsample" in parts:
            other = ".".join(["downsample_layers", parts[1], *parts[3:]])
        published[other] = tensor
    torch.save({"model": published}, tmp_path / "w.pth")
    found, taken = opened(tmp_path / "w.pth", architecture="timm:convnext_atto")
    assert all(torch.equal(tensor, own[name]) for name, tensor in found.items())
    assert (taken.how, taken.key) == ("timm", "model")


def test_fastais_parts_of_a_network_of_torchvision_are_matched(tmp_path: Path) -> None:
    whole = models.resnet18(num_classes=3)
    learned = nn.Sequential(nn.Sequential(*list(whole.children())[:-2]), nn.Sequential(nn.Linear(512, 3)))
    torch.save({"model": learned.state_dict(), "opt": optimizer()}, tmp_path / "w.pth")
    for library in ("torchvision", "timm"):
        found, taken = opened(tmp_path / "w.pth", architecture=f"{library}:resnet18")
        assert all(torch.equal(tensor, whole.state_dict()[name]) for name, tensor in found.items())
        assert taken.how == "order"


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: dict(reversed(tensors.items())),
        lambda tensors: {name: tensor for name, tensor in tensors.items() if name != "0.1.bias"},
        lambda tensors: tensors | {f"2.{name}": tensor for name, tensor in tensors.items()},
    ],
    ids=["another order", "one is missing", "twice"],
)
def test_numbered_parts_that_fit_nowhere_or_twice_are_refused(
    tmp_path: Path, change: Callable[[Weights], Weights]
) -> None:
    torch.save({"model": change(numbered())}, tmp_path / "w.pth")
    with pytest.raises(BackboneError, match=r"numbers the parts of its network, as fastai does, .*python:MODULE"):
        opened(tmp_path / "w.pth")


def test_names_of_another_library_are_refused_with_what_they_are(tmp_path: Path) -> None:
    names = {
        "vit.embeddings.cls_token": torch.zeros(1, 1, 64),
        "vit.encoder.layer.0.output.dense.bias": torch.zeros(64),
    }
    torch.save(names, tmp_path / "pytorch_model.bin")
    with pytest.raises(
        BackboneError, match=r"1 of 78 tensors match .*, vit.encoder.*dense.bias unexpected; name the arch"
    ):
        opened(tmp_path / "pytorch_model.bin", architecture="timm:test_vit")


def test_positions_of_another_image_size_are_interpolated_by_timm_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    large = timm.create_model("test_vit", img_size=96, num_classes=0).state_dict()
    torch.save(large, tmp_path / "w.pth")
    found, taken = opened(tmp_path / "w.pth", architecture="timm:test_vit")
    assert taken.resampled == ["pos_embed from 96 px to 160 px"]
    assert "timm interpolated pos_embed from 96 px to 160 px: set backbone.input_px to keep" in capsys.readouterr().out
    assert all(torch.equal(tensor, large[name]) for name, tensor in found.items() if name != "pos_embed")
    source = f"file:{tmp_path / 'w.pth'}@timm:test_vit"
    kept = open_backbone(source, input_px=96).module.state_dict()
    assert all(torch.equal(tensor, large[name]) for name, tensor in kept.items())


def test_positions_of_another_image_size_are_refused_for_torchvision_with_both_sizes(tmp_path: Path) -> None:
    with torch.device("meta"):
        shapes = models.vit_b_32(image_size=384).state_dict()
    torch.save({name: torch.zeros(()).expand(tensor.shape) for name, tensor in shapes.items()}, tmp_path / "w.pth")
    with pytest.raises(BackboneError, match=r"are for images of 384 px, and vit_b_32 is for 224 px: encoder\.pos_"):
        opened(tmp_path / "w.pth", architecture="torchvision:vit_b_32")


def test_what_the_stage_prints_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(FORMS["timm with a Namespace and an average"].make() | {"a\nb": 1}, tmp_path / "w.pth")  # type: ignore[operator]
    opened(tmp_path / "w.pth")
    path = tmp_path / "w.pth"
    other = f"file:{path}#state_dict_ema@{ARCHITECTURE}"
    line = (
        f"file:{path}@{ARCHITECTURE}: the network's {len(weights()) - 2} tensors are in state_dict; not used, though "
        f"they hold this network: {other}; not used: fc (2 tensors), arch, args, a\\nb"
    )
    assert capsys.readouterr().out.splitlines() == [line]


def test_a_key_that_is_no_text_of_unicode_is_kept_by_its_escape(tmp_path: Path) -> None:
    torch.save({"net": weights(), "\ud800": 1}, tmp_path / "w.pth")
    assert opened(tmp_path / "w.pth")[1].unused == ["\\ud800"]


def test_the_stage_keeps_what_was_taken(workspace: Path, params_text: str, capsys: pytest.CaptureFixture[str]) -> None:
    form = FORMS["timm with a Namespace and an average"]
    torch.save(form.make(), workspace / "w.pth")
    tree = yaml.safe_load(params_text)
    tree["backbone"] = {"source": f"file:w.pth#state_dict_ema@{ARCHITECTURE}", "sha256": None}
    (workspace / "params.yaml").write_text(yaml.safe_dump(tree))
    code.write(code.FOLDER, code.running(), only=["backbone"])
    stage.main()
    kept = facts.read(Path("models/backbone/model.json"), BackboneFacts).taken
    assert kept is not None
    assert (kept.key, kept.also) == ("state_dict_ema", ["state_dict"])
    assert_equal(load_backbone(Path("models/backbone"), in_channels=3).module.state_dict(), weights(0.5))
    assert "file:w.pth#state_dict_ema@timm:test_resnet: the network's" in capsys.readouterr().out


class Learner:
    """As fastai exports it: the network is an attribute."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model


def test_numbers_of_torch_only_are_read_from_arrays(tmp_path: Path) -> None:
    arrays = {"a": np.arange(6, dtype=">f4").reshape(2, 3), "b": np.asfortranarray(np.arange(6).reshape(2, 3))}
    others = {"text": np.array(["x"]), "objects": np.array([{}], dtype=object), "times": np.array([1], "M8[s]")}
    torch.save(arrays | others, tmp_path / "w.pth")
    found = read_tensors(tmp_path / "w.pth")
    assert found.keys() == arrays.keys()
    assert all(np.array_equal(found[name].numpy(), array) for name, array in arrays.items())


def convertible(name: str) -> Any:
    """Return what is refused with a line that writes its weights alone."""
    return {
        "whole": network(),
        "whole, within": {"model": None, "ema": network(), "optimizer": optimizer()},
        "an attribute": Learner(network()),
        "an enum": {"net": weights(), "stage": Stage.LAST},
    }[name]


@pytest.mark.parametrize(
    ("name", "is_zip"),
    [
        ("whole", True),
        ("whole, within", False),
        ("an attribute", True),
        ("an enum", True),
    ],
)
def test_what_is_refused_is_named_and_the_line_in_the_error_converts_it(
    tmp_path: Path, root: Path, name: str, is_zip: bool
) -> None:
    path = tmp_path / "it's a $(file).pth"
    torch.save(convertible(name), path, _use_new_zipfile_serialization=is_zip)
    named = f"would call {__name__}.Stage" if name == "an enum" else r"holds .*timm\.models\.resnet\.ResNet"
    with pytest.raises(BackboneError, match=rf"{named}.*; if you trust who wrote it, .*: python -c ") as caught:
        opened(path)
    text = str(caught.value)
    assert "\n" not in text
    assert "bring it again" not in text
    assert_equal(opened(converted(text, path, root))[0], weights())


def converted(text: str, path: Path, root: Path) -> Path:
    """Run the line in an error, and return the file that it writes."""
    line = text[text.index("python -c ") :]
    assert shlex.split(line)[:2] == ["python", "-c"]
    subprocess.run([sys.executable, *shlex.split(line)[1:]], check=True, cwd=root)
    return path.with_name(f"{path.stem}-weights.pth")


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_a_network_of_torch_jit_is_named_and_the_line_in_the_error_converts_it(tmp_path: Path, root: Path) -> None:
    traced = torch.jit.trace(network().eval(), torch.zeros(1, 3, 64, 64))  # type: ignore[no-untyped-call]
    torch.jit.save(traced, tmp_path / "w.pt")
    with pytest.raises(
        BackboneError, match=r"is a network of torch\.jit, code and weights; write its weights"
    ) as caught:
        opened(tmp_path / "w.pt")
    assert_equal(opened(converted(str(caught.value), tmp_path / "w.pt", root))[0], weights())


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("of_numpy", [True, False])
def test_a_pickle_of_no_trainer_is_named_and_the_line_in_the_error_converts_it(
    tmp_path: Path, root: Path, protocol: int, of_numpy: bool
) -> None:
    path = tmp_path / "w.pkl"
    value = {name: tensor.numpy() if of_numpy else tensor for name, tensor in weights().items()}
    path.write_bytes(pickle.dumps({"model": value}, protocol=protocol))
    with pytest.raises(BackboneError, match=r"is a pickle that torch\.save did not write; if you trust") as caught:
        opened(path)
    assert_equal(opened(converted(str(caught.value), path, root))[0], weights())


def test_a_newer_protocol_is_named_and_the_line_in_the_error_converts_it(tmp_path: Path, root: Path) -> None:
    torch.save({"net": weights()}, tmp_path / "w.pth", pickle_protocol=4)
    with pytest.raises(BackboneError, match=r"is written with pickle protocol 4, and only 2 is read") as caught:
        opened(tmp_path / "w.pth")
    assert_equal(opened(converted(str(caught.value), tmp_path / "w.pth", root))[0], weights())


def _tar(*names: str) -> bytes:
    file = BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    return file.getvalue()


def _npz() -> bytes:
    file = BytesIO()
    np.savez_compressed(file, bias=np.zeros(3))
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.npz", _npz(), "is an archive of numpy, as JAX writes it, .*m.load_pretrained"),
        (
            "w.pth",
            _tar("sys_info", "pickle", "storages", "tensors"),
            "is a tar, which torch wrote before 0.4; .*python -c",
        ),
        ("w.tar", _tar("a.pth"), "is a tar; unpack it, and name the file of weights in it"),
        ("w.h5", b"\x89HDF\r\n\x1a\n" + bytes(90), "is a file of HDF5, as Keras writes it; export the network to ONNX"),
        (
            "w.bin",
            b"version https://git-lfs.github.com/spec/v1\noid",
            "is a pointer that git LFS left .* `git lfs pull`",
        ),
        ("w.pth.gz", b"\x1f\x8b\x08" + bytes(90), "is compressed by gzip; unpack it with gunzip"),
        ("w.onnx", b"\x08\x07\x12\x07pytorch", "is a network in ONNX; set backbone.source to onnx:"),
        ("w.pth", b"", "is empty; bring it again from its source"),
        ("w.pth", b"<!DOCTYPE html>", "is no file of torch or safetensors: it begins with .*; bring it again"),
    ],
)
def test_other_files_are_named_with_their_way_out(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BackboneError, match=message) as caught:
        opened(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_distributed_checkpoint_is_named_with_the_command_that_makes_one_file_of_it(tmp_path: Path) -> None:
    (tmp_path / "step 3").mkdir()
    (tmp_path / "step 3" / "__0_0.distcp").touch()
    with pytest.raises(BackboneError, match=r"is a distributed checkpoint; .* dcp_to_torch '.*step 3' '.*step 3\.pth'"):
        opened(tmp_path / "step 3")
