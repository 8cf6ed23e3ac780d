"""Bring the pretrained weights, check their hash, store them. Run by `dvc repro`, or `python -m stages.backbone`."""

from pathlib import Path

from safetensors.torch import save_file

from thaw.networks.backbone import assemble
from thaw.networks.sources.opening import fetch, taken_by
from thaw.networks.sources.pinning import check_parent
from thaw.pipeline import artifacts, facts, guard
from thaw.pipeline.model_facts import BackboneFacts

SECTIONS = ("backbone", "head")  # of head only the pooling, which DVC cannot name alone: it may be left out
INPUTS = ()
OUTS = ("models/backbone",)


def main() -> None:
    """Write models/backbone: weights.safetensors and model.json."""
    with guard.stage("backbone", sections=SECTIONS, inputs=INPUTS, outs=OUTS) as params:
        source, sha256, pretrained = params.backbone.source, params.backbone.sha256, params.backbone.pretrained
        spec, found = fetch(source, sha256=sha256, pretrained=pretrained)
        if sha256 is None:
            check_parent(source, spec)
        keep, taps, pool = params.backbone.keep, params.backbone.taps, params.head.pool
        spec = spec.with_input_size(params.backbone.input_px).truncated(keep, taps, pool)
        asked = params.backbone.asked_channels
        spec = spec.with_channels(asked or spec.in_channels).normalised(params.backbone.mean, params.backbone.std)
        backbone = assemble(spec, found.tensors)
        if sha256 is None and pretrained:
            print(
                f"{source} has SHA-256 {spec.sha256}; set backbone.sha256 to it, so that nothing else is ever accepted"
            )
        stored = BackboneFacts(
            source=source,
            in_channels=asked,
            backbone=spec,
            blocks=backbone.blocks,
            features=backbone.num_features,
            taken=taken_by(found, source, backbone),
        )
        with artifacts.new_folder(Path(OUTS[0])) as folder:
            save_file(
                {name: value.contiguous() for name, value in backbone.module.state_dict().items()},
                folder / "weights.safetensors",
            )
            facts.write(folder / "model.json", stored)


if __name__ == "__main__":
    guard.main(main)
