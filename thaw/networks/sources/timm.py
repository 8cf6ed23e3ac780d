"""The source `timm:NAME[.TAG]`: architectures of timm, with their weights on the Hugging Face hub."""

from thaw.errors import BackboneError
from thaw.networks.sources.download import nearest
from thaw.networks.spec import Spec


def describe(name: str) -> Spec:
    """Return the Spec of `NAME[.TAG]` in timm. Raises: BackboneError with the nearest names."""
    import timm

    architecture = name.partition(".")[0]
    if architecture not in timm.list_models():
        raise BackboneError(f"timm has no model {architecture!r}{nearest(architecture, timm.list_models())}")
    known = timm.list_pretrained(f"{architecture}*")
    if "." in name and name not in known:
        raise BackboneError(f"timm has no weights {name!r}{nearest(name, known)}")
    config = timm.get_pretrained_cfg(name)
    assert config is not None
    return Spec(
        library="timm",
        name=architecture,
        input_px=config.input_size[-1],
        mean=tuple(config.mean),
        std=tuple(config.std),
        interpolation=config.interpolation,
        license=config.license or "unknown",
        url=f"https://huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else str(config.url or ""),
        sha256="",
    )
