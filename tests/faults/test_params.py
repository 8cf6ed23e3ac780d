"""Every way to get params.yaml wrong: one line a mistake, all of them at once, and each says what is allowed."""

import re
from pathlib import Path

import pytest
import yaml

from thaw.config.reader import load_params
from thaw.errors import ParamsError


def _mistakes(folder: Path, text: str | bytes) -> list[str]:
    path = folder / "params.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ParamsError) as caught:
        load_params(path)
    return str(caught.value).splitlines()


def _edited(valid: str, pattern: str, replacement: str) -> str:
    text, count = re.subn(pattern, replacement, valid, count=1)
    assert count == 1, pattern
    return text


@pytest.mark.parametrize(
    ("pattern", "replacement", "expected"),
    [
        (r"lr: 0\.0005", "lr: 0", "unfreeze.phases.top.lr is 0; it must be above 0"),
        (r"lr: 0\.0005", "lr: -0.1", "unfreeze.phases.top.lr is -0.1; it must be above 0"),
        (r"lr: 0\.0005", "lr: .nan", "unfreeze.phases.top.lr is NaN; it must be a finite number"),
        (r"lr: 0\.0005", "lr: .inf", "unfreeze.phases.top.lr is Infinity; it must be a finite number"),
        (r"lr: 0\.0005", "lr: fast", 'unfreeze.phases.top.lr is "fast"; it must be a number'),
        (r"lr: 0\.0005", "lr: true", "unfreeze.phases.top.lr is true; it must be a number"),
        (r"lr: 0\.0005", "lr: ", "unfreeze.phases.top.lr is null; it must be a number"),
        (r"size_px: 256", "size_px: true", "prepare.size_px is true; it must be a whole number"),
        (r"size_px: 256", "size_px: 256.0", "prepare.size_px is 256.0; it must be a whole number"),
        (r"size_px: 256", "size_px: 8", "prepare.size_px is 8; it must be at least 16"),
        (r"size_px: 256", "size_px: 4096", "prepare.size_px is 4096; it must be at most 2048"),
        (r"fit: crop", "fit: kropp", 'prepare.fit is "kropp"; it must be crop, pad or squash'),
        (r"seed: 0", "seed: -1", "seed is -1; it must be at least 0"),
        (r"raw: \S+", "raw: 7", "data.raw is 7; it must be text; put it in quotes if it looks like a number"),
        (r"raw: \S+", "raw: ''", 'data.raw is ""; it must be text of at least one character'),
        (r"sha256: null", "sha256: abc", 'backbone.sha256 is "abc"; it must be null or the 64 small hex digits'),
        (
            r"source: \S+",
            "source: resnet",
            "it must be package:NAME, timm:NAME[.TAG], torchvision:NAME",
        ),
        *(
            (
                r"fit: crop",
                f"fit: crop\n  value_range: {text}",
                "it must be [low, high] with low below high, or a list of",
            )
            for text in ("5", "[]", "[1]", "[2, 1]", "[1, 1]", "[0, .inf]", "[a, b]", "[[0, 1], 2]", "[[0, 1], [1, 0]]")
        ),
        (r"input_px: null", "input_px: null\n  in_channels: 0", "backbone.in_channels is 0; it must be at least 1"),
        (r"input_px: null", "input_px: null\n  mean: 0.5", "backbone.mean is 0.5; it must be a list such as"),
        (r"input_px: null", "input_px: null\n  mean: []", "backbone.mean is []; list should have at least 1 item"),
        (r"input_px: null", "input_px: null\n  mean: [128]", "backbone.mean.0 is 128; it must be at most 1"),
        (r"input_px: null", "input_px: null\n  mean: ['0.5']", "backbone.mean.0 is"),
        (r"input_px: null", "input_px: null\n  std: [0]", "backbone.std.0 is 0; it must be above 0"),
        (
            r"input_px: null",
            "input_px: null\n  in_channels: 4\n  std: [0.1, 0.2]",
            "backbone.in_channels is 4, but backbone.std has 2; give one for each channel of the images",
        ),
        (
            r"input_px: null",
            "input_px: null\n  mean: [0.5, 0.5, 0.5]\n  std: [0.1, 0.2]",
            "backbone.mean has 3 values, but backbone.std has 2; give one for each channel of the images",
        ),
        (r"depth: 3", "depth: auto", "unfreeze.phases.top.depth is auto, but advise.images is 0, so that nothing is"),
        (
            r"images: 0",
            "images: 640",
            "advise.images is 640, but no phase has depth: auto, which would follow the advice",
        ),
        (r"images: 0", "images: -1", "advise.images is -1; it must be at least 0"),
        (r"hidden: \[\]", "hidden: 512", "head.hidden is 512; it must be a list such as [512]"),
        (r"hidden: \[\]", "hidden: [512, 0]", "head.hidden.1 is 0; it must be at least 1"),
        (
            r"depth: 3",
            "depth: true",
            "top.depth is true; it must be a whole number from 1, a share of the blocks",
        ),
        (r"depth: 3", "depth: 0", "unfreeze.phases.top.depth is 0; it must be a whole number from 1, a share of"),
        (
            r"depth: 3",
            "depth: 2.5",
            "unfreeze.phases.top.depth is 2.5; it must be a whole number from 1",
        ),
        *(
            (r"depth: 3", f"depth: {text}", f'top.depth is "{text}"; a share of the blocks must be two whole numbers')
            for text in ("0/3", "4/3", "1/0", "-1/3", "0.5/2", "1 / 3")
        ),
        (r"defaults: {}", "defaults: {start: head}", "unfreeze.defaults.start is not a known key"),
        (r"defaults: {}", "defaults: {epoch: 3}", "unfreeze.defaults.epoch is not a known key; did you mean epochs?"),
        (r"defaults: {}", "defaults: null", "unfreeze.defaults is null; it must be a section with keys of its own, or"),
        (r"defaults: {}", "defaults: {ema: 2}", "unfreeze.defaults.ema is 2; it must be below 1"),
        (r"defaults: {}", "defaults: {l2_sp: -1}", "unfreeze.defaults.l2_sp is -1; it must be at least 0"),
        (
            r"\n  defaults: {}",
            "",
            "unfreeze lacks defaults; DVC wants every section but compare and compute there, if only as",
        ),
        (r"warm_start: true", "warm_start: 1", "top.warm_start is 1; it must be true, false or auto"),
        (r"warm_start: true", "refit: true", "top.refit is called unfreeze.phases.top.warm_start now; rename it"),
        (r"  tta: true", "  average: true", "augment.average is called augment.tta now; rename it"),
        (r"min_win_rate: 0.6", "confidence: 0.6", "select.confidence is called select.min_win_rate now; rename it"),
        (r"lr: 0.0005", "lr: 0", "unfreeze.phases.top.lr is 0; it must be above 0"),
        (r"lr: 0.0005", "lr: fast", 'unfreeze.phases.top.lr is "fast"; it must be a number above 0, or auto'),
        (r"lr: 0.0005", "lr: null", "unfreeze.phases.top.lr is null; it must be a number above 0, or auto"),
        (r"lr: 0.0005", "lr: [auto]", 'unfreeze.phases.top.lr is ["auto"]; it must be a number above 0, or auto'),
        (r"depth: 3", "depth: [3]", "unfreeze.phases.top.depth.0 is 3; it must be a section with keys of its own"),
        (r"depth: 3", "depth: [{pattern: a, lr: 0}]", "unfreeze.phases.top.depth.0.lr is 0; it must be above 0"),
        (r"depth: 3", "depth: [{patt: a, lr: null}]", "top.depth.0.patt is not a known key; did you mean pattern?"),
        (
            r"depth: 3",
            "depth: 3\n      class_weights: equal",
            'top.class_weights is "equal"; it must be none or balanced',
        ),
        (r"depth: 3", "depth: 3\n      class_weights: {a: 0}", "top.class_weights.a is 0; it must be above 0"),
        (
            r"depth: 3",
            "depth: 3\n      unfreeze_every: 9",
            "the last of 3 blocks would begin to train in epoch 19 of 4",
        ),
        (
            r"batch_size: 32",
            "batch_size: 1\n      cutmix: 0.5",
            "top.cutmix is 0.5, but a batch_size of 1 leaves nothing to mix with; raise batch_size",
        ),
        (r"depth: 3", "depht: 3", "unfreeze.phases.top.depht is not a known key; did you mean depth?"),
        (r"depth: 3", "zzz: 3\n      depth: 3", "unfreeze.phases.top.zzz is not a known key; remove it"),
        (r"\n      depth: 3", "", "unfreeze.phases.top lacks depth; docs/guide/params.md lists every key"),
        (r"\nevaluate:", "\nevalaute:", "evalaute is not a known key; did you mean evaluate?"),
        (r"    top:", "    Top:", "unfreeze.phases.Top: the name must be a small letter followed by"),
        (r"features:\n  views: 4", "features: null", "features is null; it must be a section with keys of its own"),
        (r"device: auto", "device: gpu", 'compute.device is "gpu"; it must be auto, cpu, mps, cuda or cuda:NUMBER'),
        (r"test_fraction: 0.25", "test_fraction: 0.95", "together they must stay below 1"),
        (
            r"input_px: null",
            "input_px: 300",
            "backbone.input_px is 300, more than the 256 px that prepare.size_px packs",
        ),
        (
            r"start: top",
            "start: topp",
            'mid.start is "topp"; it must be head or the name of another phase; did you mean',
        ),
        (r"start: top", "start: mid", "unfreeze.phases.mid.start leads round in a circle: mid -> mid; start one from"),
        (
            r"start: head",
            "start: mid",
            "unfreeze.phases.mid.start leads round in a circle: mid -> top -> mid; start one",
        ),
        (
            r"depth: 6",
            "depth: 2",
            "mid.depth is 2, less than that of top, from which it starts (3); unfreezing goes from",
        ),
        (
            r"depth: 3",
            "depth: all",
            "mid.depth is 6, less than that of top, from which it starts (all); unfreezing goes",
        ),
        (r"    mid:", "    head:", "unfreeze.phases.head: the name head is taken by the stage before all phases"),
    ],
)
def test_a_mistake_gets_one_line_with_path_value_and_what_is_allowed(
    params_text: str, tmp_path: Path, pattern: str, replacement: str, expected: str
) -> None:
    lines = _mistakes(tmp_path, _edited(params_text, pattern, replacement))
    assert [line for line in lines if expected in line] != [], lines
    assert all(line.startswith("params.yaml: ") for line in lines)
    assert len(lines) == 1 + (pattern == r"    top:"), lines  # a phase that starts from the renamed one is wrong too


def test_mistakes_between_fields_are_told_together_with_those_in_fields(tmp_path: Path, params_text: str) -> None:
    text = _edited(params_text, "seed: 0", "seed: minus")
    text = text.replace("test_fraction: 0.25", "test_fraction: 0.95").replace("start: top", "start: nowhere")
    text = text.replace("weight_decay: 0.01", "weight_decay: 3", 1).replace("cache_gib: 8.0", "cache_gb: 8.0")
    lines = _mistakes(tmp_path, text.replace("input_px: null", "input_px: 999"))
    for path in ("seed", "weight_decay", "cache_gb", "test_fraction", "mid.start", "input_px"):
        assert len([line for line in lines if path in line]) == 1, path
    assert len(lines) == 6


@pytest.mark.parametrize("wrong", ["ema: 2", "epoch: 3", "depth: 0", "lr: fast", "lr: null", "depth: [{patt: a}]"])
def test_a_mistake_in_the_defaults_of_phases_is_told_once_and_there(
    tmp_path: Path, params_text: str, wrong: str
) -> None:
    tree = yaml.safe_load(params_text)
    for key in ("depth", "lr"):
        for phase in tree["unfreeze"]["phases"].values():
            del phase[key]
    tree["unfreeze"]["defaults"] = {"depth": 3, "lr": 0.001} | yaml.safe_load(f"{{{wrong}}}")
    lines = _mistakes(tmp_path, yaml.safe_dump(tree))
    assert lines
    assert all(line.startswith("params.yaml: unfreeze.defaults.") for line in lines), lines
    assert len([line for line in lines if "lacks" not in line]) == 1


def test_keys_that_a_section_lacks_are_told_in_one_line(tmp_path: Path) -> None:
    lines = _mistakes(tmp_path, "seed: 0\nunfreeze: {defaults: {}, phases: {top: {start: head}}}\n")
    assert len(lines) == 2
    assert (
        "the file lacks data, prepare, backbone, augment, features, head, advise, select, evaluate, export; DVC wants"
        in lines[0]
    )
    assert "if only as export: {}; docs/guide/params.md lists every key" in lines[0]
    assert lines[1].endswith("unfreeze.phases.top lacks depth, lr; docs/guide/params.md lists every key")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (".5e3", "write 500.0"),
        ("+.5e3", "write 500.0"),
        ("012", "write 12"),
        ("-0x1F", "put it in quotes"),
        ("no", "write true or false, or put the text in quotes"),
        ("Yes", "write true or false"),
        ("0b11", "put it in quotes"),
        ("017", "write 17"),
        ("1_000", "write 1000"),
        ("9" * 5000, "holds a number that cannot be read"),
        ("1:30", "put it in quotes"),
        ("2026-11-22", "put it in quotes"),
        ("!!python/object/apply:os.system [touch canary]", "is not allowed; write a plain value"),
        ("!!int '0o7'", "is not allowed on quoted text"),
        ("!!binary aGk=", "is not allowed; write a plain value"),
        ("!!map [1]", "is not valid YAML"),
        ("!!set {a}", "is not allowed; write a plain value"),
        ("&a 1", None),
        ("*a", "is not valid YAML"),
        ("[1", "is not valid YAML"),
        ("{? [a, b] : c}", "is not text; keys are names"),
        ("{1: a}", "is not text; keys are names"),
        ("{a: 1, a: 2}", "the key 'a' stands twice; keep one of them"),
        ("{<<: {a: 1}}", "<< is read differently"),
        ("[&x [1], *x]", "anchors and aliases are not supported"),
        ("1\n---\nother: 2", "is not valid YAML"),
        ("\x00", "is not valid YAML"),
        ("[" * 5000 + "]" * 5000, "is nested too deeply"),
    ],
)
def test_yaml_that_parsers_disagree_about_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, expected: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = _mistakes(tmp_path, f"seed: {value}\n")
    if expected is not None:
        assert any(expected in line for line in lines), lines
        assert all(line.startswith("params.yaml") and len(line) < 400 for line in lines)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "must be a mapping of sections"),
        (b"# nothing\n", "must be a mapping of sections"),
        (b"- 1\n- 2\n", "must be a mapping of sections"),
        (b"seed\n", "must be a mapping of sections"),
        (b"\xff\xfe\x00", "is not UTF-8"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, content: bytes, expected: str) -> None:
    (line,) = _mistakes(tmp_path, content)
    assert expected in line


def test_all_ambiguous_values_are_told_at_once_in_the_order_of_their_lines(tmp_path: Path) -> None:
    lines = _mistakes(tmp_path, "a: 1_0\nb: yes\nc: {d: 07}\nb: 1\n")
    assert [line.split(":")[1].strip() for line in lines] == ["line 1", "line 2", "line 3", "line 4"]


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").mkdir()
    with pytest.raises(ParamsError, match="cannot be read: Is a directory"):
        load_params(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        (
            {"raw: data/sample/images": "raw: photos\n  labels: data/images"},
            (
                "data.labels is data/images, and data.raw is photos; set data.labels to photos, whose folders or "
                "manifest have the labels, or to a CSV"
            ),
        ),
        (
            {"raw: data/sample/images": "raw: photos.csv\n  labels: labels.csv"},
            "data.labels is labels.csv, and data.raw is photos.csv, a CSV that has labels; set data.raw to the folder",
        ),
        (
            {"raw: data/sample/images": "raw: photos\n  labels: photos/labels.csv"},
            (
                "data.labels is photos/labels.csv, which lies among the images of data.raw; move it elsewhere, where "
                "git keeps it"
            ),
        ),
        (
            {"hidden: []": "hidden: [512]\n  kind: linear"},
            "head.kind is linear, which has no hidden layers, and head.hidden is [512]; set it to []",
        ),
        (
            {"hidden: []": "hidden: [512]\n  kind: cosine"},
            "head.kind is cosine, which has no hidden layers, and head.hidden is [512]; set it to []",
        ),
        (
            {"hidden: []": "hidden: []\n  kind: mlp"},
            "head.kind is mlp, and head.hidden names no layer; write their widths, such as [512]",
        ),
        (
            {"hidden: []": "hidden: [8]\n  grow_from: model:cars"},
            "head.grow_from is set, and only a linear or a cosine head grows; set head.hidden to []",
        ),
        (
            {"sha256: null": "sha256: null\n  pretrained: false", "package:efficientnet_lite0": "model:cars"},
            (
                'backbone.pretrained is false, and backbone.source "model:cars" names weights that would not be used; '
                "name the architecture alone, such as timm:NAME"
            ),
        ),
        (
            {"sha256: null": "sha256: null\n  taps: [a, b, a]"},
            "backbone.taps names a more than once; name each block once",
        ),
        (
            {"sha256: null": "sha256: null\n  taps: [all, b]"},
            "backbone.taps names all, which stands for every block, beside others; write [all]",
        ),
        (
            {"depth: 3": "depth: [{pattern: a, lr: 0.1}]", "lr_scale: 1.0": "lr_scale: 0.5"},
            "unfreeze.phases.top.lr_scale is 0.5, but depth is a list of rules, and each names its rate; set it to 1.0",
        ),
        (
            {"depth: 3": "depth: [{pattern: a, lr: 0.1}]\n      unfreeze_every: 1"},
            "unfreeze.phases.top.unfreeze_every is 1, but depth is a list of rules, which act at once; set it to 0",
        ),
        (
            {"depth: 3": "depth: 1\n      unfreeze_every: 1"},
            "unfreeze.phases.top.unfreeze_every is 1, but only one block trains; set it to 0",
        ),
        (
            {"depth: 3": "depth: 3\n      class_weights: balanced\n      balanced_sampler: true"},
            "unfreeze.phases.top balances the classes twice, by class_weights and balanced_sampler; keep one of them",
        ),
        (
            {"folds: auto": "folds: 1\n  final: ensemble"},
            "select.final is ensemble, but select.folds is 1, which trains one network; set select.final to refit",
        ),
    ],
)
def test_a_key_that_would_do_nothing_is_a_mistake(
    tmp_path: Path, params_text: str, edits: dict[str, str], expected: str
) -> None:
    text = params_text
    for old, new in edits.items():
        assert old in text
        text = text.replace(old, new, 1)
    assert _mistakes(tmp_path, text) == [f"params.yaml: {expected}"]


def test_dropout_of_a_solved_head_wants_a_phase(tmp_path: Path, params_text: str) -> None:
    text = params_text.replace("dropout: 0.0", "dropout: 0.2", 1)
    (tmp_path / "params.yaml").write_text(text)
    load_params(tmp_path / "params.yaml")
    above, below = text[: text.index("unfreeze:")], text[text.index("select:") :]
    without = f"{above}unfreeze:\n  defaults: {{}}\n  phases: {{}}\n\n{below}"
    (line,) = _mistakes(tmp_path, without)
    assert line == (
        "params.yaml: head.dropout is 0.2, but this head is not trained by steps, and there are no phases that would; "
        "set it to 0.0"
    )
