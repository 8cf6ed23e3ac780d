"""Images a second through a whole frozen network: ONNX Runtime as Thaw runs it, against torch in eager mode.

    python -m bench.prefix                                      EfficientNet-Lite0 and ResNet-50: about 6 minutes
    python -m bench.prefix --sources timm:test_resnet --rounds 1 --batches 1 --images 4

Compared, on the same batches of generated pictures, a number of batches a side in each round after a warm-up: eager in
the default memory format (NCHW), eager in channels_last, and `thaw.activations.engine.Engine`. Rates are medians
over the rounds, ratios are those of the medians to eager channels_last, a difference is a fraction of the features'
largest magnitude. Weights that lie in a package are used; others are random, which costs the same. Needs nothing but
the installation; the ONNX file is exported before anything is timed.
"""

import argparse
import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from bench import _tools
from bench._photos import photo
from thaw.activations.engine import Engine, use_threads
from thaw.config.reader import load_params
from thaw.config.schema import ComputeParams
from thaw.networks.backbone import Backbone
from thaw.networks.sources.opening import open_backbone
from thaw.networks.spec import Spec

_SOURCES = ("package:efficientnet_lite0", "torchvision:resnet50")
_WARM_UP = 2

Run = Callable[[Tensor], np.ndarray[tuple[int, ...], np.dtype[np.float32]]]


def main() -> None:
    """Measure each network and print one JSON line: images a second, ratios and differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", nargs="+", default=_SOURCES, help="networks, as backbone.source names them")
    parser.add_argument("--rounds", type=int, default=7, help="how often each side is measured")
    parser.add_argument("--batches", type=int, default=4, help="batches a side in a round")
    parser.add_argument("--images", type=int, default=32, help="images in a batch")
    given = parser.parse_args()
    compute = load_params().compute
    _tools.report(
        "prefix",
        lambda: {
            "images_in_batch": given.images,
            "rounds": given.rounds,
            "networks": {
                source: measure(source, compute, num_rounds=given.rounds, num_batches=given.batches, size=given.images)
                for source in given.sources
            },
        },
    )


def measure(source: str, compute: ComputeParams, *, num_rounds: int, num_batches: int, size: int) -> _tools.Facts:
    """Return the rates of one network, their ratios to eager channels_last, and how far the sides differ."""
    use_threads(compute)
    with _tools.empty_scratch():
        sides, batch = _sides(source, compute, size)
        answers = {name: run(batch) for name, run in sides.items()}
        for run in sides.values():
            _rate(run, batch, _WARM_UP)
        timed = {name: functools.partial(_rate, run, batch, num_batches) for name, run in sides.items()}
        found = [_tools.in_turn(timed, number) for number in range(num_rounds)]
    return summary(found) | {
        "largest_difference": {
            name: difference(answers[name], answers["eager_channels_last"]) for name in ("eager", "onnxruntime")
        }
    }


def summary(found: list[_tools.Facts]) -> _tools.Facts:
    """Return the median rate of each side, its ratio to eager channels_last, and all rates, in images a second."""
    rates = {name: _tools.median(found, name) for name in found[0]}
    return {
        "images_per_second": {name: round(rate, 1) for name, rate in rates.items()},
        "ratio": {name: round(rate / rates["eager_channels_last"], 2) for name, rate in rates.items()},
        "each_round": [{name: round(rate, 1) for name, rate in entry.items()} for entry in found],
    }


def difference(ours: np.ndarray, reference: np.ndarray) -> float:
    """Return the largest difference as a fraction of the reference's largest magnitude."""
    return float(f"{np.abs(ours - reference).max() / max(np.abs(reference).max(), 1e-12):.2g}")


def _sides(source: str, compute: ComputeParams, size: int) -> tuple[dict[str, Run], Tensor]:
    """Return what is compared, each side with a network of its own, and the batch that goes through all of them."""
    last = _network(source)
    plain = _network(source).module.to(memory_format=torch.contiguous_format)
    batch = pictures(last.spec, size)
    whole, _ = last.split(0)
    chosen = compute.model_copy(update={"frozen_engine": "onnxruntime", "device": "cpu"})
    engine = Engine(whole, batch, key=source, compute=chosen, num_images=size)
    sides: dict[str, Run] = {
        "eager": functools.partial(_eager, plain, torch.contiguous_format),
        "eager_channels_last": functools.partial(_eager, last.module, torch.channels_last),
        "onnxruntime": lambda images: engine(images)[0],
    }
    return sides, batch


def _network(source: str) -> Backbone:
    torch.manual_seed(0)
    return open_backbone(source, pretrained=source.startswith("package:"))


def pictures(spec: Spec, num_images: int) -> Tensor:
    """Return generated pictures as the network takes them, channels last in memory as Thaw renders them."""
    pixels = torch.from_numpy(np.stack([photo(number, spec.input_px) for number in range(num_images)]))
    scaled = (pixels.float() / 255 - torch.tensor(spec.mean)) / torch.tensor(spec.std)
    return scaled.permute(0, 3, 1, 2)


@torch.inference_mode()
def _eager(module: nn.Module, memory_format: torch.memory_format, images: Tensor) -> np.ndarray:
    features: np.ndarray = module(images.contiguous(memory_format=memory_format)).numpy()
    return features


def _rate(run: Run, batch: Tensor, num_batches: int) -> float:
    """Return images a second over a number of batches."""
    return num_batches * len(batch) / _tools.seconds_of(lambda: [run(batch) for _ in range(num_batches)])


if __name__ == "__main__":
    main()
